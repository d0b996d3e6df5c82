"""Invoices in memory, and the uses that they charged."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tritium_platform.billing.invoice import InvoiceKind, InvoiceStatus
from tritium_platform.billing.rating.plan import Usage
from tritium_platform.errors import ConflictError
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.billing.invoice import FiledLine, Invoice, InvoiceDocument, Payment
    from tritium_platform.metering.model import Meter, UsageRecord
    from tritium_platform.tenancy.model import TenantTier
    from tritium_platform.values import Interval

WAITING = (InvoiceStatus.FINALIZED, InvoiceStatus.PARTIALLY_PAID)


class MemoryInvoiceStore:
    """Keeps invoices; documents, lines, payments and draws are written once, and no number is skipped."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, invoice: Invoice) -> bool:
        """Keep an invoice; False if the month of the tenant is billed in that currency already."""
        async with self._database.write():
            is_taken = invoice.id in self._invoices or any(
                _month_of(each) == _month_of(invoice) for each in self._invoices.values() if _is_billing(each)
            )
            if is_taken and _is_billing(invoice):
                return False
            self._invoices[invoice.id] = invoice
        return True

    async def get(self, invoice_id: UUID) -> Invoice | None:
        """Return an invoice."""
        return self._invoices.get(invoice_id)

    async def lock(self, invoice_id: UUID) -> Invoice | None:
        """Return an invoice that nobody else changes until the unit of work ends."""
        return self._invoices.get(invoice_id)

    async def save(self, invoice: Invoice) -> None:
        """Keep what changed of an invoice's head."""
        async with self._database.write():
            self._invoices[invoice.id] = invoice

    async def list(
        self,
        *,
        tenant_id: UUID | None,
        statuses: Sequence[InvoiceStatus],
        limit: int,
        after: UUID | None = None,
    ) -> Sequence[Invoice]:
        """Return invoices, newest first, those older than `after`; no statuses: all."""
        found = [
            each
            for each in self._invoices.values()
            if tenant_id in (None, each.tenant_id)
            and (not statuses or each.status in statuses)
            and (after is None or each.id < after)
        ]
        return sorted(found, key=lambda each: each.id, reverse=True)[:limit]

    async def due_before(self, moment: datetime, *, limit: int) -> Sequence[Invoice]:
        """Return invoices that are finalized or partially paid and were due before a moment."""
        found = [
            each
            for each in self._invoices.values()
            if each.status in WAITING
            and each.kind is InvoiceKind.INVOICE
            and each.due_at is not None
            and each.due_at < moment
        ]
        return sorted(found, key=lambda each: each.id)[:limit]

    async def credit_notes(self, invoice_id: UUID) -> Sequence[Invoice]:
        """Return the credit notes of an invoice, oldest first."""
        found = [each for each in self._invoices.values() if each.credits_invoice_id == invoice_id]
        return sorted(found, key=lambda each: each.id)

    async def next_number(self, series: str) -> int:
        """Take the next number of a series; nobody else gets one until the unit of work ends."""
        async with self._database.write():
            numbers: dict[str, int] = self._database.tables["number_series"]
            numbers[series] = numbers.get(series, 0) + 1
            return numbers[series]

    async def add_document(self, document: InvoiceDocument) -> None:
        """Keep a document for ever."""
        async with self._database.write():
            last = max(
                (each.sequence for each in self._documents.values() if each.series == document.series),
                default=0,
            )
            if document.invoice_id in self._documents or document.sequence != last + 1:
                raise ConflictError("A document is written once, and the numbers have no gap.")
            self._documents[document.invoice_id] = document

    async def document(self, invoice_id: UUID) -> InvoiceDocument | None:
        """Return what a finalized invoice says."""
        return self._documents.get(invoice_id)

    async def add_lines(self, invoice: Invoice, lines: Sequence[FiledLine]) -> None:
        """Keep what an invoice charges."""
        async with self._database.write():
            self._database.tables["invoice_lines"][invoice.id] = tuple(lines)

    async def charged(self, tenant_id: UUID, month: CalendarMonth) -> Sequence[FiledLine]:
        """Return what invoices that are not void charged for a month."""
        filed: dict[UUID, tuple[FiledLine, ...]] = self._database.tables["invoice_lines"]
        return [
            line
            for invoice_id, lines in sorted(filed.items())
            for line in lines
            if self._invoices[invoice_id].tenant_id == tenant_id
            and self._invoices[invoice_id].status is not InvoiceStatus.VOID
            and line.period == month
        ]

    async def last_period(self, tenant_id: UUID) -> CalendarMonth | None:
        """Return the latest month that an invoice which is neither void nor a draft is about."""
        return max(
            (
                each.period
                for each in self._invoices.values()
                if each.tenant_id == tenant_id
                and _is_billing(each)
                and each.status is not InvoiceStatus.DRAFT
            ),
            default=None,
        )

    async def add_payment(self, payment: Payment) -> None:
        """Keep a payment for ever."""
        async with self._database.write():
            self._database.tables["invoice_payments"][payment.id] = payment

    async def payments(self, invoice_id: UUID) -> Sequence[Payment]:
        """Return the payments of an invoice, oldest first."""
        kept: dict[UUID, Payment] = self._database.tables["invoice_payments"]
        return [each for _, each in sorted(kept.items()) if each.invoice_id == invoice_id]

    @property
    def _invoices(self) -> dict[UUID, Invoice]:
        return self._database.tables["invoices"]

    @property
    def _documents(self) -> dict[UUID, InvoiceDocument]:
        return self._database.tables["invoice_documents"]


class MemoryBilledUsageStore:
    """Knows which uses an invoice charged: each at most once among invoices that are not void."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def unbilled_months(self, tenant_id: UUID, *, before: datetime) -> Sequence[CalendarMonth]:
        """Return the months with uses before a moment that no invoice charged, oldest first."""
        billed = self._billed()
        months = {
            CalendarMonth.of(record.occurred_at)
            for record in self._records()
            if record.tenant_id == tenant_id and record.occurred_at < before and record.id not in billed
        }
        return sorted(months)

    async def usage(self, tenant_id: UUID, *, interval: Interval, is_only_billed: bool) -> Sequence[Usage]:
        """Return the sums of a time by meter, tier, model, device: of all uses, or of billed ones."""
        sums: Counter[tuple[Meter, TenantTier, str, str]] = Counter()
        billed = self._billed()
        for record in self._records():
            is_mine = record.tenant_id == tenant_id and interval.holds(record.occurred_at)
            if is_mine and (not is_only_billed or record.id in billed):
                for meter, quantity in record.metered().items():
                    sums[meter, record.tier, record.model, record.device] += quantity
        return [
            Usage(meter=meter, tier=tier, model=model, device=device, quantity=quantity)
            for (meter, tier, model, device), quantity in sorted(sums.items())
            if quantity
        ]

    async def bill(self, invoice: Invoice, months: Sequence[CalendarMonth]) -> int:
        """Give an invoice every use of some months that no other one charged; return how many."""
        async with self._database.write():
            billed = self._billed()
            mine = [
                record.id
                for record in self._records()
                if record.tenant_id == invoice.tenant_id
                and CalendarMonth.of(record.occurred_at) in months
                and record.id not in billed
            ]
            self._events.update({(invoice.id, usage_id): False for usage_id in mine})
        return len(mine)

    async def release(self, invoice_id: UUID) -> None:
        """Let the uses of an invoice be billed again; what it charged can still be read."""
        async with self._database.write():
            self._events.update({key: True for key in self._events if key[0] == invoice_id})

    async def events(
        self, invoice_id: UUID, *, limit: int, after: UUID | None = None, interval: Interval | None = None
    ) -> Sequence[UsageRecord]:
        """Return the uses that an invoice charged, by their ids; of a time, if one is given."""
        found = [
            record
            for record in self._records()
            if (invoice_id, record.id) in self._events
            and (after is None or record.id > after)
            and (interval is None or interval.holds(record.occurred_at))
        ]
        return sorted(found, key=lambda record: record.id)[:limit]

    def _records(self) -> Sequence[UsageRecord]:
        return list(self._database.tables["usage_records"].values())

    def _billed(self) -> set[UUID]:
        return {usage_id for (_, usage_id), is_void in self._events.items() if not is_void}

    @property
    def _events(self) -> dict[tuple[UUID, UUID], bool]:
        return self._database.tables["invoice_events"]


def _is_billing(invoice: Invoice) -> bool:
    return invoice.kind is InvoiceKind.INVOICE and invoice.status is not InvoiceStatus.VOID


def _month_of(invoice: Invoice) -> tuple[UUID, CalendarMonth, str]:
    return invoice.tenant_id, invoice.period, invoice.currency
