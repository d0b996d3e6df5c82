"""The engine: requests in, one step at a time, tokens out. One thread at a time may call it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tritium.engine.batch import apportion
from tritium.engine.cache import BlockAllocator
from tritium.engine.computing import compute
from tritium.engine.config import EngineConfig
from tritium.engine.fair_share import FairShare
from tritium.engine.governor import Governor
from tritium.engine.grammar import GrammarCompiler
from tritium.engine.logprobs import first_token
from tritium.engine.monitor import InferenceMonitor
from tritium.engine.pacing import PromptPacer
from tritium.engine.pressure import Rung
from tritium.engine.recording import StepFigures
from tritium.engine.resources import read_memory
from tritium.engine.runnable import require_runnable
from tritium.engine.scheduler import Scheduler
from tritium.engine.sequence import Sequence
from tritium.engine.trace import TracedEngine
from tritium.engine.waiting_room import WaitingRoom
from tritium.engine.writing import TokenWriter
from tritium.errors import BitNetServiceError, ValidationError
from tritium.kernels.pages import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tritium.engine.computing import GeneratingModel
    from tritium.engine.grammar import Grammar, GrammarMatcher
    from tritium.engine.monitor import InferenceMetrics
    from tritium.engine.recording import TraceRecorder
    from tritium.engine.request import GenerationRequest, TokenOutput
    from tritium.engine.resources import MemoryReading
    from tritium.engine.turns import SchedulingPolicy
    from tritium.engine.yardstick import Yardstick
    from tritium.model.tokenizer import Tokenizer


class Engine:
    """Continuous batching over one model.

    A request's tokens do not depend on who shares its steps: kernels reduce in a fixed order, and random
    numbers belong to the request.

    Args:
        end_token_ids: tokens which end a text.
        policy: who comes first when there is not enough for all; None for fair shares of tenants.
        read_memory: returns the memory of this process; the engine makes do with less when it is short.
    """

    def __init__(
        self,
        model: GeneratingModel,
        *,
        tokenizer: Tokenizer,
        end_token_ids: Collection[int],
        config: EngineConfig | None = None,
        policy: SchedulingPolicy[Sequence] | None = None,
        read_memory: Callable[[], MemoryReading] = read_memory,
    ) -> None:
        self.config = config or EngineConfig()
        self.room = WaitingRoom(self.config)
        self.tokenizer = tokenizer
        self._model = model
        self._cache = self.config.new_cache(model.config)
        self._allocator = BlockAllocator(num_blocks=self._cache.num_blocks, block_size=BLOCK_SIZE)
        self._scheduler = Scheduler(
            self._allocator,
            policy=FairShare() if policy is None else policy,
            max_batched_tokens=self.config.max_batched_tokens,
            max_running=self.config.max_running,
            shares_prefixes=self.config.shares_prefixes,
        )
        self._grammars = GrammarCompiler(
            tokenizer, vocab_size=model.config.vocab_size, end_token_ids=tuple(end_token_ids)
        )
        self._sequences: dict[str, Sequence] = {}
        self._serial = 0
        self._monitor = InferenceMonitor()
        self._pacer = PromptPacer()
        self._writer = TokenWriter(
            scheduler=self._scheduler,
            monitor=self._monitor,
            tokenizer=tokenizer,
            end_token_ids=end_token_ids,
            threads=model.threads,
        )
        self.governor = Governor(
            self.config,
            scheduler=self._scheduler,
            allocator=self._allocator,
            cache=self._cache,
            room=self.room,
            read=read_memory,
        )
        self.recorder: TraceRecorder | None = None
        self.block_bytes = self._cache.block_bytes
        self.context_limit = min(
            self.config.max_context or model.config.max_positions,
            model.config.max_positions,
            self._cache.num_blocks * BLOCK_SIZE,
        )

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        return bool(self._sequences)

    @property
    def num_waiting(self) -> int:
        """Requests that hold no place in the batch yet."""
        return self._scheduler.num_waiting

    def validate(self, request: GenerationRequest) -> None:
        """Check that the request can run here at all; may be called from any thread.

        Raises:
            ValidationError: an empty prompt, or a token (of prompt or biases) outside the vocabulary.
            ContextLengthExceededError: prompt and answer can never fit.
        """
        require_runnable(
            request, tokenizer=self.tokenizer, model=self._model.config, limit=self.context_limit
        )

    def compile_grammar(self, grammar: Grammar) -> GrammarMatcher:
        """Return a matcher for one answer; may be called from any thread, and may take a moment.

        Raises:
            ValidationError: the grammar cannot be used, with the reason.
        """
        return self._grammars.compile(grammar)

    def add_request(self, request: GenerationRequest, *, grammar: GrammarMatcher | None = None) -> None:
        """Queue a request; `grammar` is its compiled grammar, if it has one and that was compiled before.

        Raises:
            ValidationError: it can never run here, or its id is in use.
            QueueFullError: too much waits already; who has a place in the `room` is not refused.
        """
        self.validate(request)
        if request.request_id in self._sequences:
            raise ValidationError("A request with this id is running already.", param="request_id")
        self.room.enter(request)
        if grammar is None and request.sampling.grammar is not None:
            try:
                grammar = self.compile_grammar(request.sampling.grammar)
            except BitNetServiceError:
                self.room.leave(request.request_id)
                raise
        self._serial += 1
        sequence = self._new_sequence(request, grammar=grammar)
        self._sequences[request.request_id] = sequence
        self._scheduler.add(sequence)

    def abort(self, request_id: str) -> TokenOutput | None:
        """Stop a request in whatever state; return its last output, or None if there is no such request."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return None
        sequence.finish_reason = "abort"
        return self._finish(sequence, text="", token_ids=())

    def fail_all(self, message: str) -> list[TokenOutput]:
        """End every request with an error and return their last outputs."""
        return [self._fail(sequence, message) for sequence in list(self._sequences.values())]

    def failed_output(self, request: GenerationRequest, message: str) -> TokenOutput:
        """Return the only output of a request that could not be added; its place is free again."""
        self.room.leave(request.request_id)
        sequence = self._new_sequence(request)
        sequence.finish_reason = "error"
        return sequence.output(text="", token_ids=(), block_bytes=0, now=time.monotonic(), error=message)

    @property
    def is_pressed(self) -> bool:
        """Whether something is done for want of memory, and `look_after` should be called between steps."""
        return self.governor.rung is not Rung.CALM

    def look_after(self) -> None:
        """Take or take back measures against want of memory; `step` does it by itself."""
        self.governor.before_step(time.monotonic(), has_work=self.has_work)

    def step(self) -> list[TokenOutput]:
        """Compute one batch and return what it added to each request that got a token or ended.

        The step's time is divided among its requests by the tokens they had in it. Who has waited too long
        is sent away before.
        """
        started = time.monotonic_ns()
        overdue = [
            self._send_away(each) for each in self.room.overdue(started / 1e9) if each in self._sequences
        ]
        self.governor.before_step(started / 1e9, has_work=self.has_work)
        chunks = self._scheduler.schedule(prompt_tokens=self._pacer.budget)
        if not chunks:
            return overdue
        for chunk in chunks:
            if chunk.sequence.first_step_at is None:
                chunk.sequence.first_step_at = started / 1e9
                self.room.leave(chunk.sequence.request.request_id)
        kv_used = self._allocator.num_used / self._allocator.num_blocks
        writing = sum(chunk.num_tokens == 1 and chunk.needs_logits for chunk in chunks)
        logits, errors = compute(chunks, model=self._model, cache=self._cache, tokenizer=self.tokenizer)
        for chunk in chunks:
            chunk.sequence.num_computed += chunk.num_tokens
        texts = self._writer.extend_all(self._sequences, logits, errors)
        for chunk in chunks:
            if chunk.sequence.request.request_id not in errors:
                self._scheduler.remember(chunk.sequence)
        elapsed = time.monotonic_ns() - started
        self._monitor.record_step(elapsed)
        prompt_tokens = sum(chunk.num_tokens for chunk in chunks) - writing
        self._pacer.record(elapsed / 1e9, writing=writing, prompt_tokens=prompt_tokens)
        self.governor.tuner.record(
            rows=writing, prompt_tokens=prompt_tokens, seconds=elapsed / 1e9, now=started / 1e9
        )
        shares = apportion(elapsed, shares=[chunk.num_tokens for chunk in chunks])
        for chunk, share in zip(chunks, shares, strict=True):
            chunk.sequence.compute_nanoseconds += share
        outputs = [self._output(chunk.sequence, texts, errors) for chunk in chunks]
        if self.recorder is not None:
            figures = StepFigures(
                started=started / 1e9,
                seconds=elapsed / 1e9,
                rows=writing,
                prompt_tokens=prompt_tokens,
                running=len(chunks),
                waiting=self.num_waiting,
                kv_used=kv_used,
                preemptions=self._scheduler.num_preemptions,
                refused=self.room.refused.total(),
                pressure=self.governor.figures.pressure,
            )
            self.recorder.step(figures, has_work=self.has_work)
        return overdue + [output for output in outputs if output is not None]

    def record(self, recorder: TraceRecorder, *, model: str, yardstick: Yardstick | None = None) -> None:
        """Write a trace of the work from now on, until `close`."""
        cache = {"kv_blocks": self._cache.num_blocks, "block_bytes": self.block_bytes}
        recorder.begin(
            TracedEngine.of(
                self.config, model=model, context_limit=self.context_limit, yardstick=yardstick, **cache
            )
        )
        self.recorder = recorder

    def close(self) -> None:
        """End the trace, if one is written; what still runs is left as it is."""
        if self.recorder is not None:
            self.recorder.close()

    def metrics(self) -> InferenceMetrics:
        """Return the figures of this moment; may be called from any thread."""
        return self._monitor.snapshot(
            scheduler=self._scheduler,
            allocator=self._allocator,
            kv_bytes=self._cache.nbytes,
            refused=self.room.refused,
            governor=self.governor,
        )

    def _new_sequence(self, request: GenerationRequest, *, grammar: GrammarMatcher | None = None) -> Sequence:
        limit = self.context_limit
        if request.sampling.max_tokens is not None:
            limit = min(limit, len(request.prompt_token_ids) + request.sampling.max_tokens)
        decoder = self.tokenizer.incremental_decoder()
        sequence = Sequence(request, decoder=decoder, limit=limit, serial=self._serial, grammar=grammar)
        if request.sampling.echo and sequence.scored is not None:
            sequence.scored.add(first_token(request.prompt_token_ids[0], tokenizer=self.tokenizer))
        return sequence

    def _output(
        self, sequence: Sequence, texts: dict[str, str], errors: dict[str, str]
    ) -> TokenOutput | None:
        request_id = sequence.request.request_id
        if request_id in errors:
            return self._fail(sequence, errors[request_id])
        if request_id not in texts:
            return None  # its prompt is not computed to the end yet
        text, token_ids = texts[request_id], (sequence.tokens[-1],)
        if sequence.finish_reason is not None:
            return self._finish(sequence, text=text, token_ids=token_ids)
        return sequence.output(
            text=text, token_ids=token_ids, block_bytes=self.block_bytes, now=time.monotonic()
        )

    def _fail(self, sequence: Sequence, message: str, *, retry_after: float | None = None) -> TokenOutput:
        sequence.finish_reason = "error"
        return self._finish(sequence, text="", token_ids=(), error=message, retry_after=retry_after)

    def _send_away(self, request_id: str) -> TokenOutput:
        message, retry_after = self.room.waited_too_long()
        return self._fail(self._sequences[request_id], message, retry_after=retry_after)

    def _finish(
        self,
        sequence: Sequence,
        *,
        text: str,
        token_ids: tuple[int, ...],
        error: str | None = None,
        retry_after: float | None = None,
    ) -> TokenOutput:
        del self._sequences[sequence.request.request_id]
        self._scheduler.remove(sequence)
        self.room.leave(sequence.request.request_id)
        output = sequence.output(
            text=text,
            token_ids=token_ids,
            block_bytes=self.block_bytes,
            now=time.monotonic(),
            error=error,
            retry_after=retry_after,
        )
        self._monitor.record_end(output)
        if self.recorder is not None:
            self.recorder.ended(sequence, output, now=time.monotonic())
        self.governor.note_end(sequence.peak_blocks)
        self.room.is_short_of_memory &= self.has_work
        return output
