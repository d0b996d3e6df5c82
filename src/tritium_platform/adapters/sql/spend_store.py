"""Spend caps in SQL."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from tritium_platform.adapters.sql.tables.spending import spend_caps, spend_marks
from tritium_platform.quotas.spend_cap import SpendCap, SpendMark, SpendMode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.sql.database import Database


class SqlSpendStore:
    """Keeps caps, and what happened to them by month."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def caps(self) -> Sequence[SpendCap]:
        """Return all caps by tenant."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(spend_caps).order_by(spend_caps.c.tenant_id))).all()
        return [SpendCap(**row._asdict() | {"mode": SpendMode(row.mode)}) for row in rows]

    async def put(self, cap: SpendCap) -> None:
        """Keep a cap in the place of the tenant's earlier one."""
        values = asdict(cap) | {"mode": cap.mode.value}
        statement = self._database.insert(spend_caps).values(values)
        async with self._database.write() as connection:
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["tenant_id"], set_=values)
            )

    async def remove(self, tenant_id: UUID) -> bool:
        """Forget a cap; False if there is none."""
        statement = delete(spend_caps).where(spend_caps.c.tenant_id == tenant_id)
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount > 0

    async def mark(self, tenant_id: UUID, *, period: str, name: str, at: datetime) -> bool:
        """Note that something happened; True the first time in a month, later it is counted only."""
        statement = self._database.insert(spend_marks).values(
            tenant_id=tenant_id, period=period, name=name, count=1, created_at=at
        )
        counted = statement.on_conflict_do_update(
            index_elements=list(spend_marks.primary_key.columns),
            set_={"count": spend_marks.c["count"] + 1},
        ).returning(spend_marks.c["count"])
        async with self._database.write() as connection:
            count: int = (await connection.execute(counted)).scalar_one()
        return count == 1

    async def unmark(self, tenant_id: UUID, *, period: str, names: Sequence[str]) -> None:
        """Forget that something happened in a month."""
        table = spend_marks.c
        statement = delete(spend_marks).where(
            table.tenant_id == tenant_id, table.period == period, table.name.in_(names)
        )
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def marks(self, tenant_id: UUID, *, period: str) -> Sequence[SpendMark]:
        """Return what happened in a month, by name."""
        table = spend_marks.c
        statement = (
            select(table.name, table["count"].label("times"), table.created_at)
            .where(table.tenant_id == tenant_id, table.period == period)
            .order_by(table.name)
        )
        async with self._database.read_books() as connection:
            rows = (await connection.execute(statement)).all()
        return [SpendMark(row.name, row.times, row.created_at) for row in rows]
