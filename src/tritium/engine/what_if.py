"""What a change of limits would have done to a recorded trace: both are simulated, and the ratios counted."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tritium.engine.cost import StepSums
from tritium.engine.simulator import config_of, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tritium.engine.cost import StepCost
    from tritium.engine.simulator import Simulation
    from tritium.engine.trace import Trace

_REPLICAS = 8
MOST_REQUESTS = 300  # the latest of a trace: a simulation costs about as long as the engine's own bookkeeping


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a change is expected to do to one figure.

    Attributes:
        figure: which one: first_token_seconds (median), end_seconds (median) or tokens_per_second.
        before: as it was recorded.
        low: the lowest and `high` the highest expected, by the trace played with costs that were fitted to
            parts of it, drawn at random. How far a simulation is from the truth is not in it.
    """

    figure: str
    before: float
    low: float
    high: float


def what_if(trace: Trace, changes: Mapping[str, int | float | bool], *, seed: int = 0) -> tuple[Effect, ...]:
    """Return what other values of `EngineConfig` would have done to a trace.

    Args:
        trace: of which the latest requests are played.
        changes: new values by name.
        seed: of the draws; the same one gives the same effects.

    Raises:
        ValidationError: a value is wrong, or a request of the trace can never run with them.
    """
    short = replace(trace, requests=trace.requests[-MOST_REQUESTS:])
    config = config_of(trace.engine)
    changed = replace(config, **changes)  # type: ignore[arg-type]
    ratios: dict[str, list[float]] = {}
    for cost in _costs(trace, random.Random(seed)):  # noqa: S311 - draws of a bootstrap
        before = figures_of(simulate(short, config=config, cost=cost))
        after = figures_of(simulate(short, config=changed, cost=cost))
        for name, value in before.items():
            if value:
                ratios.setdefault(name, []).append(after[name] / value)
    recorded = recorded_figures(short)
    return tuple(
        Effect(
            figure=name,
            before=recorded[name],
            low=recorded[name] * min(found),
            high=recorded[name] * max(found),
        )
        for name, found in ratios.items()
    )


def figures_of(simulation: Simulation) -> dict[str, float]:
    """Return the figures that effects are told in; 0 where nothing ended."""
    ends = [each.end_seconds for each in simulation.passages if each.end_seconds is not None]
    firsts = simulation.first_seconds()
    return {
        "first_token_seconds": statistics.median(firsts) if firsts else 0.0,
        "end_seconds": statistics.median(ends) if ends else 0.0,
        "tokens_per_second": simulation.tokens_per_second,
    }


def recorded_figures(trace: Trace) -> dict[str, float]:
    """Return the same figures as they were recorded."""
    requests = trace.requests
    firsts = [each.first_seconds for each in requests if each.first_seconds is not None]
    begin = min((each.arrival for each in requests), default=0.0)
    end = max((each.arrival + each.end_seconds for each in requests), default=0.0)
    written = sum(each.output for each in requests)
    return {
        "first_token_seconds": statistics.median(firsts) if firsts else 0.0,
        "end_seconds": statistics.median(each.end_seconds for each in requests) if requests else 0.0,
        "tokens_per_second": written / (end - begin) if end > begin else 0.0,
    }


def _costs(trace: Trace, chance: random.Random) -> Iterator[StepCost]:
    intervals = [interval.sums for interval in trace.intervals]
    yield trace.sums.fit()
    for _ in range(_REPLICAS - 1 if len(intervals) > 1 else 0):
        total = StepSums()
        for sums in chance.choices(intervals, k=len(intervals)):
            total += sums
        yield total.fit()
