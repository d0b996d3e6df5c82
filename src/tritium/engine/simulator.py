"""What if: a recorded trace played again through the real scheduler, policy and cache, on a clock of its own.

Only the model is left out: a step takes what `StepCost` says. Prompts are not in a trace, only how much of
each was found in the cache; a request that found something is given the tokens of the latest earlier one of
its tenant that is long enough. So a larger cache finds no more than was found, and a smaller one finds less.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.engine.cache import BlockAllocator
from tritium.engine.config import EngineConfig
from tritium.engine.fair_share import FairShare
from tritium.engine.pacing import PromptPacer
from tritium.engine.request import GenerationRequest, QueueFullError, SamplingParams
from tritium.engine.scheduler import Scheduler
from tritium.engine.sequence import Sequence
from tritium.engine.waiting_room import WaitingRoom
from tritium.errors import ValidationError

if TYPE_CHECKING:
    from tritium.engine.cost import StepCost
    from tritium.engine.scheduler import Chunk
    from tritium.engine.trace import Trace, TracedEngine, TracedRequest

_PLACES = 2**32  # more positions than any text has: tokens of different requests differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """How one request fared; seconds from its arrival, None if it was refused."""

    first_seconds: float | None
    end_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """How a trace fared.

    Attributes:
        passages: of the trace's requests, in their order.
        seconds: from the first arrival to the last token.
        busy_seconds: of it in steps.
        cached_tokens: of prompts, found in the cache.
        kv_full: the share of steps with over 95 % of the cache used.
        running: the mean number of requests in a step.
    """

    passages: tuple[Passage, ...]
    seconds: float
    busy_seconds: float
    steps: int
    output_tokens: int
    cached_tokens: int
    preemptions: int
    kv_full: float
    running: float

    @property
    def tokens_per_second(self) -> float:
        """Written tokens over the whole time."""
        return self.output_tokens / self.seconds if self.seconds else 0.0

    def first_seconds(self) -> list[float]:
        """Return the times to the first token, in ascending order."""
        return sorted(each.first_seconds for each in self.passages if each.first_seconds is not None)


class _Silent:
    """Nobody reads the texts."""

    def push(self, *_: int) -> str:
        return ""

    def flush(self) -> str:
        return ""


def config_of(engine: TracedEngine) -> EngineConfig:
    """Return the limits of a recorded engine."""
    return EngineConfig(
        kv_cache_bytes=engine.kv_cache_bytes,
        shares_prefixes=engine.shares_prefixes,
        max_batched_tokens=engine.max_batched_tokens,
        max_running=engine.max_running,
        max_waiting=engine.max_waiting,
        max_waiting_tokens=engine.max_waiting_tokens,
        max_waiting_seconds=engine.max_waiting_seconds,
        latency_seconds=engine.latency_seconds,
    )


def blocks_of(engine: TracedEngine, config: EngineConfig) -> int:
    """Return the blocks that the cache of a recorded engine would have under other limits."""
    useful = config.max_running * -(-engine.context_limit // engine.block_size)
    return max(1, min(config.kv_cache_bytes // engine.block_bytes, useful))


def simulate(trace: Trace, *, config: EngineConfig, cost: StepCost) -> Simulation:
    """Play a trace under some limits.

    Raises:
        ValidationError: a request of the trace can never run within them.
    """
    engine = trace.engine
    num_blocks = blocks_of(engine, config)
    longest = min(engine.context_limit, num_blocks * engine.block_size)
    for traced in trace.requests:
        if not 1 <= traced.prompt <= traced.prompt + traced.output <= longest:
            raise ValidationError(
                f"A request of {traced.prompt} + {traced.output} tokens does not fit into {longest}."
            )
    return _Run(trace, config=config, cost=cost, num_blocks=num_blocks).play()


class _Run:
    """One simulation under way."""

    def __init__(self, trace: Trace, *, config: EngineConfig, cost: StepCost, num_blocks: int) -> None:
        self._cost = cost
        self._allocator = BlockAllocator(num_blocks=num_blocks, block_size=trace.engine.block_size)
        self._scheduler = Scheduler(
            self._allocator,
            policy=FairShare(),
            max_batched_tokens=config.max_batched_tokens,
            max_running=config.max_running,
            shares_prefixes=config.shares_prefixes,
        )
        self._room = WaitingRoom(config)
        self._pacer = PromptPacer()
        self._due = [
            _sequence(traced, serial, tokens)
            for serial, (traced, tokens) in enumerate(
                zip(trace.requests, _tokens_of(trace.requests), strict=True)
            )
        ]
        self._alive: dict[str, Sequence] = {}
        self._first: dict[str, float] = {}
        self._end: dict[str, float] = {}
        self._now = trace.requests[0].arrival if trace.requests else 0.0
        self._busy, self._steps, self._full, self._running = 0.0, 0, 0, 0
        self._written = self._cached = 0

    def play(self) -> Simulation:
        began, place = self._now, 0
        while place < len(self._due) or self._alive:
            if not self._alive:
                self._now = max(self._now, self._due[place].request.arrival)
            while place < len(self._due) and self._due[place].request.arrival <= self._now:
                self._enter(self._due[place])
                place += 1
            for request_id in self._room.overdue(self._now):
                self._leave(self._alive[request_id])
            if self._alive:
                self._step()
        names = [sequence.request.request_id for sequence in self._due]
        return Simulation(
            passages=tuple(
                Passage(first_seconds=self._first.get(name), end_seconds=self._end.get(name))
                for name in names
            ),
            seconds=self._now - began,
            busy_seconds=self._busy,
            steps=self._steps,
            output_tokens=self._written,
            cached_tokens=self._cached,
            preemptions=self._scheduler.num_preemptions,
            kv_full=self._full / max(1, self._steps),
            running=self._running / max(1, self._steps),
        )

    def _enter(self, sequence: Sequence) -> None:
        try:
            self._room.enter(sequence.request)
        except QueueFullError:
            return
        self._alive[sequence.request.request_id] = sequence
        self._scheduler.add(sequence)

    def _leave(self, sequence: Sequence) -> None:
        del self._alive[sequence.request.request_id]
        self._scheduler.remove(sequence)
        self._room.leave(sequence.request.request_id)

    def _step(self) -> None:
        """Do what `Engine.step` does, but for the model."""
        chunks = self._scheduler.schedule(prompt_tokens=self._pacer.budget)
        if not chunks:
            raise ValidationError("The trace stands still: within these limits nothing can run.")
        for chunk in chunks:
            if chunk.sequence.first_step_at is None:
                chunk.sequence.first_step_at = self._now
                self._cached += chunk.sequence.num_cached
                self._room.leave(chunk.sequence.request.request_id)
        writing = sum(chunk.num_tokens == 1 and chunk.needs_logits for chunk in chunks)
        prompt_tokens = sum(chunk.num_tokens for chunk in chunks) - writing
        seconds = self._cost.seconds(rows=writing, prompt_tokens=prompt_tokens)
        self._now += seconds
        self._busy += seconds
        self._steps += 1
        self._running += len(chunks)
        self._full += self._allocator.num_used > 0.95 * self._allocator.num_blocks
        self._extend_all(chunks)
        self._pacer.record(seconds, writing=writing, prompt_tokens=prompt_tokens)

    def _extend_all(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            sequence, has_logits = chunk.sequence, chunk.needs_logits
            sequence.num_computed += chunk.num_tokens
            if has_logits:
                self._scheduler.record_token(sequence)
                sequence.append(_PLACES * (sequence.serial + 1) + len(sequence.tokens), is_end_token=False)
                self._written += 1
                self._first.setdefault(sequence.request.request_id, self._now - sequence.request.arrival)
            self._scheduler.remember(sequence)
            if sequence.finish_reason is not None:
                self._end[sequence.request.request_id] = self._now - sequence.request.arrival
                self._leave(sequence)


def _sequence(traced: TracedRequest, serial: int, tokens: tuple[int, ...]) -> Sequence:
    request = GenerationRequest(
        request_id=str(serial),
        prompt_token_ids=tokens,
        sampling=SamplingParams(max_tokens=max(1, traced.output)),
        arrival=traced.arrival,
        cache_salt=traced.tenant,
        tenant=traced.tenant,
        weight=traced.weight,
        priority=traced.priority,
    )
    limit = traced.prompt + max(1, traced.output)  # who left before the first token is played until it
    return Sequence(request, decoder=_Silent(), limit=limit, serial=serial)  # type: ignore[arg-type]


def _tokens_of(requests: tuple[TracedRequest, ...]) -> list[tuple[int, ...]]:
    """Return prompts without a meaning that share as many tokens as were found in the cache."""
    whole: list[tuple[int, ...]] = []  # prompts and answers
    prompts: list[tuple[int, ...]] = []
    ends: dict[str, list[tuple[float, int]]] = {}
    for serial, traced in enumerate(requests):
        own = tuple(_PLACES * (serial + 1) + place for place in range(traced.prompt + traced.output))
        shared: tuple[int, ...] = ()
        if traced.cached:
            shared = _shared(ends.get(traced.tenant, []), whole, traced)
        whole.append(shared + own[len(shared) :])
        prompts.append(whole[-1][: traced.prompt])
        ends.setdefault(traced.tenant, []).append((traced.arrival, serial))
    return prompts


def _shared(
    earlier: list[tuple[float, int]], whole: list[tuple[int, ...]], traced: TracedRequest
) -> tuple[int, ...]:
    place = bisect_right(earlier, (traced.arrival, len(whole)))
    for _, serial in reversed(earlier[:place]):
        if len(whole[serial]) >= traced.cached:
            return whole[serial][: traced.cached]
    return ()
