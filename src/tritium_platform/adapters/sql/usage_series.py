"""Sums of a tenant's uses by time and by what, in SQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, and_, cast, func, literal, or_, select

from tritium_platform.adapters.sql.exact_sum import ExactSum
from tritium_platform.adapters.sql.metering_store import METER_COLUMNS
from tritium_platform.adapters.sql.tables.metering import usage_records
from tritium_platform.insight.analytics import Dimension, Step, UsagePoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import ColumnElement, Row

    from tritium_platform.adapters.sql.database import Database

COLUMNS = {
    Dimension.MODEL: usage_records.c.model,
    Dimension.STATUS: usage_records.c.outcome,
    Dimension.OPERATION: usage_records.c.operation,
    Dimension.KEY: usage_records.c.key_id,
    Dimension.TIER: usage_records.c.tier,
    Dimension.DEVICE: usage_records.c.device,
}
PATTERNS = {Step.HOUR: "YYYY-MM-DD HH24", Step.DAY: "YYYY-MM-DD"}
LENGTHS = {Step.HOUR: len("2026-11-29 12"), Step.DAY: len("2026-11-29")}
SPELLED = {Step.HOUR: "%Y-%m-%d %H", Step.DAY: "%Y-%m-%d"}


class SqlUsageSeries:
    """Sums up a tenant's uses with start <= occurred_at < end."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def series(
        self,
        tenant_id: UUID,
        *,
        start: datetime,
        end: datetime,
        step: Step,
        dimension: Dimension | None,
        limit: int,
        after: tuple[datetime, str] | None = None,
    ) -> Sequence[UsagePoint]:
        """Return what was used, if anything was, by time and name (bytewise), from behind `after` on."""
        time, name = self._time(step), self._name(dimension)
        statement = (
            select(time.label("time"), name.label("name"), *_sums())
            .where(*_of(tenant_id, start=start, end=end))
            .group_by("time", "name")
            .order_by("time", "name")
            .limit(limit)
        )
        if after is not None:
            moment, last = after[0].astimezone(UTC).strftime(SPELLED[step]), after[1]
            statement = statement.where(or_(time > moment, and_(time == moment, name > last)))
        async with self._database.read_books() as connection:
            rows = (await connection.execute(statement)).all()
        return [
            _point(row, start=datetime.strptime(row.time, SPELLED[step]).replace(tzinfo=UTC)) for row in rows
        ]

    async def top(
        self, tenant_id: UUID, *, start: datetime, end: datetime, dimension: Dimension, limit: int
    ) -> Sequence[UsagePoint]:
        """Return who or what had most uses in the period, most first; equals by name."""
        statement = (
            select(self._name(dimension).label("name"), *_sums())
            .where(*_of(tenant_id, start=start, end=end))
            .group_by("name")
            .order_by(func.count().desc(), "name")
            .limit(limit)
        )
        async with self._database.read_books() as connection:
            rows = (await connection.execute(statement)).all()
        return [_point(row, start=start) for row in rows]

    def _time(self, step: Step) -> ColumnElement[str]:
        """Return hour or day as text: SQLite keeps moments as text in UTC, PostgreSQL as moments."""
        occurred = usage_records.c.occurred_at
        if self._database.is_sqlite:
            return func.substr(cast(occurred, String), 1, LENGTHS[step])
        return func.to_char(func.timezone("UTC", occurred), PATTERNS[step])

    def _name(self, dimension: Dimension | None) -> ColumnElement[str]:
        """Return the name; bytewise on both, for a page must go on where the last one ended."""
        name: ColumnElement[str] = (
            cast(literal(""), String) if dimension is None else func.coalesce(COLUMNS[dimension], "")
        )
        return name if self._database.is_sqlite else name.collate("C")


def _sums() -> list[ColumnElement[Any]]:
    sums = [ExactSum(column).label(meter.value) for meter, column in METER_COLUMNS.items()]
    return [func.count().label("uses"), *sums]


def _of(tenant_id: UUID, *, start: datetime, end: datetime) -> list[ColumnElement[bool]]:
    table = usage_records.c
    return [table.tenant_id == tenant_id, table.occurred_at >= start, table.occurred_at < end]


def _point(row: Row[Any], *, start: datetime) -> UsagePoint:
    meters = {meter: getattr(row, meter.value) for meter in METER_COLUMNS}
    return UsagePoint(
        start=start,
        name=row.name,
        uses=row.uses,
        meters={meter: count for meter, count in meters.items() if count},
    )
