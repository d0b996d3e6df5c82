"""A customer's health: one number from what really happened to its recent requests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.values import Clock

WINDOW = timedelta(hours=24)
# The weight of each factor. Failures hurt a customer most; a slow answer is still an answer.
SUCCESS_WEIGHT, REFUSAL_WEIGHT, LATENCY_WEIGHT, QUOTA_WEIGHT = 0.5, 0.2, 0.15, 0.15
# Up to a second is good, a minute is as bad as it gets.
GOOD_LATENCY_MS, BAD_LATENCY_MS = 1_000, 60_000
# A quota is no trouble until four fifths of it are used.
QUOTA_COMFORT = 0.8
SLOWEST_BUCKET = 40


class OutcomeKind(StrEnum):
    """How a request ended for the customer."""

    SUCCESS = "success"
    FAILED = "failed"  # our fault
    REFUSED = "refused"  # a limit or quota
    REJECTED = "rejected"  # the request itself was wrong; says nothing about the service


@dataclass(frozen=True, slots=True)
class OutcomeCount:
    """How many requests ended in one way with a latency of (2^(bucket-1), 2^bucket] milliseconds."""

    kind: OutcomeKind
    latency_bucket: int
    count: int


@dataclass(frozen=True, slots=True)
class HealthFactor:
    """One part of the score: 0 is bad, 1 is good."""

    name: str
    value: float
    weight: float


@dataclass(frozen=True, slots=True)
class HealthScore:
    """0 to 100, with its parts; None while the window holds no request."""

    score: int | None
    requests: int
    factors: tuple[HealthFactor, ...]


class OutcomeStore(Protocol):
    """Counts outcomes per tenant and hour."""

    async def count(
        self, tenant_id: UUID, *, hour: datetime, kind: OutcomeKind, latency_bucket: int, times: int = 1
    ) -> None:
        """Add outcomes of one kind to an hour."""

    async def recent(self, tenant_id: UUID, *, since: datetime) -> Sequence[OutcomeCount]:
        """Return the sums over all hours that start at `since` or later."""


def hour_of(instant: datetime) -> datetime:
    """Return the start of the hour of an instant."""
    return instant.replace(minute=0, second=0, microsecond=0)


def latency_bucket(milliseconds: int) -> int:
    """Return the smallest b with milliseconds <= 2^b; 0 for up to 1 ms."""
    return min(SLOWEST_BUCKET, max(0, milliseconds - 1).bit_length())


def percentile_latency_ms(outcomes: Sequence[OutcomeCount], *, percent: int) -> int:
    """Return the upper edge of the bucket in which the percentile of the successes lies; 0 without any."""
    successes = sorted(
        (each.latency_bucket, each.count) for each in outcomes if each.kind is OutcomeKind.SUCCESS
    )
    total = sum(count for _, count in successes)
    seen = 0
    for bucket, count in successes:
        seen += count
        if seen * 100 >= total * percent:
            return 1 << bucket
    return 0


def score_health(outcomes: Sequence[OutcomeCount], *, quota_used: float) -> HealthScore:
    """Score recent outcomes and the used share of the month's quota (0 to 1).

    Factors: the share of successes among what the service is answerable for, the share not refused, the 95th
    percentile of latency, and the distance from the quota.
    """
    counts = dict.fromkeys(OutcomeKind, 0)
    for each in outcomes:
        counts[each.kind] += each.count
    requests = sum(counts.values())
    if not requests:
        return HealthScore(score=None, requests=0, factors=())
    answered = counts[OutcomeKind.SUCCESS] + counts[OutcomeKind.FAILED]
    factors = (
        HealthFactor("success_rate", _share(counts[OutcomeKind.SUCCESS], of=answered), SUCCESS_WEIGHT),
        HealthFactor("admission_rate", 1 - counts[OutcomeKind.REFUSED] / requests, REFUSAL_WEIGHT),
        HealthFactor("latency", _latency_value(percentile_latency_ms(outcomes, percent=95)), LATENCY_WEIGHT),
        HealthFactor("quota", _quota_value(quota_used), QUOTA_WEIGHT),
    )
    score = round(100 * sum(each.value * each.weight for each in factors))
    return HealthScore(score=score, requests=requests, factors=factors)


def _share(part: int, *, of: int) -> float:
    return part / of if of else 1.0


def _latency_value(milliseconds: int) -> float:
    over = max(0, milliseconds - GOOD_LATENCY_MS) / (BAD_LATENCY_MS - GOOD_LATENCY_MS)
    return 1.0 - min(1.0, over)


def _quota_value(used: float) -> float:
    over = max(0.0, min(1.0, used) - QUOTA_COMFORT) / (1 - QUOTA_COMFORT)
    return 1.0 - over


class HealthService:
    """Keeps count of outcomes and scores them."""

    def __init__(self, *, store: OutcomeStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def update_health(self, tenant_id: UUID, *, kind: OutcomeKind, latency_ms: int) -> None:
        """Count how a request ended."""
        hour = hour_of(self._clock.now())
        await self._store.count(tenant_id, hour=hour, kind=kind, latency_bucket=latency_bucket(latency_ms))

    async def health_of(self, tenant_id: UUID, *, quota_used: float) -> HealthScore:
        """Score the last 24 hours; `quota_used` is the used share of the month's quota, 0 to 1."""
        outcomes = await self._store.recent(tenant_id, since=self._clock.now() - WINDOW)
        return score_health(outcomes, quota_used=quota_used)
