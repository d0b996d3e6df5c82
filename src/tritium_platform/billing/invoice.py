"""Invoices and credit notes: what changes of them (their head), and what never does (their document)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from tritium_platform.values import Money

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.values import CalendarMonth, Interval


class InvoiceKind(StrEnum):
    """What a document does."""

    INVOICE = "invoice"
    CREDIT_NOTE = "credit_note"


class InvoiceStatus(StrEnum):
    """How far an invoice is; a draft changes with the use, nothing after it does."""

    DRAFT = "draft"
    FINALIZED = "finalized"
    PARTIALLY_PAID = "partially_paid"
    OVERDUE = "overdue"
    PAID = "paid"
    UNCOLLECTIBLE = "uncollectible"
    VOID = "void"


OPEN = frozenset({InvoiceStatus.FINALIZED, InvoiceStatus.PARTIALLY_PAID, InvoiceStatus.OVERDUE})
SERIES = {InvoiceKind.INVOICE: "INV", InvoiceKind.CREDIT_NOTE: "CN"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """The head of an invoice or credit note; amounts are minor units.

    Attributes:
        period: the month that it is about.
        plan_id: the plan that prices the month, at its end if it changes within it.
        number: None while it is a draft.
        contract_id: None for who has no contract.
        credits_invoice_id: of a credit note, what it corrects.
        total_minor: what it comes to with tax; 0 while it is a draft.
        drawn_minor: how much of that prepaid credit paid.
        paid_minor: how much payments paid.
        credited_minor: how much credit notes took off what was open.
    """

    id: UUID
    tenant_id: UUID
    kind: InvoiceKind
    status: InvoiceStatus
    period: CalendarMonth
    currency: str
    plan_id: str
    created_at: datetime
    number: str | None = None
    contract_id: UUID | None = None
    credits_invoice_id: UUID | None = None
    finalized_at: datetime | None = None
    due_at: datetime | None = None
    total_minor: int = 0
    drawn_minor: int = 0
    paid_minor: int = 0
    credited_minor: int = 0

    @property
    def open_minor(self) -> int:
        """What is still to be paid; nothing of a document that is closed, a credit note or below zero."""
        if self.status not in OPEN or self.kind is not InvoiceKind.INVOICE:
            return 0
        return max(0, self.total_minor) - self.drawn_minor - self.paid_minor - self.credited_minor

    def money(self, minor: int) -> Money:
        """Return an amount in its currency."""
        return Money(minor, self.currency)


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceDocument:
    """What a finalized invoice says, for ever.

    Attributes:
        sequence: counts from 1 within the series, without a gap.
        body: canonical JSON (RFC 8785).
        sha256: its digest.
        note: a C2SP signed note over number and digest.
        verifier_key: what verifies the note.
    """

    invoice_id: UUID
    tenant_id: UUID
    series: str
    sequence: int
    number: str
    body: bytes
    sha256: bytes
    note: bytes
    verifier_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FiledLine:
    """A line of a finalized invoice as later drafts need it: what was charged of which month already.

    `interval` is the part of the month that it is about; None: the month is not cut.
    """

    number: int
    period: CalendarMonth
    charge: str
    cell: tuple[str, ...]
    plan_id: str
    quantity: int
    net_minor: int
    tax_minor: int
    interval: Interval | None = None

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """Names the line within its part of the month."""
        return self.charge, self.cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """Money that came in for an invoice; `reference` is the payer's or the bank's."""

    id: UUID
    invoice_id: UUID
    tenant_id: UUID
    amount_minor: int
    reference: str
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditGrant:
    """Prepaid credit as it was granted, and what is left of it; amounts are minor units."""

    id: UUID
    tenant_id: UUID
    currency: str
    amount_minor: int
    remaining_minor: int
    reason: str
    created_at: datetime
    priority: int = 0
    expires_at: datetime | None = None
