"""Positions of spools in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from tritium_platform.adapters.sql.tables.quotas import spools

if TYPE_CHECKING:
    from uuid import UUID

    from tritium_platform.adapters.sql.database import Database


class SqlSpoolPositions:
    """Remembers how far each spool is in the books."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, spool_id: UUID) -> int:
        """Return the position of a spool; 0 for an unknown one."""
        async with self._database.read() as connection:
            found = await connection.scalar(select(spools.c.position).where(spools.c.id == spool_id))
        return found or 0

    async def put(self, spool_id: UUID, *, position: int) -> None:
        """Remember a position."""
        statement = self._database.insert(spools).values(id=spool_id, position=position)
        async with self._database.write() as connection:
            await connection.execute(
                statement.on_conflict_do_update(index_elements=[spools.c.id], set_={"position": position})
            )

    async def remove(self, spool_id: UUID) -> None:
        """Forget a spool."""
        async with self._database.write() as connection:
            await connection.execute(delete(spools).where(spools.c.id == spool_id))
