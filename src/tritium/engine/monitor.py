"""What an engine has done and how fast: counted and timed, never estimated."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium.engine.cache import BlockAllocator
    from tritium.engine.governor import Governor
    from tritium.engine.request import TokenOutput
    from tritium.engine.scheduler import Scheduler
    from tritium.engine.tuning import Adjustment

LATENCY_BOUNDS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Durations in seconds: `counts[i]` are those up to `bounds[i]`, the last count those above all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """Durations altogether."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceMetrics:
    """An engine's figures at one moment.

    Attributes:
        kv_blocks_used: blocks of the key-value cache somebody holds, of `kv_blocks_total`.
        step_seconds: time in steps altogether.
        cached_tokens: of the prompts' tokens, those that earlier requests had computed.
        preemptions: how often a request gave its blocks or its place to another.
        finished: requests by finish reason.
        refused: requests that found no place to wait, by the limit in the way; "seconds" for those that
            had one and waited too long.
        time_to_first_token: from arrival to the first token, per request.
        inter_token_latency: from one token to the next, per token.
        memory_pressure: how short memory is, 0 to 1 and above; measured twice a second.
        pressure_rung: what is done about it: 0 nothing, 1 caches are emptied, 2 fewer requests run, 3 no new
            ones are taken.
        evicted_blocks: blocks of the cache whose memory was given back for it, so far.
        max_running: requests that may share a step at this moment.
        max_batched_tokens: tokens that a step may have at this moment.
        tuned: changes of these two that were made or, in mode "advise", only advised; the latest last.
    """

    running: int
    waiting: int
    kv_blocks_used: int
    kv_blocks_total: int
    kv_bytes_total: int
    steps: int
    step_seconds: float
    prompt_tokens: int
    generated_tokens: int
    cached_tokens: int
    preemptions: int
    finished: Mapping[str, int]
    refused: Mapping[str, int]
    time_to_first_token: Histogram
    inter_token_latency: Histogram
    memory_pressure: float
    pressure_rung: int
    evicted_blocks: int
    max_running: int
    max_batched_tokens: int
    tuned: tuple[Adjustment, ...]

    @property
    def kv_usage(self) -> float:
        """The used share of the cache, 0 to 1."""
        return self.kv_blocks_used / self.kv_blocks_total


@dataclass(slots=True)
class LatencyRecorder:
    """Counts durations in the buckets of `LATENCY_BOUNDS`."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    sum: float = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.sum += seconds

    def histogram(self) -> Histogram:
        """Return the counts so far."""
        return Histogram(bounds=LATENCY_BOUNDS, counts=tuple(self.counts), sum=self.sum)


@dataclass(slots=True)
class InferenceMonitor:
    """What the engine's own thread counts; everybody else reads snapshots."""

    steps: int = 0
    step_nanoseconds: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    time_to_first_token: LatencyRecorder = field(default_factory=LatencyRecorder)
    inter_token_latency: LatencyRecorder = field(default_factory=LatencyRecorder)

    def record_step(self, nanoseconds: int) -> None:
        """Count a step."""
        self.steps += 1
        self.step_nanoseconds += nanoseconds

    def record_token(self, *, since_arrival: float, since_last_token: float | None) -> None:
        """Count one generated token; its first has no predecessor."""
        self.generated_tokens += 1
        if since_last_token is None:
            self.time_to_first_token.record(since_arrival)
        else:
            self.inter_token_latency.record(since_last_token)

    def record_end(self, output: TokenOutput) -> None:
        """Count a finished request."""
        self.finished[str(output.finish_reason)] += 1
        self.prompt_tokens += output.prompt_tokens
        self.cached_tokens += output.cached_tokens

    def snapshot(
        self,
        *,
        scheduler: Scheduler,
        allocator: BlockAllocator,
        kv_bytes: int,
        refused: Mapping[str, int],
        governor: Governor,
    ) -> InferenceMetrics:
        """Return the figures of this moment, together with those that others keep."""
        return InferenceMetrics(
            running=len(scheduler.running),
            waiting=scheduler.num_waiting,
            kv_blocks_used=allocator.num_used,
            kv_blocks_total=allocator.num_blocks,
            kv_bytes_total=kv_bytes,
            steps=self.steps,
            step_seconds=self.step_nanoseconds / 1e9,
            prompt_tokens=self.prompt_tokens,
            generated_tokens=self.generated_tokens,
            cached_tokens=self.cached_tokens,
            preemptions=scheduler.num_preemptions,
            refused=dict(refused),
            finished=dict(self.finished),
            time_to_first_token=self.time_to_first_token.histogram(),
            inter_token_latency=self.inter_token_latency.histogram(),
            memory_pressure=governor.figures.pressure,
            pressure_rung=governor.rung,
            evicted_blocks=governor.figures.evicted_blocks,
            max_running=governor.limits[0],
            max_batched_tokens=governor.limits[1],
            tuned=tuple(governor.tuner.adjustments),
        )
