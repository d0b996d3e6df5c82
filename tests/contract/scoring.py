"""The slow twin of health scores: from raw rows in plain Python, with fractions, nothing of the fast path."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# name: (weight, worth nothing at, worth all at); version 1 of docs/health.md, written down a second time.
WEIGHTS: Mapping[str, tuple[int, int, int]] = {
    "success": (25, 950_000, 999_000),
    "latency": (10, 500_000, 950_000),
    "admission": (15, 800_000, 1_000_000),
    "quota": (10, 1_000_000, 800_000),
    "trend": (15, 500_000, 1_000_000),
    "activity": (5, 336, 48),
    "overdue": (10, 30, 0),
    "declines": (5, 3, 0),
    "disputes": (5, 1, 0),
}


@dataclass
class RawRows:
    """What happened to one tenant.

    Attributes:
        outcomes: (hour, kind, latency bucket), one for each request.
        ceiling: the quota of the month; None without one.
        bills: (finalized at, due at, amount, currency, ended at or None).
        payments: (received at, amount, currency).
        declines: when attempts were declined. disputes: when they were opened.
    """

    outcomes: list[tuple[datetime, str, int]] = field(default_factory=list)
    ceiling: int | None = None
    bills: list[tuple[datetime, datetime, int, str, datetime | None]] = field(default_factory=list)
    payments: list[tuple[datetime, int, str]] = field(default_factory=list)
    declines: list[datetime] = field(default_factory=list)
    disputes: list[datetime] = field(default_factory=list)


def figures(rows: RawRows, as_of: datetime) -> dict[str, int | None]:
    """Return the figure of each component at a full hour."""
    week = [each for each in rows.outcomes if timedelta(0) < as_of - each[0] <= timedelta(days=7)]
    before = [each for each in rows.outcomes if timedelta(days=7) < as_of - each[0] <= timedelta(days=14)]
    good = [each for each in week if each[1] == "success"]
    answered = [each for each in week if each[1] in {"success", "failed"}]
    tried = [each for each in week if each[1] != "rejected"]
    last_hour = as_of - timedelta(hours=1)
    month = [
        each
        for each in rows.outcomes
        if each[1] == "success" and each[0] < as_of and each[0].strftime("%Y%m") == last_hour.strftime("%Y%m")
    ]
    successes = [hour for hour, kind, _ in rows.outcomes if kind == "success" and hour < as_of]
    return {
        "success": share(len(good), len(answered)),
        "latency": share(sum(2**bucket <= 16_384 for _, _, bucket in good), len(good)),
        "admission": share(len(answered), len(tried)),
        "quota": None if rows.ceiling is None else share(len(month), rows.ceiling),
        "trend": share(len(good), sum(kind == "success" for _, kind, _ in before)),
        "activity": (as_of - max(successes)) // timedelta(hours=1) if successes else None,
        "overdue": days_overdue(rows, as_of),
        "declines": sum(as_of - timedelta(days=30) <= each < as_of for each in rows.declines),
        "disputes": sum(as_of - timedelta(days=90) <= each < as_of for each in rows.disputes),
    }


def days_overdue(rows: RawRows, as_of: datetime) -> int:
    """Return for how many days the oldest bill is overdue: every payment pays the bill that was due first."""
    worst = 0
    for currency in {each[3] for each in rows.bills}:
        open_bills = sorted(
            [due, amount]
            for at, due, amount, of, ended in rows.bills
            if of == currency and at < as_of and not (ended is not None and ended < as_of)
        )
        money = sum(amount for at, amount, of in rows.payments if of == currency and at < as_of)
        for bill in open_bills:
            paid = min(money, bill[1])
            bill[1] -= paid
            money -= paid
            if bill[1] and bill[0] < as_of:
                worst = max(worst, (as_of - bill[0]).days)
    return worst


def score(rows: RawRows, as_of: datetime) -> int | None:
    """Return the score, None for who was never answered."""
    found = figures(rows, as_of)
    if found["activity"] is None:
        return None
    points, weights = Fraction(0), 0
    for name, (weight, bad, good) in WEIGHTS.items():
        figure = found[name]
        if figure is None:
            continue
        worth = min(Fraction(1), max(Fraction(0), Fraction(figure - bad, good - bad)))
        points += weight * Fraction(int(worth * 1000), 1000)
        weights += weight
    exact = 100 * points / weights
    return int(exact + Fraction(1, 2))


def share(part: int, of: int) -> int | None:
    """Return a share in parts per million, rounded down."""
    return int(Fraction(part * 1_000_000, of)) if of else None


def changed(rows: RawRows, **values: Any) -> RawRows:
    """Return other rows that differ in something."""
    return RawRows(**{**rows.__dict__, **values})
