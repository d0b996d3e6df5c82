"""Kept health scores in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from tritium_platform.adapters.sql.tables.insight import health_scores
from tritium_platform.insight.scores import KeptScore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Row

    from tritium_platform.adapters.sql.database import Database


class SqlScoreStore:
    """Keeps scores, one per tenant and hour, for ever."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, kept: KeptScore) -> bool:
        """Keep a score; False if the tenant's of that hour is kept already."""
        statement = (
            self._database.insert(health_scores)
            .values(
                tenant_id=kept.tenant_id,
                as_of=kept.as_of,
                definition=kept.definition,
                score=kept.score,
                body=kept.body,
            )
            .on_conflict_do_nothing(index_elements=["tenant_id", "as_of"])
            .returning(health_scores.c.as_of)
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def get(self, tenant_id: UUID, *, as_of: datetime) -> KeptScore | None:
        """Return what was kept for an hour."""
        statement = select(health_scores).where(
            health_scores.c.tenant_id == tenant_id, health_scores.c.as_of == as_of
        )
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else _kept(row)

    async def list(
        self, tenant_id: UUID, *, limit: int, before: datetime | None = None
    ) -> Sequence[KeptScore]:
        """Return a tenant's kept scores, newest first, those of before a moment."""
        statement = (
            select(health_scores)
            .where(health_scores.c.tenant_id == tenant_id)
            .order_by(health_scores.c.as_of.desc())
            .limit(limit)
        )
        if before is not None:
            statement = statement.where(health_scores.c.as_of < before)
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).all()
        return [_kept(row) for row in rows]


def _kept(row: Row[Any]) -> KeptScore:
    return KeptScore(
        tenant_id=row.tenant_id,
        as_of=row.as_of,
        definition=row.definition,
        score=row.score,
        body=bytes(row.body),
    )
