"""Invoices in SQL."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, select, update

from tritium_platform.adapters.sql.tables.invoices import (
    invoice_documents,
    invoice_lines,
    invoice_payments,
    invoices,
    number_series,
)
from tritium_platform.billing.invoice import (
    FiledLine,
    Invoice,
    InvoiceDocument,
    InvoiceKind,
    InvoiceStatus,
    Payment,
)
from tritium_platform.values import CalendarMonth, Interval

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Row, Select

    from tritium_platform.adapters.sql.database import Database

_table = invoices.c


class SqlInvoiceStore:
    """Keeps invoices; documents, lines, payments and draws are written once, and no number is skipped."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, invoice: Invoice) -> bool:
        """Keep an invoice; False if the month of the tenant is billed in that currency already."""
        statement = (
            self._database.insert(invoices)
            .values(**_values(invoice))
            .on_conflict_do_nothing()
            .returning(_table.id)
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def get(self, invoice_id: UUID) -> Invoice | None:
        """Return an invoice."""
        return await self._one(select(invoices).where(_table.id == invoice_id))

    async def lock(self, invoice_id: UUID) -> Invoice | None:
        """Return an invoice that nobody else changes until the unit of work ends."""
        statement = select(invoices).where(_table.id == invoice_id).with_for_update()
        async with self._database.write() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else invoice_of(row)

    async def save(self, invoice: Invoice) -> None:
        """Keep what changed of an invoice's head."""
        statement = update(invoices).where(_table.id == invoice.id).values(**_values(invoice))
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def list(
        self,
        *,
        tenant_id: UUID | None,
        statuses: Sequence[InvoiceStatus],
        limit: int,
        after: UUID | None = None,
    ) -> Sequence[Invoice]:
        """Return invoices, newest first, those older than `after`; no statuses: all."""
        statement = select(invoices).order_by(_table.id.desc()).limit(limit)
        if tenant_id is not None:
            statement = statement.where(_table.tenant_id == tenant_id)
        if statuses:
            statement = statement.where(_table.status.in_([status.value for status in statuses]))
        if after is not None:
            statement = statement.where(_table.id < after)
        return await self._all(statement)

    async def due_before(self, moment: datetime, *, limit: int) -> Sequence[Invoice]:
        """Return invoices that are finalized or partially paid and were due before a moment."""
        waiting = [InvoiceStatus.FINALIZED.value, InvoiceStatus.PARTIALLY_PAID.value]
        return await self._all(
            select(invoices)
            .where(
                _table.status.in_(waiting),
                _table.kind == InvoiceKind.INVOICE.value,
                _table.due_at < moment,
            )
            .order_by(_table.id)
            .limit(limit)
        )

    async def credit_notes(self, invoice_id: UUID) -> Sequence[Invoice]:
        """Return the credit notes of an invoice, oldest first."""
        return await self._all(
            select(invoices).where(_table.credits_invoice_id == invoice_id).order_by(_table.id)
        )

    async def next_number(self, series: str) -> int:
        """Take the next number of a series; nobody else gets one until the unit of work ends."""
        first = self._database.insert(number_series).values(name=series, last=0).on_conflict_do_nothing()
        taken = (
            update(number_series)
            .where(number_series.c.name == series)
            .values(last=number_series.c.last + 1)
            .returning(number_series.c.last)
        )
        async with self._database.write() as connection:
            await connection.execute(first)
            number: int = (await connection.execute(taken)).scalar_one()
            return number

    async def add_document(self, document: InvoiceDocument) -> None:
        """Keep a document for ever."""
        async with self._database.write() as connection:
            await connection.execute(self._database.insert(invoice_documents).values(**asdict(document)))

    async def document(self, invoice_id: UUID) -> InvoiceDocument | None:
        """Return what a finalized invoice says."""
        statement = select(invoice_documents).where(invoice_documents.c.invoice_id == invoice_id)
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else InvoiceDocument(**row._asdict())

    async def add_lines(self, invoice: Invoice, lines: Sequence[FiledLine]) -> None:
        """Keep what an invoice charges."""
        rows = [
            _line_values(line) | {"invoice_id": invoice.id, "tenant_id": invoice.tenant_id} for line in lines
        ]
        if rows:
            async with self._database.write() as connection:
                await connection.execute(self._database.insert(invoice_lines), rows)

    async def charged(self, tenant_id: UUID, month: CalendarMonth) -> Sequence[FiledLine]:
        """Return what invoices that are not void charged for a month."""
        statement = (
            select(invoice_lines)
            .join(invoices, _table.id == invoice_lines.c.invoice_id)
            .where(
                invoice_lines.c.tenant_id == tenant_id,
                invoice_lines.c.period == str(month),
                _table.status != InvoiceStatus.VOID.value,
            )
            .order_by(invoice_lines.c.invoice_id, invoice_lines.c.number)
        )
        async with self._database.read() as connection:
            return [invoice_line(row) for row in await connection.execute(statement)]

    async def last_period(self, tenant_id: UUID) -> CalendarMonth | None:
        """Return the latest month that an invoice which is neither void nor a draft is about."""
        settled = and_(
            _table.kind == InvoiceKind.INVOICE.value,
            _table.status.not_in([InvoiceStatus.DRAFT.value, InvoiceStatus.VOID.value]),
        )
        statement = select(func.max(_table.period)).where(_table.tenant_id == tenant_id, settled)
        async with self._database.read() as connection:
            last = (await connection.execute(statement)).scalar_one()
        return None if last is None else CalendarMonth.parse(last)

    async def add_payment(self, payment: Payment) -> None:
        """Keep a payment for ever."""
        async with self._database.write() as connection:
            await connection.execute(self._database.insert(invoice_payments).values(**asdict(payment)))

    async def payments(self, invoice_id: UUID) -> Sequence[Payment]:
        """Return the payments of an invoice, oldest first."""
        statement = (
            select(invoice_payments)
            .where(invoice_payments.c.invoice_id == invoice_id)
            .order_by(invoice_payments.c.id)
        )
        async with self._database.read() as connection:
            return [Payment(**row._asdict()) for row in await connection.execute(statement)]

    async def _one(self, statement: Select[Any]) -> Invoice | None:
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else invoice_of(row)

    async def _all(self, statement: Select[Any]) -> Sequence[Invoice]:
        async with self._database.read() as connection:
            return [invoice_of(row) for row in await connection.execute(statement)]


def _values(invoice: Invoice) -> dict[str, Any]:
    return asdict(invoice) | {
        "kind": invoice.kind.value,
        "status": invoice.status.value,
        "period": str(invoice.period),
    }


def invoice_of(row: Row[Any]) -> Invoice:
    """Read a row of the heads."""
    fields = row._asdict()
    fields |= {
        "kind": InvoiceKind(row.kind),
        "status": InvoiceStatus(row.status),
        "period": CalendarMonth.parse(row.period),
    }
    return Invoice(**fields)


def _line_values(line: FiledLine) -> dict[str, Any]:
    # A quantity may be larger than the largest integer of a database.
    interval = line.interval
    return {
        "number": line.number,
        "period": str(line.period),
        "charge": line.charge,
        "cell": json.dumps(line.cell),
        "plan_id": line.plan_id,
        "quantity": str(line.quantity),
        "net_minor": line.net_minor,
        "tax_minor": line.tax_minor,
        "starts_at": interval.start if interval else None,
        "ends_at": interval.end if interval else None,
    }


def invoice_line(row: Row[Any]) -> FiledLine:
    """Read a row of the lines."""
    return FiledLine(
        number=row.number,
        period=CalendarMonth.parse(row.period),
        charge=row.charge,
        cell=tuple(json.loads(row.cell)),
        plan_id=row.plan_id,
        quantity=int(row.quantity),
        net_minor=row.net_minor,
        tax_minor=row.tax_minor,
        interval=Interval(row.starts_at, row.ends_at) if row.starts_at else None,
    )
