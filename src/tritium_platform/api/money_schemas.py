"""What the routes of money read and write, as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from tritium_platform.api.moments import Moment
from tritium_platform.billing.contract import DEFAULT_PAYMENT_DAYS, MOST_PAYMENT_DAYS
from tritium_platform.billing.grants import LARGEST_AMOUNT, MOST_PRIORITY
from tritium_platform.billing.invoice import InvoiceKind, InvoiceStatus
from tritium_platform.billing.party import LONGEST_TEXT, MOST_STREET_LINES

if TYPE_CHECKING:
    from tritium_platform.billing.contract import Contract
    from tritium_platform.billing.invoice import CreditGrant, Invoice
    from tritium_platform.billing.journal import JournalGroup

_INPUT = ConfigDict(extra="forbid", frozen=True)
MinorUnits = Annotated[int, Field(strict=True, ge=1, le=LARGEST_AMOUNT)]
Text = Annotated[str, Field(min_length=1, max_length=200)]
ShortText = Annotated[str, Field(max_length=LONGEST_TEXT)]
Identity = Annotated[str, Field(min_length=1, max_length=64)]


class InvoiceOut(BaseModel):
    """The head of an invoice or credit note; amounts are minor units of its currency."""

    id: UUID
    tenant_id: UUID
    kind: InvoiceKind
    status: InvoiceStatus
    number: str | None
    period: str
    currency: str
    plan_id: str
    contract_id: UUID | None
    credits_invoice_id: UUID | None
    created_at: datetime
    finalized_at: datetime | None
    due_at: datetime | None
    total_minor: int
    drawn_minor: int
    paid_minor: int
    credited_minor: int
    open_minor: int
    total: str


class InvoicePage(BaseModel):
    """Invoices, newest first; `next_after` continues the page."""

    invoices: list[InvoiceOut]
    next_after: UUID | None


class InvoiceDetailOut(BaseModel):
    """An invoice and what it says: of a draft, what it would say now."""

    invoice: InvoiceOut
    document: dict[str, Any]
    sha256: str | None
    note: str | None
    verifier_key: str | None


class LineEventOut(BaseModel):
    """A use that a line charges."""

    usage_id: UUID
    source: str
    event_id: str
    occurred_at: str
    quantity: str


class LineEventPage(BaseModel):
    """The uses of a line, oldest first; `next_after` continues the page."""

    events: list[LineEventOut]
    next_after: UUID | None


class PlanOut(BaseModel):
    """A plan in its canonical form."""

    id: str
    plan: dict[str, Any]


class PlanPage(BaseModel):
    """Plans by their ids; `next_after` continues the page."""

    plans: list[PlanOut]
    next_after: str | None


class TaxWish(BaseModel):
    """Where a customer is taxed; without a jurisdiction no tax is charged."""

    model_config = _INPUT
    jurisdiction: Annotated[str, Field(max_length=200)] = ""
    is_reverse_charge: bool = False
    tax_id: Annotated[str, Field(max_length=200)] = ""


class BuyerWish(BaseModel):
    """Who a tenant is on its invoices; the country has two letters (ISO 3166-1)."""

    model_config = _INPUT
    name: Text
    street: Annotated[list[ShortText], Field(max_length=MOST_STREET_LINES)] = []
    post_code: ShortText = ""
    city: ShortText = ""
    country: Annotated[str, Field(max_length=2)] = ""
    email: ShortText = ""
    reference: ShortText = ""


class NewContract(BaseModel):
    """A contract to conclude."""

    model_config = _INPUT
    tenant_id: UUID
    plan_id: Identity
    starts_at: Moment
    ends_at: Moment | None = None
    payment_days: Annotated[int, Field(strict=True, ge=0, le=MOST_PAYMENT_DAYS)] = DEFAULT_PAYMENT_DAYS
    tax: TaxWish = TaxWish()


class ContractOut(BaseModel):
    """A contract."""

    id: UUID
    tenant_id: UUID
    plan_id: str
    starts_at: datetime
    ends_at: datetime | None
    payment_days: int
    tax: dict[str, Any]
    created_at: datetime


class ContractPage(BaseModel):
    """Contracts by their starts, oldest first; `next_after` continues the page."""

    contracts: list[ContractOut]
    next_after: UUID | None


class NewDrafts(BaseModel):
    """The month of a tenant to make drafts of."""

    model_config = _INPUT
    tenant_id: UUID
    period: Annotated[str, Field(min_length=7, max_length=7, description="A month such as 2026-11 (UTC)")]


class NewPayment(BaseModel):
    """Money that came in."""

    model_config = _INPUT
    amount_minor: MinorUnits
    reference: Text


class CreditedLine(BaseModel):
    """How much to take off a line, before tax."""

    model_config = _INPUT
    line: Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
    amount_minor: MinorUnits


class NewCreditNote(BaseModel):
    """What to take off an invoice, and why; a line is named once."""

    model_config = _INPUT
    reason: Text
    lines: Annotated[list[CreditedLine], Field(min_length=1, max_length=1000)]


class NewCredit(BaseModel):
    """Prepaid credit that was paid for."""

    model_config = _INPUT
    tenant_id: UUID
    currency: Annotated[str, Field(min_length=3, max_length=3)]
    amount_minor: MinorUnits
    reason: Text
    priority: Annotated[int, Field(strict=True, ge=0, le=MOST_PRIORITY)] = 0
    expires_at: Moment | None = None


class CreditOut(BaseModel):
    """A grant of credit, and what is left of it."""

    id: UUID
    tenant_id: UUID
    currency: str
    amount_minor: int
    remaining_minor: int
    reason: str
    priority: int
    expires_at: datetime | None
    created_at: datetime


class CreditPage(BaseModel):
    """Grants of credit, oldest first; `next_after` continues the page."""

    credits: list[CreditOut]
    next_after: UUID | None


class JournalEntryOut(BaseModel):
    """One side of a movement: above zero a debit, below a credit."""

    account: str
    amount_minor: int
    currency: str


class JournalGroupOut(BaseModel):
    """What one operation moved; its entries sum to zero."""

    id: UUID
    operation_id: str
    tenant_id: UUID
    description: str
    occurred_at: datetime
    entries: list[JournalEntryOut]


class JournalPage(BaseModel):
    """The journal, oldest first; `next_after` continues the page."""

    groups: list[JournalGroupOut]
    next_after: UUID | None


def invoice_out(invoice: Invoice) -> InvoiceOut:
    """Spell the head of an invoice."""
    return InvoiceOut(
        id=invoice.id,
        tenant_id=invoice.tenant_id,
        kind=invoice.kind,
        status=invoice.status,
        number=invoice.number,
        period=str(invoice.period),
        currency=invoice.currency,
        plan_id=invoice.plan_id,
        contract_id=invoice.contract_id,
        credits_invoice_id=invoice.credits_invoice_id,
        created_at=invoice.created_at,
        finalized_at=invoice.finalized_at,
        due_at=invoice.due_at,
        total_minor=invoice.total_minor,
        drawn_minor=invoice.drawn_minor,
        paid_minor=invoice.paid_minor,
        credited_minor=invoice.credited_minor,
        open_minor=invoice.open_minor,
        total=str(invoice.money(invoice.total_minor)),
    )


def contract_out(contract: Contract) -> ContractOut:
    """Spell a contract."""
    return ContractOut(
        id=contract.id,
        tenant_id=contract.tenant_id,
        plan_id=contract.plan_id,
        starts_at=contract.starts_at,
        ends_at=contract.ends_at,
        payment_days=contract.payment_days,
        tax={
            "jurisdiction": contract.tax.jurisdiction,
            "is_reverse_charge": contract.tax.is_reverse_charge,
            "tax_id": contract.tax.tax_id,
        },
        created_at=contract.created_at,
    )


def credit_out(grant: CreditGrant) -> CreditOut:
    """Spell a grant."""
    return CreditOut(
        id=grant.id,
        tenant_id=grant.tenant_id,
        currency=grant.currency,
        amount_minor=grant.amount_minor,
        remaining_minor=grant.remaining_minor,
        reason=grant.reason,
        priority=grant.priority,
        expires_at=grant.expires_at,
        created_at=grant.created_at,
    )


def group_out(group: JournalGroup) -> JournalGroupOut:
    """Spell a group of the journal."""
    return JournalGroupOut(
        id=group.id,
        operation_id=group.operation_id,
        tenant_id=group.tenant_id,
        description=group.description,
        occurred_at=group.occurred_at,
        entries=[
            JournalEntryOut(
                account=each.account.value, amount_minor=each.amount_minor, currency=each.currency
            )
            for each in group.entries
        ],
    )
