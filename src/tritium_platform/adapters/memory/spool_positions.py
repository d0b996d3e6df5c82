"""Positions of spools in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase


class MemorySpoolPositions:
    """Remembers how far each spool is in the books."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def get(self, spool_id: UUID) -> int:
        """Return the position of a spool; 0 for an unknown one."""
        return int(self._database.tables["spools"].get(spool_id, 0))

    async def put(self, spool_id: UUID, *, position: int) -> None:
        """Remember a position."""
        async with self._database.write():
            self._database.tables["spools"][spool_id] = position

    async def remove(self, spool_id: UUID) -> None:
        """Forget a spool."""
        async with self._database.write():
            self._database.tables["spools"].pop(spool_id, None)
