"""Load by the hour: one value for each hour of UTC, without holes, and without what outages took from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

Values: TypeAlias = NDArray[np.float64]
HOUR = timedelta(hours=1)
DAY, WEEK = 24, 168
# Monday, midnight: hours counted from here tell the hour of the week.
_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
# An hour far below what is usual at its time is an outage's, unless it goes on for longer than a day: then
# whoever made the load has gone.
OUTAGE_PART = 0.05
LONGEST_OUTAGE = DAY


@dataclass(frozen=True, slots=True)
class HourlySeries:
    """What was used in each full hour from `start` on."""

    start: datetime
    values: Values

    @property
    def first_hour(self) -> int:
        """The first hour, counted from a Monday's midnight."""
        return (self.start - _MONDAY) // HOUR

    @property
    def end(self) -> datetime:
        """The first hour after the series: that of its first forecast."""
        return self.start + len(self.values) * HOUR


def build_series(counts: Mapping[datetime, int], *, end: datetime) -> HourlySeries:
    """Return the series of what was counted in full hours before `end`; empty if there is nothing.

    An hour without a count is one without load, from the first that has one on.
    """
    before = {hour: count for hour, count in counts.items() if hour < end}
    start = min(before, default=end)
    values = np.zeros((end - start) // HOUR)
    for hour, count in before.items():
        values[(hour - start) // HOUR] = count
    return HourlySeries(start, values)


def without_outages(values: Values) -> Values:
    """Return the values with those of outages raised to the median at the same hour of other days."""
    usual = np.array([_usual(values, place) for place in range(len(values))])
    is_low = (values < OUTAGE_PART * usual) & (usual > 0)
    mended = values.copy()
    for begin, length in _runs(is_low):
        if length <= LONGEST_OUTAGE:
            mended[begin : begin + length] = usual[begin : begin + length]
    return mended


def _usual(values: Values, place: int) -> float:
    """Return the median at the same hour of the week; of the day where there are not three weeks of it."""
    for step in (WEEK, DAY):
        others = np.delete(values[place % step :: step], place // step)
        if len(others) >= 3:  # noqa: PLR2004 - of two values the median is neither
            return float(np.median(others))
    return 0.0


def _runs(marks: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return (begin, length) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marks, [False])).astype(np.int8)))
    return [(int(begin), int(end - begin)) for begin, end in zip(edges[::2], edges[1::2], strict=True)]
