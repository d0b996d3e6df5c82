"""Fair use in SQL: counts of refusals, and measures."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, update

from tritium_platform.adapters.sql.tables.fairuse import fair_use_measures, fair_use_refusals
from tritium_platform.quotas.fairuse import FairUseAction, FairUseMeasure, FairUseRule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Row

    from tritium_platform.adapters.sql.database import Database


class SqlFairUseStore:
    """Keeps counts of refusals and the measures that were taken."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count_refusal(self, tenant_id: UUID, *, slot: datetime, code: str) -> None:
        """Add one refusal with an error's code to the slot of time that begins at `slot`."""
        statement = self._database.insert(fair_use_refusals).values(
            tenant_id=tenant_id, slot=slot, code=code, count=1
        )
        async with self._database.write() as connection:
            await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=list(fair_use_refusals.primary_key.columns),
                    set_={"count": fair_use_refusals.c["count"] + 1},
                )
            )

    async def refusals(self, *, since: datetime) -> Mapping[UUID, Mapping[str, int]]:
        """Return the sums by tenant and code over all slots that begin at `since` or later."""
        table = fair_use_refusals.c
        statement = (
            select(table.tenant_id, table.code, func.sum(table["count"]).label("total"))
            .where(table.slot >= since)
            .group_by(table.tenant_id, table.code)
        )
        found: dict[UUID, dict[str, int]] = defaultdict(dict)
        async with self._database.read() as connection:
            for row in await connection.execute(statement):
                found[row.tenant_id][row.code] = int(row.total)
        return dict(found)

    async def remove_refusals(self, *, before: datetime) -> int:
        """Forget the slots that began before a moment; return how many."""
        statement = delete(fair_use_refusals).where(fair_use_refusals.c.slot < before)
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount

    async def add(self, measure: FairUseMeasure) -> None:
        """Keep a new measure."""
        values = {column.name: getattr(measure, column.name) for column in fair_use_measures.columns}
        values |= {"rule": measure.rule.value, "action": measure.action.value, "share": str(measure.share)}
        async with self._database.write() as connection:
            await connection.execute(insert(fair_use_measures).values(**values))

    async def get(self, measure_id: UUID) -> FairUseMeasure | None:
        """Return a measure."""
        statement = select(fair_use_measures).where(fair_use_measures.c.id == measure_id)
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else _measure(row)

    async def lift(self, measure: FairUseMeasure) -> bool:
        """Write when and why a measure was lifted; False if it was lifted before."""
        statement = (
            update(fair_use_measures)
            .where(fair_use_measures.c.id == measure.id, fair_use_measures.c.lifted_at.is_(None))
            .values(lifted_at=measure.lifted_at, lifted_because=measure.lifted_because)
            .returning(fair_use_measures.c.id)
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def list(
        self, *, tenant_id: UUID | None = None, since: datetime | None = None, limit: int
    ) -> Sequence[FairUseMeasure]:
        """Return measures that began at `since` or later, newest first."""
        table = fair_use_measures.c
        statement = select(fair_use_measures).order_by(table.starts_at.desc(), table.id.desc()).limit(limit)
        if tenant_id is not None:
            statement = statement.where(table.tenant_id == tenant_id)
        if since is not None:
            statement = statement.where(table.starts_at >= since)
        async with self._database.read() as connection:
            return [_measure(row) for row in await connection.execute(statement)]


def _measure(row: Row[Any]) -> FairUseMeasure:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name begins with an underscore
    values["rule"], values["action"] = FairUseRule(row.rule), FairUseAction(row.action)
    return FairUseMeasure(**(values | {"share": Fraction(row.share)}))
