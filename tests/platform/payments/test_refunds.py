"""Money that goes back: in parts, out of credit notes, by the provider's hand, and when it bounces."""

from __future__ import annotations

import pytest
from tritium_payments_bank import DISPUTE_FEE, fee_of

from tritium_platform.billing.invoice import InvoiceStatus
from tritium_platform.billing.payment import AttemptState, DisputeState, RefundState
from tritium_platform.errors import ConflictError, NotFoundError, ValidationError
from tritium_platform.values import uuid7

HOUR = 3600
FEE = fee_of(1000)


async def paid(till):
    await till.card("pm_ok")
    invoice = await till.invoice(1000)
    return invoice, await till.pay(invoice)


def give_back(till, attempt, **wish):
    return till.desk.refunds.refund(attempt.id, **{"reason": "sorry", "key": None, "actor": "test"} | wish)


async def test_a_part_goes_back_and_then_the_rest_and_the_invoice_is_open_again(till):
    invoice, attempt = await paid(till)
    with pytest.raises(ValidationError, match="are left"):
        await give_back(till, attempt, amount_minor=1001)
    refund = await give_back(till, attempt, amount_minor=300)
    assert (refund.state, refund.number) == (RefundState.SUCCEEDED, 1)
    assert (await till.head(invoice)).status is InvoiceStatus.PARTIALLY_PAID
    assert (await till.sums())["receivable"] == 300
    await give_back(till, attempt)
    after = await till.desk.service.get(attempt.id)
    assert (after.state, after.refunded_minor) == (AttemptState.REFUNDED, 1000)
    head = await till.head(invoice)
    assert (head.status, head.open_minor) == (InvoiceStatus.FINALIZED, 1000)
    assert (await till.sums()) == {
        "receivable": 1000,
        "cash_clearing": -FEE,
        "processor_fee": FEE,
        "revenue": -1000,
    }
    assert till.bank.money == -FEE
    with pytest.raises(ConflictError):
        await give_back(till, attempt)


async def test_a_key_gives_back_once(till):
    _, attempt = await paid(till)
    first = await give_back(till, attempt, key="k", amount_minor=10)
    assert await give_back(till, attempt, key="k", amount_minor=10) == first
    assert len(till.bank.refunds) == 1


async def test_a_credit_note_is_paid_out_and_the_invoice_stays_paid(till):
    invoice, attempt = await paid(till)
    note = await till.credit_note(invoice, 200)
    with pytest.raises(NotFoundError):
        await give_back(till, attempt, credit_note_id=uuid7())
    with pytest.raises(ValidationError, match="are left"):
        await give_back(till, attempt, credit_note_id=note.id, amount_minor=201)
    assert till.bank.refunds == {}
    for amount in (150, 50):
        refund = await give_back(till, attempt, credit_note_id=note.id, amount_minor=amount)
        assert refund.from_credit_minor == amount
    assert (await till.head(invoice)).status is InvoiceStatus.PAID
    sums = await till.sums()
    assert sums == {"cash_clearing": 800 - FEE, "processor_fee": FEE, "revenue": -800}


@pytest.mark.parametrize("is_of_a_note", [False, True])
async def test_what_is_refused_moves_nothing(till, is_of_a_note):
    invoice, attempt = await paid(till)
    note = await till.credit_note(invoice, 200) if is_of_a_note else None
    till.bank.dispute(attempt.reference)
    before = await till.sums()
    refund = await give_back(till, attempt, amount_minor=100, credit_note_id=note.id if note else None)
    assert refund.state is RefundState.FAILED
    assert await till.sums() == before
    assert (await till.desk.service.get(attempt.id)).refunded_minor == 0
    assert (await till.head(invoice)).status is InvoiceStatus.PAID


@pytest.mark.parametrize("fault", ["error_after", "cut_after", "late"])
async def test_a_refund_whose_answer_is_lost_is_found_and_opens_nothing_before(till, fault):
    invoice, attempt = await paid(till)
    till.double.faults.extend([fault, "cut_before", "cut_before"])
    refund = await give_back(till, attempt, amount_minor=400)
    assert refund.state is RefundState.UNKNOWN
    assert (await till.head(invoice)).status is InvoiceStatus.PAID
    with pytest.raises(ValidationError):  # what is on its way is not given twice
        await give_back(till, attempt, amount_minor=601)
    till.double.faults.clear()
    till.double.catch_up()
    till.clock.advance(seconds=HOUR)
    assert (await till.janitor()).waiting == 0
    assert (await till.head(invoice)).open_minor == 400
    assert (await till.sums())["cash_clearing"] == till.bank.money
    assert len(till.bank.refunds) == 1


async def test_a_refund_that_never_arrived_is_given_up(till):
    invoice, attempt = await paid(till)
    till.double.faults.extend(["cut_before"] * 3)
    await give_back(till, attempt, amount_minor=400)
    till.clock.advance(seconds=HOUR)
    await till.janitor()
    (refund,) = await till.desk.refunds.list(attempt.id)
    assert refund.state is RefundState.FAILED
    assert (await till.head(invoice)).status is InvoiceStatus.PAID
    assert (await till.sums())["cash_clearing"] == till.bank.money


async def test_a_refund_made_at_the_provider_is_written_down_once(till):
    invoice, attempt = await paid(till)
    till.bank.refund({"payment_intent": attempt.reference, "amount": "250"})
    for event in till.untold() * 2:
        await till.tell(event)
    await till.desk.inbox.process()
    await till.janitor()
    (refund,) = await till.desk.refunds.list(attempt.id)
    assert (refund.amount_minor, refund.state) == (250, RefundState.SUCCEEDED)
    assert (await till.head(invoice)).open_minor == 250
    assert (await till.sums())["cash_clearing"] == till.bank.money


async def test_a_refund_that_bounces_pays_the_invoice_again(till):
    invoice, attempt = await paid(till)
    refund = await give_back(till, attempt, amount_minor=250)
    till.bank.bounce(refund.reference)
    await till.janitor()
    assert (await till.head(invoice)).status is InvoiceStatus.PAID
    assert (await till.desk.service.get(attempt.id)).refunded_minor == 0
    assert (await till.sums())["cash_clearing"] == till.bank.money == 1000 - FEE


async def test_what_was_too_much_goes_back_first(till):
    invoice = await till.invoice(1000)
    attempt = await till.pay(invoice)
    wish = {"amount_minor": 1300, "reference": "wire", "key": None, "actor": "test"}
    attempt = await till.desk.service.receive(attempt.id, **wish)
    refund = await give_back(till, attempt, amount_minor=350)
    assert (refund.state, refund.from_credit_minor) == (RefundState.SUCCEEDED, 300)
    assert (await till.head(invoice)).open_minor == 50
    assert await till.sums() == {"cash_clearing": 950, "receivable": 50, "revenue": -1000}


@pytest.mark.parametrize("is_won", [True, False])
async def test_a_dispute_is_opened_and_decided_in_the_journal(till, is_won):
    invoice, attempt = await paid(till)
    till.bank.dispute(attempt.reference)
    await till.janitor()
    (dispute,) = await till.desk.disputes.list(attempt.id)
    assert dispute.state is DisputeState.OPENED
    assert await till.sums() == {
        "cash_clearing": -FEE - DISPUTE_FEE,
        "processor_fee": FEE + DISPUTE_FEE,
        "disputed": 1000,
        "revenue": -1000,
    }
    till.bank.decide(dispute.reference, is_won=is_won)
    events = till.untold()
    for event in reversed(events):  # the end is told before the beginning
        await till.tell(event)
    await till.desk.inbox.process()
    await till.janitor()
    (dispute,) = await till.desk.disputes.list(attempt.id)
    assert dispute.state is (DisputeState.WON if is_won else DisputeState.LOST)
    sums = await till.sums()
    assert sums["cash_clearing"] == till.bank.money
    assert sums.get("write_off", 0) == (0 if is_won else 1000)
    assert "disputed" not in sums
    assert (await till.head(invoice)).status is InvoiceStatus.PAID
    actions = [each.action for each in await till.outbox.pending(limit=99)]
    assert actions.count("dispute.opened") == 1
    assert actions.count(f"dispute.{dispute.state.value}") == 1
