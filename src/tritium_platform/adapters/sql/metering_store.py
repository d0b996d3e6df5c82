"""Usage records in SQL: the unique key is the deduplication, in the same transaction as the row."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import String, cast, func, select

from tritium_platform.adapters.sql.exact_sum import ExactSum
from tritium_platform.adapters.sql.many_rows import insert_new
from tritium_platform.adapters.sql.tables.metering import QUANTITIES, RESOURCES, usage_records
from tritium_platform.adapters.sql.tables.tenancy import tenants
from tritium_platform.metering.model import (
    Meter,
    OperationType,
    Report,
    ResourceUsage,
    TenantActivity,
    TokenCount,
    UsageQuantities,
    UsageRecord,
    UsageTotal,
)
from tritium_platform.tenancy.model import TenantTier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Row

    from tritium_platform.adapters.sql.database import Database

METER_COLUMNS = {
    Meter.INPUT_TOKENS: usage_records.c.input_tokens,
    Meter.OUTPUT_TOKENS: usage_records.c.output_tokens,
    Meter.EMBEDDING_TOKENS: usage_records.c.embedding_tokens,
    Meter.QUANTIZED_PARAMETERS: usage_records.c.quantized_parameters,
    Meter.COMPUTE_MS: usage_records.c.compute_time_ms,
}
_HOUR = "%Y-%m-%d %H"


class SqlUsageStore:
    """Keeps usage records; (tenant_id, source, event_id) is unique for ever."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, record: UsageRecord) -> bytes | None:
        """Keep a record and return None; if its key is taken, return the kept body's digest instead."""
        values = record_values(record)
        statement = (
            self._database.insert(usage_records)
            .values(**values)
            .on_conflict_do_nothing(index_elements=[usage_records.c.unique_key])
            .returning(usage_records.c.id)
        )
        kept = select(usage_records.c.body_sha256).where(
            usage_records.c.unique_key == values["unique_key"],
        )
        async with self._database.write() as connection:
            if (await connection.execute(statement)).one_or_none() is not None:
                return None
            return bytes((await connection.execute(kept)).scalar_one())

    async def insert_all(self, records: Sequence[UsageRecord]) -> None:
        """Keep records, but for those whose key is taken."""
        rows = [record_values(record) for record in records]
        await insert_new(self._database, usage_records, rows, key=("unique_key",))

    async def list(
        self, tenant_id: UUID, *, start: datetime, end: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[UsageRecord]:
        """Return a tenant's records with start <= occurred_at < end by their ids, those after `after`."""
        statement = (
            select(usage_records)
            .where(
                usage_records.c.tenant_id == tenant_id,
                usage_records.c.occurred_at >= start,
                usage_records.c.occurred_at < end,
            )
            .order_by(usage_records.c.id)
            .limit(limit)
        )
        if after is not None:
            statement = statement.where(usage_records.c.id > after)
        async with self._database.read_books() as connection:
            rows = await connection.execute(statement)
        return [usage_record(row) for row in rows]

    async def totals(self, tenant_id: UUID, *, start: datetime, end: datetime) -> Sequence[UsageTotal]:
        """Return a tenant's non-zero sums per tier and meter with start <= occurred_at < end, sorted."""
        statement = (
            select(
                usage_records.c.tier,
                *(ExactSum(column).label(meter.value) for meter, column in METER_COLUMNS.items()),
            )
            .where(
                usage_records.c.tenant_id == tenant_id,
                usage_records.c.occurred_at >= start,
                usage_records.c.occurred_at < end,
            )
            .group_by(usage_records.c.tier)
        )
        async with self._database.read_books() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        totals = [
            UsageTotal(TenantTier(row["tier"]), meter, row[meter.value]) for row in rows for meter in Meter
        ]
        return sorted((each for each in totals if each.quantity), key=lambda each: (each.tier, each.meter))

    async def activity(self, *, start: datetime, end: datetime) -> Sequence[TenantActivity]:
        """Return every tenant's uses of this service in a period, sorted by tenant; none without any."""
        statement = (
            select(
                usage_records.c.tenant_id,
                func.count().label("requests"),
                ExactSum(usage_records.c.compute_time_ms).label("compute_ms"),
            )
            .where(*_of_everybody(start=start, end=end))
            .group_by(usage_records.c.tenant_id)
            .order_by(usage_records.c.tenant_id)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).all()
        return [
            TenantActivity(tenant_id=row.tenant_id, requests=row.requests, compute_ms=row.compute_ms)
            for row in rows
        ]

    async def hourly_tokens(self, *, start: datetime, end: datetime) -> Sequence[TokenCount]:
        """Return the non-zero sums per tier, model and hour of uses of this service, sorted."""
        table = usage_records.c
        hour = self._hour().label("hour")
        kinds = (table.input_tokens, table.output_tokens, table.embedding_tokens)
        compute = ExactSum(table.compute_time_ms).label("compute_ms")
        statement = (
            select(table.tier, table.model, hour, compute, *map(ExactSum, kinds))
            .where(*_of_everybody(start=start, end=end))
            .group_by(table.tier, table.model, hour)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).all()
        counts = [
            TokenCount(
                tier=TenantTier(row.tier),
                model=row.model,
                hour=datetime.strptime(row.hour, _HOUR).replace(tzinfo=UTC),
                tokens=tokens,
                compute_ms=row.compute_ms,
            )
            for row in rows
            if (tokens := sum(row[4:]))
        ]
        return sorted(counts, key=lambda each: (each.tier, each.model, each.hour))

    def _hour(self) -> ColumnElement[str]:
        """Return the hour of a use as text: SQLite keeps moments as text in UTC, PostgreSQL as moments."""
        occurred = usage_records.c.occurred_at
        if self._database.is_sqlite:
            return func.substr(cast(occurred, String), 1, len("2026-11-29 12"))
        return func.to_char(func.timezone("UTC", occurred), "YYYY-MM-DD HH24")


def _of_everybody(*, start: datetime, end: datetime) -> list[ColumnElement[bool]]:
    """Return the conditions of what was done here in a period, as opposed to what others report.

    The tenants are named, so that the index of each finds its part.
    """
    return [
        usage_records.c.tenant_id.in_(select(tenants.c.id)),
        usage_records.c.operation != OperationType.EXTERNAL.value,
        usage_records.c.occurred_at >= start,
        usage_records.c.occurred_at < end,
    ]


def record_values(record: UsageRecord) -> dict[str, Any]:
    """Spell a record as a row of the table."""
    return {
        "id": record.id,
        "tenant_id": record.tenant_id,
        "source": record.source,
        "event_id": record.event_id,
        "unique_key": UUID(bytes=record.unique_key()),
        "operation": record.operation.value,
        "tier": record.tier.value,
        "outcome": record.outcome,
        "model": record.model,
        "key_id": record.key_id,
        "occurred_at": record.occurred_at,
        "body_sha256": record.body_sha256(),
        "device": record.device,
        **_report_values(record.report),
        **{name: getattr(record.quantities, name) for name in QUANTITIES},
        **{name: getattr(record.resources, name) for name in RESOURCES},
    }


def _report_values(report: Report | None) -> dict[str, Any]:
    if report is None:
        return {"dimensions": None, "received_at": None}
    said = json.dumps(report.dimensions, sort_keys=True) if report.dimensions else None
    return {"dimensions": said, "received_at": report.received_at}


def usage_record(row: Row[Any]) -> UsageRecord:
    """Read a row of the table."""
    return UsageRecord(
        id=row.id,
        tenant_id=row.tenant_id,
        source=row.source,
        event_id=row.event_id,
        operation=OperationType(row.operation),
        tier=TenantTier(row.tier),
        outcome=row.outcome,
        occurred_at=row.occurred_at,
        quantities=UsageQuantities(**{name: getattr(row, name) for name in QUANTITIES}),
        resources=ResourceUsage(**{name: getattr(row, name) for name in RESOURCES}),
        model=row.model,
        key_id=row.key_id,
        report=_report(row),
    )


def _report(row: Row[Any]) -> Report | None:
    if row.received_at is None:
        return None
    said = json.loads(row.dimensions) if row.dimensions else {}
    return Report(dimensions=said, received_at=row.received_at, body_sha256=bytes(row.body_sha256))
