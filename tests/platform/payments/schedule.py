"""Any schedule of payments, faults, notices and people, and what must be true when all has been resolved."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tritium_payments_bank import DECLINES
from tritium_payments_double import FAULTS

from tritium_platform.billing.invoice import OPEN, InvoiceStatus
from tritium_platform.billing.payment import (
    UNRESOLVED,
    AttemptState,
    DisputeState,
    RefundState,
)
from tritium_platform.errors import BitNetServiceError

if TYPE_CHECKING:
    from tritium_payments_till import Till

MINUTE = 60
DAY = 86_400
CARDS = ["pm_ok", "pm_ok", "pm_ok", "pm_asks", *DECLINES]
VERBS = {
    "bill": 3,
    "pay": 6,
    "fault": 5,
    "refund": 3,
    "refund_a_note": 1,
    "refund_at_the_provider": 1,
    "bounce": 1,
    "dispute": 1,
    "decide": 1,
    "confirm": 2,
    "card": 2,
    "notices": 4,
    "wait": 3,
    "janitor": 2,
    "dunning": 2,
    "by_hand": 1,
    "void": 1,
    "write_off": 1,
    "cancel": 1,
}


class Schedule:
    """Plays steps that a seed chooses; every step may be refused, and none may go wrong."""

    def __init__(self, till: Till, *, seed: int) -> None:
        self.till = till
        self.chance = random.Random(seed)
        self.waiting: list[dict[str, Any]] = []
        # Paid by somebody else meanwhile, or opened by a refund that bounced after it was paid again.
        self.not_paid_once: set[Any] = set()

    async def play(self, steps: int) -> None:
        """Play, then let everything come to its end, and look at the books."""
        self.till.bank.is_fee_late = self.chance.random() < 0.3
        await self.till.card("pm_ok")
        await self.bill()
        for verb in self.chance.choices(list(VERBS), list(VERBS.values()), k=steps):
            self.till.clock.advance(seconds=1)
            with suppress(BitNetServiceError):
                await getattr(self, verb)()
        await self.finish()
        await self.check()

    async def finish(self) -> None:
        """Mend the provider, let time pass, and run the janitor; what notices are left are lost."""
        self.till.double.faults.clear()
        for seconds in (40 * MINUTE, 8 * DAY, 2 * MINUTE):
            self.advance(seconds)
            run = await self.till.janitor()
        assert run.waiting == 0

    async def check(self) -> None:
        """Check that provider and books agree, to the minor unit."""
        till, sums = self.till, await self.till.sums()
        assert sums.get("cash_clearing", 0) == till.bank.money + till.by_hand
        assert sums.get("refund_payable", 0) == 0
        attempts = await till.books.payments.list(tenant_id=None, limit=10_000)
        for each in attempts:
            assert each.state not in UNRESOLVED
            await self._check_attempt(each)
        named = [each["metadata"]["tritium_attempt"] for each in till.bank.intents.values()]
        assert len(set(named)) == len(named)  # no attempt was charged twice
        await self._check_heads(attempts, sums)
        grants = await till.books.credits.list(till.tenant_id)
        assert -sums.get("customer_credit", 0) == sum(grant.remaining_minor for grant in grants)
        pending = await till.outbox.pending(limit=100_000)
        for state in (AttemptState.SUCCEEDED, AttemptState.FAILED):
            told = [each.resource_affected.id for each in pending if each.action == f"payment.{state.value}"]
            for attempt in attempts:
                if attempt.state is state:
                    assert str(attempt.id) in told

    async def _check_attempt(self, attempt: Any) -> None:
        till = self.till
        refunds = await till.desk.refunds.list(attempt.id)
        assert {each.state for each in refunds} <= {RefundState.SUCCEEDED, RefundState.FAILED}
        out = sum(each.amount_minor for each in refunds if each.state is RefundState.SUCCEEDED)
        assert attempt.refunded_minor == out
        if attempt.reference is not None:
            assert till.bank.kept(attempt.reference) == attempt.received_minor - out
        for dispute in await till.desk.disputes.list(attempt.id):
            status = till.bank.disputes[dispute.reference]["status"]
            assert dispute.state.value == {"needs_response": "opened"}.get(status, status)

    async def _check_heads(self, attempts: Any, sums: dict[str, int]) -> None:
        till, opened, disputed = self.till, 0, 0
        for invoice in await till.books.invoices.list(tenant_id=None, statuses=(), limit=10_000):
            opened += invoice.open_minor
            mine = [each for each in attempts if each.invoice_id == invoice.id]
            if invoice.id in self.not_paid_once:
                continue
            # Nobody paid an invoice twice: what was taken and not given back is at most its total.
            kept = sum(each.received_minor - each.refunded_minor for each in mine)
            assert kept <= invoice.total_minor
        for attempt in attempts:
            for each in await till.desk.disputes.list(attempt.id):
                disputed += each.amount_minor if each.state is DisputeState.OPENED else 0
        assert sums.get("receivable", 0) == opened
        assert sums.get("disputed", 0) == disputed

    def advance(self, seconds: int) -> None:
        """Let time pass; whatever was on its way has arrived by then."""
        self.till.double.catch_up()
        self.till.clock.advance(seconds=seconds)

    async def bill(self) -> None:
        await self.till.invoice(self.chance.randint(50, 5000), due_days=self.chance.randint(0, 2))

    async def pay(self) -> None:
        invoice = await self._invoice()
        part = self.chance.choice([None, None, self.chance.randint(1, max(1, invoice.open_minor))])
        await self.till.pay(invoice, amount_minor=part)

    async def fault(self) -> None:
        self.till.double.faults.extend(self.chance.choices(["", *FAULTS], k=self.chance.randint(1, 4)))

    async def refund(self) -> None:
        attempt = await self._attempt()
        left = attempt.received_minor - attempt.refunded_minor
        part = self.chance.choice([None, self.chance.randint(1, max(1, left))])
        await self.till.desk.refunds.refund(
            attempt.id, amount_minor=part, reason="sorry", key=None, actor="test"
        )

    async def refund_a_note(self) -> None:
        attempt = await self._attempt()
        invoice = await self.till.books.locked(attempt.invoice_id)
        if invoice.status is not InvoiceStatus.PAID or attempt.state is not AttemptState.SUCCEEDED:
            return
        note = await self.till.credit_note(invoice, self.chance.randint(1, attempt.received_minor))
        await self.till.desk.refunds.refund(
            attempt.id,
            amount_minor=min(note.total_minor, attempt.received_minor - attempt.refunded_minor),
            reason="credit note",
            credit_note_id=note.id,
            key=None,
            actor="test",
        )

    async def refund_at_the_provider(self) -> None:
        reference = self._pick(self.till.bank.intents)
        if reference and self.till.bank.kept(reference) and not self.till.bank.disputes:
            amount = self.chance.randint(1, self.till.bank.kept(reference))
            self.till.bank.refund({"payment_intent": reference, "amount": str(amount)})

    async def bounce(self) -> None:
        reference = self._pick(self.till.bank.refunds)
        if reference:
            self.till.bank.bounce(reference)
            named = self.till.bank.intents[self.till.bank.refunds[reference]["payment_intent"]]["metadata"]
            attempt = await self.till.desk.service.get(UUID(named["tritium_attempt"]))
            self.not_paid_once.add(attempt.invoice_id)

    async def dispute(self) -> None:
        reference = self._pick(self.till.bank.intents)
        if reference:
            self.till.bank.dispute(reference)

    async def decide(self) -> None:
        reference = self._pick(self.till.bank.disputes)
        if reference:
            self.till.bank.decide(reference, is_won=self.chance.random() < 0.5)

    async def confirm(self) -> None:
        reference = self._pick(self.till.bank.intents)
        if reference:
            self.till.bank.confirm(reference)

    async def card(self) -> None:
        await self.till.card(self.chance.choice(CARDS))

    async def notices(self) -> None:
        """Deliver some notices, some twice, in any order; lose some for good."""
        self.waiting += self.till.untold()
        self.chance.shuffle(self.waiting)
        for _ in range(self.chance.randint(0, len(self.waiting))):
            event = self.waiting.pop()
            for _ in range(self.chance.choice([0, 1, 1, 2])):
                await self.till.tell(event)
        await self.till.desk.inbox.process()

    async def wait(self) -> None:
        self.advance(self.chance.choice([MINUTE, 20 * MINUTE, 40 * MINUTE, DAY, 2 * DAY]))

    async def janitor(self) -> None:
        await self.till.janitor()

    async def dunning(self) -> None:
        await self.till.desk.dunning.run()

    async def by_hand(self) -> None:
        invoice = await self._invoice()
        if invoice.open_minor:
            amount = self.chance.randint(1, invoice.open_minor)
            await self.till.settlement.record_payment(
                invoice.id, amount_minor=amount, reference="wire", key=None, actor="test"
            )
            self.till.by_hand += amount
            self.not_paid_once.add(invoice.id)

    async def void(self) -> None:
        invoice = await self._invoice()
        if invoice.status in OPEN and not invoice.paid_minor:
            await self.till.settlement.void(invoice.id, actor="test")

    async def write_off(self) -> None:
        await self.till.settlement.write_off((await self._invoice()).id, actor="test")

    async def cancel(self) -> None:
        await self.till.desk.service.cancel((await self._attempt()).id)

    async def _invoice(self) -> Any:
        found = await self.till.books.invoices.list(tenant_id=None, statuses=(), limit=1000)
        ordered = sorted(
            (each for each in found if each.number), key=lambda each: str(each.number), reverse=True
        )
        return self.chance.choice(ordered[:4])

    async def _attempt(self) -> Any:
        found = await self.till.books.payments.list(tenant_id=None, limit=1000)
        if not found:
            return await self.till.desk.service.get(self.till.tenant_id)
        return self.chance.choice(sorted(found, key=lambda each: (each.created_at, each.idempotency_key)))

    def _pick(self, kept: dict[str, Any]) -> str | None:
        return self.chance.choice(sorted(kept)) if kept else None
