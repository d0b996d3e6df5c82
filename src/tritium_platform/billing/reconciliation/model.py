"""What reconciliation reads of the books, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.billing.invoice import CreditGrant, FiledLine, Invoice, InvoiceDocument, Payment
    from tritium_platform.billing.journal import JournalEntry
    from tritium_platform.metering.model import UsageRecord
    from tritium_platform.values import CalendarMonth


class Check(StrEnum):
    """What two parts of the books were compared for."""

    EVENT = "event"  # a use and the digest that was kept with it
    COUNTER = "counter"  # what a quota counter says, and the reservations behind it
    REQUESTS = "requests"  # successful requests, and what is used of the quota
    DOCUMENT = "document"  # an invoice's document and its digest
    LINE = "line"  # a line in its table, and in the document
    TOTAL = "total"  # the head of an invoice and its document
    LINE_EVENTS = "line_events"  # a line, and the uses that it charges
    MONTH = "month"  # what was charged for a month, and what its billed uses come to by the plan
    DRAWS = "draws"  # prepaid credit that paid an invoice
    GRANT = "grant"  # what is left of a grant
    PAYMENTS = "payments"  # payments of an invoice, and its head
    CREDITED = "credited"  # what credit notes took off an invoice
    MOVEMENT = "movement"  # what an event of an invoice's life moved in the journal
    GROUP = "group"  # a group of the journal: it balances, and is about something that exists
    BALANCE = "balance"  # an account of a tenant, and what it stands for
    CANARY = "canary"  # the draft of the synthetic customer, and the known answer
    PROVIDER = "provider"  # a payment, and what the payment provider says of it
    MISSING_HERE = "missing_here"  # what a payment provider lists, and we know nothing of
    MISSING_THERE = "missing_there"  # what we have, and the provider does not list
    PAYMENT_AMOUNT = "payment_amount"  # how much, by the provider's list and by what is written down
    PAYMENT_CURRENCY = "payment_currency"  # in which currency
    PAYMENT_STATE = "payment_state"  # what became of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two figures that should be one.

    Attributes:
        check: what was compared.
        subject: what they are about: a use, a line of an invoice, an account, a counter.
        expected: the figure that follows from the rest of the books.
        found: the figure that stands there.
        look: where to look further.
        tenant_id: whose they are.
        month: which month they are about, `always`, or nothing.
        account: the meter or the account.
    """

    check: Check
    subject: str
    expected: str
    found: str
    look: str
    tenant_id: UUID
    month: str = ""
    account: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciliationRun:
    """One comparison of everything.

    Attributes:
        counted: how many of each were looked at.
        num_differences: how many were found.
        differences: the first of them.
    """

    id: UUID
    started_at: datetime
    finished_at: datetime
    counted: Mapping[str, int]
    num_differences: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class KeptUse:
    """A usage record with the digest that was kept with it."""

    record: UsageRecord
    body_sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterFacts:
    """A quota counter beside the sums of its reservations."""

    tenant_id: UUID
    meter: str
    period: str
    ceiling: int
    used: int
    held: int
    reserved_used: int
    reserved_held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """Of all months: a tenant's successful requests, what is used of its quota; whether a month is full."""

    tenant_id: UUID
    succeeded: int
    used: int
    is_clipped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceFacts:
    """An invoice or credit note with everything that is filed about it.

    Attributes:
        movements: the journal's entries by operation id, also of its payments and credit notes.
        is_paid_through_provider: whether an attempt to be paid brought money. What that moved, fees, refunds
            and disputes included, is compared in the balances alone.
    """

    invoice: Invoice
    document: InvoiceDocument | None
    lines: tuple[FiledLine, ...] = ()
    payments: tuple[Payment, ...] = ()
    draws: tuple[tuple[UUID, int], ...] = ()
    notes: tuple[UUID, ...] = ()
    movements: Mapping[str, tuple[JournalEntry, ...]] = field(default_factory=dict)
    is_paid_through_provider: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthKey:
    """A month of a tenant for which something was charged.

    `is_reopened`: an invoice became void since the last one was finalized: its uses wait for the next one.
    """

    tenant_id: UUID
    month: CalendarMonth
    is_reopened: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantFacts:
    """A grant, what invoices that are not void drew from it, and what granting it moved.

    `refunded` is what refunds took from all credit of the grant's reason, which is hardly ever two grants'.
    """

    grant: CreditGrant
    drawn: int
    refunded: int
    movement: tuple[JournalEntry, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """A group of the journal as it stands there, and whether what it is about exists."""

    id: UUID
    operation_id: str
    tenant_id: UUID
    entries: tuple[JournalEntry, ...]
    has_subject: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceFacts:
    """A tenant's accounts by the journal, and what they stand for: minor units by (account, currency)."""

    tenant_id: UUID
    journal: Counter[tuple[str, str]]
    standing: Counter[tuple[str, str]]
