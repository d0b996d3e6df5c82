"""Kept health scores in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.insight.scores import KeptScore


class MemoryScoreStore:
    """Keeps scores, one per tenant and hour, for ever."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, kept: KeptScore) -> bool:
        """Keep a score; False if the tenant's of that hour is kept already."""
        async with self._database.write():
            return self._scores.setdefault((kept.tenant_id, kept.as_of), kept) is kept

    async def get(self, tenant_id: UUID, *, as_of: datetime) -> KeptScore | None:
        """Return what was kept for an hour."""
        return self._scores.get((tenant_id, as_of))

    async def list(
        self, tenant_id: UUID, *, limit: int, before: datetime | None = None
    ) -> Sequence[KeptScore]:
        """Return a tenant's kept scores, newest first, those of before a moment."""
        mine = [
            each
            for (of, as_of), each in self._scores.items()
            if of == tenant_id and (before is None or as_of < before)
        ]
        return sorted(mine, key=lambda each: each.as_of, reverse=True)[:limit]

    @property
    def _scores(self) -> dict[tuple[UUID, datetime], KeptScore]:
        return self._database.tables["health_scores"]
