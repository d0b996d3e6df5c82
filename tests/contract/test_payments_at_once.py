"""Many who pay at the same time: one attempt, one charge, one journal group, whatever the database."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tritium_platform.billing.desk import open_payments
from tritium_platform.billing.invoice import Invoice, InvoiceKind, InvoiceStatus
from tritium_platform.billing.list_plan import plan_of
from tritium_platform.billing.manual import ManualProvider
from tritium_platform.billing.payment import AttemptState, ChargeOutcome, PaymentAttempt
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.billing.rating.plan_json import plan_id
from tritium_platform.errors import ConflictError
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from uuid import UUID

    from conftest import Books

AT = datetime(2026, 11, 5, tzinfo=UTC)
PLAN = plan_of(default_price_version())
EACH = range(6)


class PatientProvider(ManualProvider):
    """Takes the money of every attempt, after a while."""

    name = "patient"

    def __init__(self) -> None:
        self.charged: list[UUID] = []

    async def charge(self, attempt: PaymentAttempt, *, description: str) -> ChargeOutcome:
        self.charged.append(attempt.id)
        await asyncio.sleep(0.02)
        return ChargeOutcome(
            state=AttemptState.SUCCEEDED, reference=str(attempt.id), received_minor=attempt.amount_minor
        )


async def invoice_of(books: Books) -> Invoice:
    await books.plans.add_plan(PLAN, at=AT)
    made = Invoice(
        id=uuid7(),
        tenant_id=uuid7(),
        kind=InvoiceKind.INVOICE,
        status=InvoiceStatus.DRAFT,
        period=CalendarMonth(2026, 10),
        currency="USD",
        plan_id=plan_id(PLAN),
        created_at=AT,
    )
    await books.money.invoices.add(made)
    finalized = replace(
        made, status=InvoiceStatus.FINALIZED, number="INV-1", finalized_at=AT, due_at=AT, total_minor=1000
    )
    await books.money.invoices.save(finalized)
    return finalized


async def test_an_invoice_is_paid_once_by_many(books: Books) -> None:
    provider = PatientProvider()
    desk = open_payments(books.money, events=books.events, providers=[provider])
    invoice = await invoice_of(books)
    await desk.service.set_method(
        invoice.tenant_id, provider="patient", customer="c", method="m", actor="test"
    )

    async def pay(key: str) -> Any:
        try:
            return await desk.service.process_payment(invoice.id, key=key, actor="test")
        except ConflictError as error:
            return error

    answers = await asyncio.gather(*(pay(f"key {number // 2}") for number in EACH))
    assert len(provider.charged) == 1
    made = {each.id for each in answers if isinstance(each, PaymentAttempt)}
    assert made == set(provider.charged)
    (attempt,) = await books.money.payments.of_invoice(invoice.id)
    assert attempt.state is AttemptState.SUCCEEDED

    lost = ChargeOutcome(state=AttemptState.SUCCEEDED, reference="pi", received_minor=1000, fee_minor=30)
    await asyncio.gather(*(desk.service.settle(attempt.id, lost) for _ in EACH))
    await asyncio.gather(
        *(
            desk.refunds.refund(attempt.id, amount_minor=100, reason="r", key="back", actor="test")
            for _ in EACH
        )
    )
    (refund,) = await desk.refunds.list(attempt.id)
    assert refund.amount_minor == 100
    operations = [each.operation_id.partition(":")[0] for each in await books.money.journal.list(limit=99)]
    assert sorted(operations) == ["payment", "payment", "refund"]
    head = await books.money.locked(invoice.id)
    assert (head.paid_minor, head.status) == (900, InvoiceStatus.PARTIALLY_PAID)


async def test_of_two_transfers_at_a_time_none_is_acknowledged_and_lost(books: Books) -> None:
    desk = open_payments(books.money, events=books.events, providers=[ManualProvider()])
    invoice = await invoice_of(books)
    asked = await desk.service.process_payment(invoice.id, key="ask", actor="test")

    async def receive(amount: int) -> int:
        try:
            await desk.service.receive(
                asked.id, amount_minor=amount, reference=f"wire {amount}", key=f"key {amount}", actor="test"
            )
        except ConflictError:
            return 0
        return amount

    acknowledged = await asyncio.gather(*(receive(100 + number) for number in EACH))
    kept = await desk.service.get(asked.id)
    assert sum(acknowledged) == kept.received_minor == (await books.money.locked(invoice.id)).paid_minor


async def test_a_transfer_that_is_noted_twice_at_a_time_says_the_same_twice(books: Books) -> None:
    desk = open_payments(books.money, events=books.events, providers=[ManualProvider()])
    asked = await desk.service.process_payment((await invoice_of(books)).id, key="ask", actor="test")
    wish: Any = {"amount_minor": 100, "reference": "wire", "key": "once", "actor": "test"}
    answers = await asyncio.gather(*(desk.service.receive(asked.id, **wish) for _ in EACH))
    assert {(each.state, each.received_minor) for each in answers} == {(AttemptState.SUCCEEDED, 100)}
