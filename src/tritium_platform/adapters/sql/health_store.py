"""Counts of outcomes in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from tritium_platform.adapters.sql.tables.insight import health_outcomes
from tritium_platform.insight.health import OutcomeCount, OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.sql.database import Database


class SqlOutcomeStore:
    """Counts outcomes per tenant and hour."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(
        self, tenant_id: UUID, *, hour: datetime, kind: OutcomeKind, latency_bucket: int, times: int = 1
    ) -> None:
        """Add outcomes of one kind to an hour."""
        statement = self._database.insert(health_outcomes).values(
            tenant_id=tenant_id, hour=hour, kind=kind.value, latency_bucket=latency_bucket, count=times
        )
        async with self._database.write() as connection:
            await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=list(health_outcomes.primary_key.columns),
                    set_={"count": health_outcomes.c["count"] + times},
                )
            )

    async def between(self, tenant_id: UUID, *, start: datetime, end: datetime) -> Sequence[OutcomeCount]:
        """Return the sums over all hours with start <= hour < end, by kind and latency."""
        kind, bucket = health_outcomes.c.kind, health_outcomes.c.latency_bucket
        statement = (
            select(kind, bucket, func.sum(health_outcomes.c["count"]).label("total"))
            .where(
                health_outcomes.c.tenant_id == tenant_id,
                health_outcomes.c.hour >= start,
                health_outcomes.c.hour < end,
            )
            .group_by(kind, bucket)
            .order_by(kind, bucket)
        )
        async with self._database.read_books() as connection:
            rows = (await connection.execute(statement)).all()
        return [OutcomeCount(OutcomeKind(row.kind), row.latency_bucket, int(row.total)) for row in rows]

    async def last_success(self, tenant_id: UUID, *, before: datetime) -> datetime | None:
        """Return the last hour with a success that starts before a moment."""
        statement = (
            select(health_outcomes.c.hour)
            .where(
                health_outcomes.c.tenant_id == tenant_id,
                health_outcomes.c.hour < before,
                health_outcomes.c.kind == OutcomeKind.SUCCESS.value,
            )
            .order_by(health_outcomes.c.hour.desc())
            .limit(1)
        )
        async with self._database.read_books() as connection:
            found: datetime | None = (await connection.execute(statement)).scalar_one_or_none()
        return found
