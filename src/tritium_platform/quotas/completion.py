"""When work that stands in a queue will be done: from what is before it and the pace that was measured.

The interval holds the end in about four of five cases: it is that of a sum of independent durations whose
mean was itself measured (the predictive variance of a mean), with normal tails. What a pace of few
measurements does not know of its own spread is taken to be one more of them that was off by half.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# The standard normal value below which nine of ten lie: a tenth of all ends come before, a tenth after.
NINE_OF_TEN = 1.2816
SURPRISE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds per unit of work: their mean, their variance, and how many were measured."""

    mean: float
    variance: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Units of work that stand in a queue.

    Attributes:
        units: how much it is.
        pace: how fast work of its kind was until now.
        pieces: into how many equal pieces, each of its own duration, it falls.
        elapsed: seconds for which it has run already.
    """

    units: float
    pace: Pace
    pieces: int = 1
    elapsed: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Seconds from now until work is done: expected, and the bounds of the interval."""

    expected: float
    earliest: float
    latest: float


def measure_pace(seconds_per_unit: Sequence[float]) -> Pace | None:
    """Return the pace of what was measured; None if nothing was."""
    count = len(seconds_per_unit)
    if not count:
        return None
    mean = math.fsum(seconds_per_unit) / count
    off = [value - mean for value in seconds_per_unit] + [SURPRISE * mean]
    return Pace(mean=mean, variance=math.fsum(each * each for each in off) / count, count=count)


def estimate_completion(queue: Iterable[Work]) -> Completion:
    """Return when the last of some work is done that is done one after the other."""
    expected = spread = 0.0
    units: dict[Pace, float] = defaultdict(float)
    for work in queue:
        expected += max(0.0, work.units * work.pace.mean - work.elapsed)
        spread += work.pace.variance * work.units**2 / work.pieces
        units[work.pace] += work.units
    # All work of a kind goes by one mean, and if that is off, all of it is.
    spread += math.fsum(pace.variance * amount**2 / pace.count for pace, amount in units.items())
    margin = NINE_OF_TEN * math.sqrt(spread)
    return Completion(expected=expected, earliest=max(0.0, expected - margin), latest=expected + margin)
