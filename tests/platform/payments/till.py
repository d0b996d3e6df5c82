"""Books in memory, with the real Stripe SDK behind them pointed at a double by HTTP."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import stripe
from pydantic import SecretStr
from tritium_payments_double import Double, served

from tritium_platform.adapters.memory.audit_outbox import MemoryAuditOutbox
from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.invoice_store import MemoryBilledUsageStore, MemoryInvoiceStore
from tritium_platform.adapters.memory.money_stores import (
    MemoryCreditStore,
    MemoryJournalStore,
    MemoryOperationStore,
)
from tritium_platform.adapters.memory.payment_store import MemoryNoticeStore, MemoryPaymentStore
from tritium_platform.adapters.stripe import StripeProvider
from tritium_platform.billing.books import BillingBooks
from tritium_platform.billing.credit_notes import credit_reason
from tritium_platform.billing.desk import open_payments
from tritium_platform.billing.dunning import DunningEnd
from tritium_platform.billing.invoice import CreditGrant, Invoice, InvoiceDocument, InvoiceKind, InvoiceStatus
from tritium_platform.billing.settlement import SettlementService
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import Iterator

START = datetime(2026, 11, 1, tzinfo=UTC)
SECRET = "whsec_of_the_double"


class Till:
    """One tenant, its invoices, and everything that can happen to their payment."""

    def __init__(self, double: Double, *, url: str, clock: ManualClock, end: DunningEnd) -> None:
        self.double, self.clock = double, clock
        self.bank = double.bank
        database = MemoryDatabase()
        self.tenant_id = uuid7(clock)
        self.plan_id = "plan"
        self.provider = stripe_at(url, clock=clock)
        self.outbox = MemoryAuditOutbox(database)
        self.books = BillingBooks(
            unit_of_work=database.unit_of_work,
            invoices=MemoryInvoiceStore(database),
            usage=MemoryBilledUsageStore(database),
            journal=MemoryJournalStore(database),
            credits=MemoryCreditStore(database),
            operations=MemoryOperationStore(database),
            payments=MemoryPaymentStore(database),
            outbox=self.outbox,
            clock=clock,
        )
        self.settlement = SettlementService(books=self.books)
        self.suspended: list[Any] = []
        self.desk = open_payments(
            self.books,
            events=MemoryNoticeStore(database),
            providers=[self.provider],
            dunning_end=end,
            suspend=self._suspend,
        )
        self.by_hand = 0
        self._told = 0
        self._number = 0

    async def _suspend(self, tenant_id: Any) -> None:
        self.suspended.append(tenant_id)

    async def card(self, method: str) -> None:
        """Let the tenant be charged that way."""
        await self.desk.service.set_method(
            self.tenant_id, provider="stripe", customer="cus_1", method=method, actor="test"
        )

    async def invoice(self, total: int, *, due_days: int = 0) -> Invoice:
        """Finalize an invoice of some amount."""
        self._number += 1
        made = Invoice(
            id=uuid7(self.clock),
            tenant_id=self.tenant_id,
            kind=InvoiceKind.INVOICE,
            status=InvoiceStatus.FINALIZED,
            period=CalendarMonth(2000 + self._number // 12, self._number % 12 + 1),
            currency="USD",
            plan_id=self.plan_id,
            number=f"INV-{self._number:08d}",
            created_at=self.clock.now(),
            finalized_at=self.clock.now(),
            due_at=self.clock.now() + timedelta(days=due_days),
            total_minor=total,
        )
        assert await self.books.invoices.add(made)
        await self.books.invoices.add_document(
            InvoiceDocument(
                invoice_id=made.id,
                tenant_id=made.tenant_id,
                series="INV",
                sequence=self._number,
                number=f"INV-{self._number:08d}",
                body=json.dumps({"number": made.number, "tax_minor": 0}).encode(),
                sha256=b"",
                note=b"",
                verifier_key="",
            )
        )
        await self.books.post(made, f"finalize:{made.id}", made.number, receivable=total, revenue=-total)
        return made

    async def credit_note(self, invoice: Invoice, amount: int) -> Invoice:
        """Write a credit note over an invoice that is paid: it becomes credit."""
        note = Invoice(
            id=uuid7(self.clock),
            tenant_id=self.tenant_id,
            kind=InvoiceKind.CREDIT_NOTE,
            status=InvoiceStatus.FINALIZED,
            period=invoice.period,
            currency=invoice.currency,
            plan_id=invoice.plan_id,
            credits_invoice_id=invoice.id,
            created_at=self.clock.now(),
            total_minor=amount,
        )
        await self.books.invoices.add(note)
        await self.books.credits.add(
            CreditGrant(
                id=uuid7(self.clock),
                tenant_id=self.tenant_id,
                currency=invoice.currency,
                amount_minor=amount,
                remaining_minor=amount,
                reason=credit_reason(note.id),
                created_at=self.clock.now(),
            )
        )
        await self.books.post(note, f"credit:{note.id}", "note", revenue=amount, customer_credit=-amount)
        return note

    async def pay(self, invoice: Invoice, **wish: Any) -> Any:
        return await self.desk.service.process_payment(invoice.id, key=None, actor="test", **wish)

    async def head(self, invoice: Invoice) -> Invoice:
        return await self.books.locked(invoice.id)

    def untold(self) -> list[dict[str, Any]]:
        """Return the provider's events of which it has sent no notice."""
        new = self.bank.events[self._told :]
        self._told = len(self.bank.events)
        return new

    async def tell(self, event: dict[str, Any], *, secret: str = SECRET, at: datetime | None = None) -> bool:
        """Let the provider send a notice."""
        body = json.dumps(event)
        stamp = int((at or self.clock.now()).timestamp())
        signature = stripe.WebhookSignature.generate_signature_header(body, secret, timestamp=stamp)
        return await self.desk.inbox.receive(self.provider.read_event(body.encode(), signature=signature))

    async def janitor(self) -> Any:
        return await self.desk.janitor.run()

    async def sums(self) -> dict[str, int]:
        """Return what the journal says is in every account."""
        sums: dict[str, int] = {}
        for group in await self.books.journal.list(limit=1_000_000):
            assert sum(entry.amount_minor for entry in group.entries) == 0
            for entry in group.entries:
                sums[entry.account.value] = sums.get(entry.account.value, 0) + entry.amount_minor
        return {name: amount for name, amount in sums.items() if amount}


def stripe_at(url: str, *, clock: ManualClock) -> StripeProvider:
    """Return Stripe's SDK pointed at an address."""
    return StripeProvider(
        secret_key=SecretStr("sk_test_double"),
        webhook_secret=SecretStr(SECRET),
        clock=clock,
        api_base=url,
        attempt_seconds=5,
    )


@contextmanager
def open_till(end: DunningEnd = DunningEnd.NOTHING) -> Iterator[Till]:
    """Open a till with a double of its own."""
    clock = ManualClock(START)
    double = Double(clock)
    with served(double) as url:
        yield Till(double, url=url, clock=clock, end=end)
