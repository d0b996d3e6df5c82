"""How requests ended for a customer: counted by the hour, kind and latency."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.values import Clock

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


class OutcomeStore(Protocol):
    """Counts outcomes per tenant and hour."""

    async def count(
        self, tenant_id: UUID, *, hour: datetime, kind: OutcomeKind, latency_bucket: int, times: int = 1
    ) -> None:
        """Add outcomes of one kind to an hour."""

    async def between(self, tenant_id: UUID, *, start: datetime, end: datetime) -> Sequence[OutcomeCount]:
        """Return the sums over all hours with start <= hour < end, by kind and latency."""

    async def last_success(self, tenant_id: UUID, *, before: datetime) -> datetime | None:
        """Return the last hour with a success that starts before a moment."""


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


class HealthService:
    """Keeps count of outcomes, of which a score is made (`insight.scores`)."""

    def __init__(self, *, store: OutcomeStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def update_health(self, tenant_id: UUID, *, kind: OutcomeKind, latency_ms: int) -> None:
        """Count how a request ended."""
        hour = hour_of(self._clock.now())
        await self._store.count(tenant_id, hour=hour, kind=kind, latency_bucket=latency_bucket(latency_ms))
