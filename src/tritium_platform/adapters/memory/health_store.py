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

    async def recent(self, tenant_id: UUID, *, since: datetime) -> Sequence[OutcomeCount]:
        """Return the sums over all hours that start at `since` or later."""
        await self._database.read_books()
        sums: Counter[tuple[OutcomeKind, int]] = Counter()
        for (of, hour, kind, bucket), count in self._counts.items():
            if of == tenant_id and hour >= since:
                sums[kind, bucket] += count
        return [OutcomeCount(*key, count) for key, count in sorted(sums.items())]

    @property
    def _counts(self) -> dict[Key, int]:
        return self._database.tables["health_outcomes"]
