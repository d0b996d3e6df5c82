"""The engine: requests in, one step at a time, tokens out. One thread at a time may call it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Protocol

from tritium.engine.batch import apportion, lay_out
from tritium.engine.cache import BlockAllocator
from tritium.engine.config import EngineConfig
from tritium.engine.fair_share import FairShare
from tritium.engine.grammar import GrammarCompiler
from tritium.engine.logprobs import first_token, score_token
from tritium.engine.monitor import InferenceMetrics, InferenceMonitor
from tritium.engine.pacing import PromptPacer
from tritium.engine.request import ContextLengthExceededError
from tritium.engine.sampler import choose_tokens
from tritium.engine.scheduler import Chunk, Scheduler
from tritium.engine.sequence import Sequence
from tritium.engine.waiting_room import WaitingRoom
from tritium.errors import BitNetServiceError, ProcessingError, ValidationError
from tritium.kernels.pages import BLOCK_SIZE
from tritium.model.batch import KVCache

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    from numpy.typing import NDArray

    from tritium.engine.grammar import Grammar, GrammarMatcher
    from tritium.engine.request import GenerationRequest, TokenOutput
    from tritium.engine.turns import SchedulingPolicy
    from tritium.model.batch import ForwardBatch
    from tritium.model.config import ModelConfig
    from tritium.model.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class GeneratingModel(Protocol):
    """A model that continues text."""

    @property
    def config(self) -> ModelConfig:
        """The sizes of the model."""

    @property
    def threads(self) -> int:
        """How many threads it may use; so may the choice of tokens."""

    def forward(self, batch: ForwardBatch, cache: KVCache) -> NDArray[np.float32]:
        """Write the batch's keys and values into the cache and return logits [S, vocabulary]."""


class Engine:
    """Continuous batching over one model.

    A request's tokens do not depend on who shares its steps: kernels reduce in a fixed order, and random
    numbers belong to the request.

    Args:
        end_token_ids: tokens which end a text.
        policy: who comes first when there is not enough for all; None for fair shares of tenants.
    """

    def __init__(
        self,
        model: GeneratingModel,
        *,
        tokenizer: Tokenizer,
        end_token_ids: Collection[int],
        config: EngineConfig | None = None,
        policy: SchedulingPolicy[Sequence] | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self.room = WaitingRoom(self.config)
        self.tokenizer = tokenizer
        self._model = model
        self._end_tokens = frozenset(end_token_ids)
        self._cache = _new_cache(model.config, self.config)
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
        if not request.prompt_token_ids:
            raise ValidationError("The prompt is empty: give at least one token.", param="prompt")
        vocabulary = self._model.config.vocab_size
        if not all(0 <= token < vocabulary for token in request.prompt_token_ids):
            raise ValidationError(
                f"The prompt holds a token outside of 0 to {vocabulary - 1}.", param="prompt"
            )
        request.sampling.require_vocabulary(self.tokenizer.vocab_size)
        num_prompt = len(request.prompt_token_ids)
        if num_prompt + (request.sampling.max_tokens or 1) > self.context_limit:
            raise self._too_long(num_prompt, request.sampling.max_tokens)

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

    def step(self) -> list[TokenOutput]:
        """Compute one batch and return what it added to each request that got a token or ended.

        The step's time is divided among its requests by the tokens they had in it. Who has waited too long
        is sent away before.
        """
        started = time.monotonic_ns()
        overdue = [
            self._send_away(each) for each in self.room.overdue(started / 1e9) if each in self._sequences
        ]
        chunks = self._scheduler.schedule(prompt_tokens=self._pacer.budget)
        if not chunks:
            return overdue
        for chunk in chunks:
            if chunk.sequence.first_step_at is None:
                chunk.sequence.first_step_at = started / 1e9
                self.room.leave(chunk.sequence.request.request_id)
        writing = sum(chunk.num_tokens == 1 and chunk.needs_logits for chunk in chunks)
        logits, errors = self._compute(chunks)
        for chunk in chunks:
            chunk.sequence.num_computed += chunk.num_tokens
        texts = self._extend_all(logits, errors)
        for chunk in chunks:
            if chunk.sequence.request.request_id not in errors:
                self._scheduler.remember(chunk.sequence)
        elapsed = time.monotonic_ns() - started
        self._monitor.record_step(elapsed)
        prompt_tokens = sum(chunk.num_tokens for chunk in chunks) - writing
        self._pacer.record(elapsed / 1e9, writing=writing, prompt_tokens=prompt_tokens)
        shares = apportion(elapsed, shares=[chunk.num_tokens for chunk in chunks])
        for chunk, share in zip(chunks, shares, strict=True):
            chunk.sequence.compute_nanoseconds += share
        outputs = [self._output(chunk.sequence, texts, errors) for chunk in chunks]
        return overdue + [output for output in outputs if output is not None]

    def metrics(self) -> InferenceMetrics:
        """Return the figures of this moment; may be called from any thread."""
        monitor = self._monitor
        return InferenceMetrics(
            running=len(self._scheduler.running),
            waiting=self.num_waiting,
            kv_blocks_used=self._allocator.num_used,
            kv_blocks_total=self._allocator.num_blocks,
            kv_bytes_total=self._cache.nbytes,
            steps=monitor.steps,
            step_seconds=monitor.step_nanoseconds / 1e9,
            prompt_tokens=monitor.prompt_tokens,
            generated_tokens=monitor.generated_tokens,
            cached_tokens=monitor.cached_tokens,
            preemptions=self._scheduler.num_preemptions,
            refused=dict(self.room.refused),
            finished=dict(monitor.finished),
            time_to_first_token=monitor.time_to_first_token.histogram(),
            inter_token_latency=monitor.inter_token_latency.histogram(),
        )

    def _too_long(self, num_prompt: int, max_tokens: int | None) -> ContextLengthExceededError:
        is_prompt_alone = num_prompt >= self.context_limit
        advice = (
            "it leaves no room for an answer: shorten it."
            if is_prompt_alone
            else f"{max_tokens} more were asked for: shorten the prompt or lower max_tokens."
        )
        return ContextLengthExceededError(
            f"The context limit is {self.context_limit} tokens and the prompt has {num_prompt}; {advice}",
            param="prompt" if is_prompt_alone else "max_tokens",
            limit=self.context_limit,
            prompt_tokens=num_prompt,
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

    def _compute(self, chunks: list[Chunk]) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
        """Return logits per request, and messages for the requests whose computation failed.

        If a batch fails, its requests are computed one by one, so that one bad request takes nobody along.
        """
        try:
            rows = self._model.forward(lay_out(chunks), self._cache)
        except Exception as error:
            if len(chunks) > 1:
                return self._compute_apart(chunks)
            logger.exception("a request failed in the model")
            message = (
                str(error) if isinstance(error, BitNetServiceError) else "The model failed on this request."
            )
            return {}, {chunks[0].sequence.request.request_id: message}
        return self._deal_out(chunks, rows)

    def _deal_out(
        self, chunks: list[Chunk], rows: NDArray[np.float32]
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
        """Score prompts with their rows of logits; return the rows that decide next tokens, and errors."""
        logits: dict[str, NDArray[np.float32]] = {}
        errors: dict[str, str] = {}
        for chunk in chunks:
            sequence, count = chunk.sequence, chunk.num_logits
            own, rows = rows[:count], rows[count:]
            try:
                if sequence.scores_prompt:
                    sequence.score_prompt(own, tokenizer=self.tokenizer)
                if chunk.needs_logits:
                    logits[sequence.request.request_id] = own[-1]
            except ProcessingError as error:
                errors[sequence.request.request_id] = error.message
        return logits, errors

    def _compute_apart(self, chunks: list[Chunk]) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
        logits: dict[str, NDArray[np.float32]] = {}
        errors: dict[str, str] = {}
        for chunk in chunks:
            found, failed = self._compute([chunk])
            logits |= found
            errors |= failed
        return logits, errors

    def _extend_all(self, logits: dict[str, NDArray[np.float32]], errors: dict[str, str]) -> dict[str, str]:
        """Choose the next token of every request that has logits; return the new texts, and note errors."""
        sequences = [self._sequences[request_id] for request_id in logits]
        tokens = choose_tokens(list(logits.values()), sequences, threads=self._model.threads)
        texts: dict[str, str] = {}
        for request_id, sequence, token in zip(logits, sequences, tokens, strict=True):
            if isinstance(token, ProcessingError):
                errors[request_id] = token.message
            else:
                texts[request_id] = self._extend(sequence, token, logits[request_id])
        return texts

    def _extend(self, sequence: Sequence, token: int, logits: NDArray[np.float32]) -> str:
        self._scheduler.record_token(sequence)
        now = time.monotonic()
        last = sequence.last_token_at
        self._monitor.record_token(
            since_arrival=now - sequence.request.arrival,
            since_last_token=None if last is None else now - last,
        )
        sequence.last_token_at = now
        sampling = sequence.request.sampling
        ignores_end = sampling.ignore_eos and sequence.grammar is None  # a form that is complete must end
        is_end_token = token in self._end_tokens and not ignores_end
        if sequence.scored is not None and sampling.logprobs is not None and not is_end_token:
            scored = score_token(logits, token, top=sampling.logprobs, tokenizer=self.tokenizer)
            sequence.scored.add(scored)
        return sequence.append(token, is_end_token=is_end_token)

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
        return output


def _new_cache(model: ModelConfig, config: EngineConfig) -> KVCache:
    return KVCache(
        num_layers=model.num_layers,
        num_blocks=config.cache_blocks(model),
        kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        dtype=config.kv_dtype,
    )
