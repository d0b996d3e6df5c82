"""Which part of a period a contract covers, as an exact fraction."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from fractions import Fraction

DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)


class Proration(StrEnum):
    """What is counted: time itself, or days of UTC; a day belongs to whoever is there at its start."""

    SECONDS = "seconds"
    DAYS = "days"


def part_of_period(
    start: datetime, end: datetime, *, active_from: datetime, active_until: datetime, by: Proration
) -> Fraction:
    """Return the part of [start, end) in [active_from, active_until); the parts of a cut period sum to 1."""
    first, last = max(start, active_from), min(end, active_until)
    if last <= first:
        return Fraction(0)
    if by is Proration.SECONDS:
        return Fraction((last - first) // TICK, (end - start) // TICK)
    return Fraction(_midnights(first, last), _midnights(start, end))


def _midnights(start: datetime, end: datetime) -> int:
    """Count the days of UTC that begin in [start, end)."""
    return (_next_midnight(end) - _next_midnight(start)) // DAY


def _next_midnight(moment: datetime) -> datetime:
    """Return the first midnight that is not before a moment."""
    utc = moment.astimezone(UTC)
    midnight = datetime.combine(utc.date(), time(), tzinfo=UTC)
    return midnight if midnight == utc else midnight + DAY
