"""Counts of outcomes in memory."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tritium_platform.insight.health import OutcomeCount, OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase

Key = tuple["UUID", "datetime", OutcomeKind, int]


class MemoryOutcomeStore:
    """Counts outcomes per tenant and hour."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def count(
        self, tenant_id: UUID, *, hour: datetime, kind: OutcomeKind, latency_bucket: int, times: int = 1
    ) -> None:
        """Add outcomes of one kind to an hour."""
        async with self._database.write():
            key = (tenant_id, hour, kind, latency_bucket)
            self._counts[key] = self._counts.get(key, 0) + times

    async def between(self, tenant_id: UUID, *, start: datetime, end: datetime) -> Sequence[OutcomeCount]:
        """Return the sums over all hours with start <= hour < end, by kind and latency."""
        await self._database.read_books()
        sums: Counter[tuple[OutcomeKind, int]] = Counter()
        for (of, hour, kind, bucket), count in self._counts.items():
            if of == tenant_id and start <= hour < end:
                sums[kind, bucket] += count
        return [OutcomeCount(*key, count) for key, count in sorted(sums.items())]

    async def last_success(self, tenant_id: UUID, *, before: datetime) -> datetime | None:
        """Return the last hour with a success that starts before a moment."""
        await self._database.read_books()
        hours = [
            hour
            for of, hour, kind, _ in self._counts
            if of == tenant_id and hour < before and kind is OutcomeKind.SUCCESS
        ]
        return max(hours, default=None)

    @property
    def _counts(self) -> dict[Key, int]:
        return self._database.tables["health_outcomes"]
