"""A trace in a few numbers: what recommendations and the search for the bottleneck look at."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.engine.cost import StepCost  # noqa: TC001 - read when records come from another process
from tritium.engine.trace import TracedEngine  # noqa: TC001 - likewise

if TYPE_CHECKING:
    from tritium.engine.trace import Trace, TracedInterval

LEAST_REQUESTS, LEAST_STEPS = 20, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The numbers of a trace; shares are from 0 to 1.

    Attributes:
        seconds: how long was recorded.
        busy: share of that time in steps.
        queue_wait: share of requests' time that they waited for their first step.
        first_seconds: median time to the first token.
        fill: mean share of the places in use, over steps.
        waiting: mean number of those who wait, over steps.
        kv_used: mean used share of the cache; `kv_full` the share of steps with over 95 %.
        prefill: share of the steps' time that prompts cost, by the cost that was fitted.
        prefix_hits: share of the prompts' tokens that were found in the cache.
        rows: mean tokens written in a step; `prompt_tokens` mean tokens of prompts.
        step_seconds: mean length of a step.
        cost: of steps, fitted.
        processors: how many processors' time the process took while it was recorded.
        stolen: share of the processors' time that the host gave away.
        throttled: share of the time that the group had used up its quota.
        delivery_seconds: mean time from a step's end to its outputs reaching those who send them.
        unread: the most outputs of one request that waited to be sent.
    """

    engine: TracedEngine
    seconds: float
    requests: int
    steps: int
    busy: float
    queue_wait: float
    first_seconds: float
    fill: float
    waiting: float
    kv_used: float
    kv_full: float
    preemptions: int
    refused: int
    prefill: float
    prefix_hits: float
    rows: float
    prompt_tokens: float
    step_seconds: float
    cost: StepCost
    processors: float
    stolen: float
    throttled: float
    delivery_seconds: float
    unread: int
    pressure: float

    @property
    def is_thin(self) -> bool:
        """Whether too little was recorded to say anything."""
        return self.requests < LEAST_REQUESTS or self.steps < LEAST_STEPS


def evidence_of(trace: Trace) -> Evidence:
    """Return the numbers of a trace; all 0 of an empty one."""
    intervals, requests = trace.intervals, trace.requests
    seconds = sum(interval.seconds for interval in intervals)
    steps = sum(interval.steps for interval in intervals)
    busy = sum(interval.busy_seconds for interval in intervals)
    rows = sum(interval.rows for interval in intervals)
    prompt_tokens = sum(interval.prompt_tokens for interval in intervals)
    cost = trace.sums.fit()
    work = cost.fixed * steps + cost.per_row * rows + cost.per_prompt_token * prompt_tokens
    firsts = [each.first_seconds for each in requests if each.first_seconds is not None]

    def over_steps(name: str) -> float:
        total = sum(interval.steps * float(getattr(interval, name)) for interval in intervals)
        return total / max(1, steps)

    def over_time(name: str) -> float:
        return _share(
            sum(interval.seconds * float(getattr(interval, name)) for interval in intervals), seconds
        )

    return Evidence(
        engine=trace.engine,
        seconds=seconds,
        requests=len(requests),
        steps=steps,
        busy=_share(busy, seconds),
        queue_wait=_share(
            sum(min(each.queue_seconds, each.end_seconds) for each in requests),
            sum(each.end_seconds for each in requests),
        ),
        first_seconds=statistics.median(firsts) if firsts else 0.0,
        fill=over_steps("running") / trace.engine.max_running,
        waiting=over_steps("waiting"),
        kv_used=over_steps("kv_used"),
        kv_full=over_steps("kv_full"),
        preemptions=sum(interval.preemptions for interval in intervals),
        refused=sum(interval.refused for interval in intervals),
        prefill=_share(cost.per_prompt_token * prompt_tokens, work),
        prefix_hits=_share(sum(each.cached for each in requests), sum(each.prompt for each in requests)),
        rows=rows / max(1, steps),
        prompt_tokens=prompt_tokens / max(1, steps),
        step_seconds=busy / max(1, steps),
        cost=cost,
        processors=_share(sum(interval.process_seconds for interval in intervals), seconds),
        stolen=over_time("stolen"),
        throttled=_share(sum(interval.throttled_seconds for interval in intervals), seconds),
        delivery_seconds=over_steps("delivery_seconds"),
        unread=max((interval.unread for interval in intervals), default=0),
        pressure=_highest(intervals),
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _highest(intervals: tuple[TracedInterval, ...]) -> float:
    return max((interval.pressure for interval in intervals), default=0.0)
