"""What services of money write into: one transaction, with one audit entry for each change of state."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tritium_platform.audit.model import ActionOutcome, AuditIntent, ComplianceImpact, ResourceIdentifier
from tritium_platform.billing.document import read_body
from tritium_platform.billing.journal import JournalGroup, entries_of
from tritium_platform.errors import NotFoundError, PlatformError, ValidationError
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.audit.model import Detail
    from tritium_platform.billing.invoice import (
        CreditGrant,
        FiledLine,
        Invoice,
        InvoiceDocument,
        InvoiceStatus,
        Payment,
    )
    from tritium_platform.billing.journal import JournalEntry
    from tritium_platform.billing.payment_store import PaymentStore
    from tritium_platform.billing.rating.plan import Usage
    from tritium_platform.metering.model import UsageRecord
    from tritium_platform.values import CalendarMonth, Clock, Interval, UnitOfWork


class InvoiceStore(Protocol):
    """Keeps invoices; documents, lines, payments and draws are written once, and no number is skipped."""

    async def add(self, invoice: Invoice) -> bool:
        """Keep an invoice; False if the month of the tenant is billed in that currency already."""

    async def get(self, invoice_id: UUID) -> Invoice | None:
        """Return an invoice."""

    async def lock(self, invoice_id: UUID) -> Invoice | None:
        """Return an invoice that nobody else changes until the unit of work ends."""

    async def save(self, invoice: Invoice) -> None:
        """Keep what changed of an invoice's head."""

    async def list(
        self,
        *,
        tenant_id: UUID | None,
        statuses: Sequence[InvoiceStatus],
        limit: int,
        after: UUID | None = None,
    ) -> Sequence[Invoice]:
        """Return invoices, newest first, those older than `after`; no statuses: all."""

    async def due_before(self, moment: datetime, *, limit: int) -> Sequence[Invoice]:
        """Return invoices that are finalized or partially paid and were due before a moment."""

    async def credit_notes(self, invoice_id: UUID) -> Sequence[Invoice]:
        """Return the credit notes of an invoice, oldest first."""

    async def next_number(self, series: str) -> int:
        """Take the next number of a series; nobody else gets one until the unit of work ends."""

    async def add_document(self, document: InvoiceDocument) -> None:
        """Keep a document for ever."""

    async def document(self, invoice_id: UUID) -> InvoiceDocument | None:
        """Return what a finalized invoice says."""

    async def add_lines(self, invoice: Invoice, lines: Sequence[FiledLine]) -> None:
        """Keep what an invoice charges."""

    async def charged(self, tenant_id: UUID, month: CalendarMonth) -> Sequence[FiledLine]:
        """Return what invoices that are not void charged for a month."""

    async def last_period(self, tenant_id: UUID) -> CalendarMonth | None:
        """Return the latest month that an invoice which is neither void nor a draft is about."""

    async def add_payment(self, payment: Payment) -> None:
        """Keep a payment for ever."""

    async def payments(self, invoice_id: UUID) -> Sequence[Payment]:
        """Return the payments of an invoice, oldest first."""


class BilledUsageStore(Protocol):
    """Knows which uses an invoice charged: each at most once among invoices that are not void."""

    async def unbilled_months(self, tenant_id: UUID, *, before: datetime) -> Sequence[CalendarMonth]:
        """Return the months with uses before a moment that no invoice charged, oldest first."""

    async def usage(self, tenant_id: UUID, *, interval: Interval, is_only_billed: bool) -> Sequence[Usage]:
        """Return the sums of a time by meter, tier, model, device: of all uses, or of billed ones."""

    async def bill(self, invoice: Invoice, months: Sequence[CalendarMonth]) -> int:
        """Give an invoice every use of some months that no other one charged; return how many."""

    async def release(self, invoice_id: UUID) -> None:
        """Let the uses of an invoice be billed again; what it charged can still be read."""

    async def events(
        self, invoice_id: UUID, *, limit: int, after: UUID | None = None, interval: Interval | None = None
    ) -> Sequence[UsageRecord]:
        """Return the uses that an invoice charged, by their ids; of a time, if one is given."""


class JournalStore(Protocol):
    """Keeps the journal: groups that sum to zero, one per operation, never changed."""

    async def post(self, group: JournalGroup) -> None:
        """Keep a group; ConflictError if its operation was posted before."""

    async def list(self, *, limit: int, after: UUID | None = None) -> Sequence[JournalGroup]:
        """Return groups in the order of their ids, those after `after`."""

    async def entries_about(self, operation: str, *, tenant_id: UUID) -> Sequence[JournalEntry]:
        """Return a tenant's entries of an operation and of its parts, whose ids go on with `:`."""


class CreditStore(Protocol):
    """Keeps prepaid credit; what is left of a grant is never below zero."""

    async def add(self, grant: CreditGrant) -> None:
        """Keep a grant."""

    async def list(
        self, tenant_id: UUID, *, limit: int | None = None, after: UUID | None = None
    ) -> Sequence[CreditGrant]:
        """Return a tenant's grants, oldest first, those after `after`; no limit: all."""

    async def lock(self, tenant_id: UUID, *, currency: str) -> Sequence[CreditGrant]:
        """Return a tenant's grants of a currency with something left, until the unit of work ends."""

    async def draw(self, invoice: Invoice, draws: Sequence[tuple[UUID, int]]) -> None:
        """Take amounts from grants for an invoice."""

    async def draws(self, invoice_id: UUID) -> Sequence[tuple[UUID, int]]:
        """Return what grants paid of an invoice."""

    async def take(self, grant_id: UUID, amount_minor: int) -> None:
        """Take an amount from a grant that is paid out in money."""

    async def give_back(self, grant_id: UUID, amount_minor: int) -> None:
        """Put an amount back that a void invoice had drawn."""

    async def expire(self, *, at: datetime, limit: int) -> Sequence[CreditGrant]:
        """Take what is left from grants that expired, and return them as they were before."""


class OperationStore(Protocol):
    """Remembers for ever which operation of whose key did what."""

    async def begin(self, operation: Operation) -> Operation:
        """Keep an operation and return it; if its id is taken, return the one that has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One request that moves money, under the key that its author gave it."""

    id: str
    fingerprint: bytes
    subject_id: UUID
    created_at: datetime


class Outbox(Protocol):
    """Keeps audit intents in the transaction of the change they report."""

    async def add(self, intent: AuditIntent) -> None:
        """Keep an intent."""


@dataclass(frozen=True, kw_only=True)
class BillingBooks:
    """Everything that a change of money is written into."""

    unit_of_work: UnitOfWork
    invoices: InvoiceStore
    usage: BilledUsageStore
    journal: JournalStore
    credits: CreditStore
    operations: OperationStore
    payments: PaymentStore
    outbox: Outbox
    clock: Clock

    async def begin(self, key: str | None, *, request: tuple[str, ...], subject_id: UUID) -> UUID | None:
        """Begin an operation under a key; return what it made if it was done before, None to do it now.

        Raises:
            ValidationError: the key belongs to another request.
        """
        if key is None:
            return None
        fingerprint = hashlib.sha256("\0".join(request).encode()).digest()
        mine = Operation(id=key, fingerprint=fingerprint, subject_id=subject_id, created_at=self.clock.now())
        kept = await self.operations.begin(mine)
        if kept.fingerprint != fingerprint:
            raise ValidationError(
                "This Idempotency-Key was used for another request: take a new one.", param="Idempotency-Key"
            )
        return None if kept.subject_id == subject_id else kept.subject_id

    async def locked(self, invoice_id: UUID) -> Invoice:
        """Return an invoice to change; NotFoundError if there is none."""
        invoice = await self.invoices.lock(invoice_id)
        if invoice is None:
            raise invoice_not_found()
        return invoice

    async def said(self, invoice: Invoice) -> dict[str, Any]:
        """Return what the document of a finalized invoice says; PlatformError if it is lost."""
        document = await self.invoices.document(invoice.id)
        if document is None:
            raise PlatformError("An invoice that is finalized has lost its document.")
        return read_body(document.body)

    async def post(self, invoice: Invoice, operation: str, description: str, **amounts: int) -> None:
        """Write a movement about an invoice into the journal, by the names of accounts."""
        entries = entries_of(invoice.currency, **amounts)
        if entries:
            await self.journal.post(
                JournalGroup(
                    id=uuid7(self.clock),
                    operation_id=operation,
                    tenant_id=invoice.tenant_id,
                    description=description,
                    occurred_at=self.clock.now(),
                    entries=entries,
                )
            )

    async def note(
        self, action: str, *, subject: ResourceIdentifier, tenant_id: UUID | None, **details: Detail
    ) -> None:
        """Put the one audit entry of a change into the outbox."""
        identity = uuid7(self.clock)
        await self.outbox.add(
            AuditIntent(
                id=identity,
                event_id=identity,
                occurred_at=self.clock.now(),
                action=action,
                resource_affected=subject,
                outcome=ActionOutcome.SUCCESS,
                tenant_id=tenant_id,
                compliance_impact=ComplianceImpact.FINANCIAL,
                details=details,
            )
        )

    async def note_payment(
        self, action: str, *, kind: str, identity: UUID, tenant_id: UUID, **details: Detail
    ) -> None:
        """Put the one audit entry of a change of a payment into the outbox."""
        await self.note(
            action, subject=ResourceIdentifier(kind, str(identity)), tenant_id=tenant_id, **details
        )

    async def note_invoice(self, action: str, invoice: Invoice, **details: Detail) -> None:
        """Put the one audit entry of a change of an invoice into the outbox."""
        facts: Mapping[str, Detail] = {
            "status": invoice.status.value,
            "period": str(invoice.period),
            "currency": invoice.currency,
            "total_minor": str(invoice.total_minor),
        }
        await self.note(
            action,
            subject=ResourceIdentifier(invoice.kind.value, str(invoice.id)),
            tenant_id=invoice.tenant_id,
            **facts,
            **details,
        )


def invoice_not_found() -> NotFoundError:
    """Return the error for an invoice that is not there, or somebody else's."""
    return NotFoundError("There is no such invoice.")
