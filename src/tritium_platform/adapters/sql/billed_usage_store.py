"""Which uses an invoice charged, in SQL: a unique index holds each to one invoice that is not void."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, false, func, literal, or_, select, update

from tritium_platform.adapters.sql.exact_sum import ExactSum
from tritium_platform.adapters.sql.metering_store import METER_COLUMNS, usage_record
from tritium_platform.adapters.sql.tables.invoices import invoice_events
from tritium_platform.adapters.sql.tables.metering import usage_records
from tritium_platform.billing.rating.plan import Usage
from tritium_platform.metering.model import Meter
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement

    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.billing.invoice import Invoice
    from tritium_platform.metering.model import UsageRecord
    from tritium_platform.values import Interval

_use = usage_records.c
_event = invoice_events.c


class SqlBilledUsageStore:
    """Knows which uses an invoice charged: each at most once among invoices that are not void."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def unbilled_months(self, tenant_id: UUID, *, before: datetime) -> Sequence[CalendarMonth]:
        """Return the months with uses before a moment that no invoice charged, oldest first."""
        month = self._month()
        statement = (
            select(month)
            .where(_use.tenant_id == tenant_id, _use.occurred_at < before, ~_is_billed())
            .distinct()
            .order_by(month)
        )
        async with self._database.read_books() as connection:
            return [CalendarMonth.parse(text) for text in (await connection.execute(statement)).scalars()]

    async def usage(self, tenant_id: UUID, *, interval: Interval, is_only_billed: bool) -> Sequence[Usage]:
        """Return the sums of a time by meter, tier, model, device: of all uses, or of billed ones."""
        statement = (
            select(
                _use.tier,
                _use.model,
                _use.device,
                *(ExactSum(column).label(meter.value) for meter, column in METER_COLUMNS.items()),
            )
            .where(_use.tenant_id == tenant_id, _in(interval))
            .group_by(_use.tier, _use.model, _use.device)
        )
        if is_only_billed:
            statement = statement.where(_is_billed())
        async with self._database.read_books() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        found = [
            Usage(
                meter=meter,
                tier=TenantTier(row["tier"]),
                quantity=row[meter.value],
                model=row["model"],
                device=row["device"],
            )
            for row in rows
            for meter in Meter
            if row[meter.value]
        ]
        return sorted(found, key=lambda use: (use.meter, use.tier, use.model, use.device))

    async def bill(self, invoice: Invoice, months: Sequence[CalendarMonth]) -> int:
        """Give an invoice every use of some months that no other one charged; return how many."""
        uses = select(literal(invoice.id, _event.invoice_id.type), _use.id, _use.tenant_id, false()).where(
            _use.tenant_id == invoice.tenant_id,
            or_(false(), *(_in(month.interval) for month in months)),
            ~_is_billed(),
        )
        columns = ["invoice_id", "usage_id", "tenant_id", "is_void"]
        statement = self._database.insert(invoice_events).from_select(columns, uses)
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount

    async def release(self, invoice_id: UUID) -> None:
        """Let the uses of an invoice be billed again; what it charged can still be read."""
        statement = update(invoice_events).where(_event.invoice_id == invoice_id).values(is_void=True)
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def events(
        self, invoice_id: UUID, *, limit: int, after: UUID | None = None, interval: Interval | None = None
    ) -> Sequence[UsageRecord]:
        """Return the uses that an invoice charged, by their ids; of a time, if one is given."""
        statement = (
            select(usage_records)
            .join(invoice_events, _event.usage_id == _use.id)
            .where(_event.invoice_id == invoice_id)
            .order_by(_event.usage_id)  # the order of the key: a page costs a page
            .limit(limit)
        )
        if after is not None:
            statement = statement.where(_event.usage_id > after)
        if interval is not None:
            statement = statement.where(_in(interval))
        async with self._database.read() as connection:
            return [usage_record(row) for row in await connection.execute(statement)]

    def _month(self) -> ColumnElement[Any]:
        if self._database.is_sqlite:
            return func.strftime("%Y-%m", _use.occurred_at)
        return func.to_char(func.timezone("UTC", _use.occurred_at), "YYYY-MM")


def _in(interval: Interval) -> ColumnElement[bool]:
    return and_(_use.occurred_at >= interval.start, _use.occurred_at < interval.end)


def _is_billed() -> ColumnElement[bool]:
    return select(_event.usage_id).where(_event.usage_id == _use.id, ~_event.is_void).exists()
