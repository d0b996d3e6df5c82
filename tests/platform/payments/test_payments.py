"""Paying: what is written down, and what a lost answer does."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from tritium_payments_bank import fee_of

from tritium_platform.billing.invoice import InvoiceStatus
from tritium_platform.billing.payment import AttemptState, Decline, idempotency_key
from tritium_platform.errors import BitNetServiceError, ConflictError, NotFoundError, ValidationError
from tritium_platform.values import uuid7

HOUR = 3600


async def test_a_card_pays_an_invoice_and_the_journal_knows_the_fee(till):
    await till.card("pm_ok")
    invoice = await till.invoice(1000)
    attempt = await till.pay(invoice)
    assert (attempt.state, attempt.number, attempt.received_minor) == (AttemptState.SUCCEEDED, 1, 1000)
    assert attempt.idempotency_key == idempotency_key(invoice.id, 1)
    assert (await till.head(invoice)).status is InvoiceStatus.PAID
    fee = fee_of(1000)
    assert await till.sums() == {"cash_clearing": 1000 - fee, "processor_fee": fee, "revenue": -1000}
    assert till.bank.money == 1000 - fee
    actions = sorted(each.action for each in await till.outbox.pending(limit=99))
    assert actions == ["payment.create", "payment.succeeded", "payment_method.set"]


async def test_without_a_card_an_invoice_waits_for_a_transfer(till):
    invoice = await till.invoice(1000)
    attempt = await till.pay(invoice)
    assert (attempt.provider, attempt.state) == ("manual", AttemptState.REQUIRES_ACTION)
    with pytest.raises(ConflictError, match="not resolved"):
        await till.pay(invoice)
    for end in (till.settlement.void, till.settlement.write_off):
        with pytest.raises(ConflictError, match="not resolved"):
            await end(invoice.id, actor="test")
    wish = {"amount_minor": 1200, "reference": "wire", "key": "once", "actor": "test"}
    received = await till.desk.service.receive(attempt.id, **wish)
    assert await till.desk.service.receive(attempt.id, **wish) == received
    assert received.state is AttemptState.SUCCEEDED
    assert (await till.head(invoice)).status is InvoiceStatus.PAID
    assert await till.sums() == {"cash_clearing": 1200, "customer_credit": -200, "revenue": -1000}
    (grant,) = await till.books.credits.list(till.tenant_id)
    assert grant.remaining_minor == 200


async def test_two_transfers_may_have_the_same_words(till):
    for _ in range(2):
        attempt = await till.pay(await till.invoice(10))
        wish = {"amount_minor": 10, "reference": "thank you", "key": None, "actor": "test"}
        assert (await till.desk.service.receive(attempt.id, **wish)).state is AttemptState.SUCCEEDED


async def test_a_part_is_paid_and_then_the_rest_and_never_more(till):
    await till.card("pm_ok")
    invoice = await till.invoice(1000)
    for wrong in (0, -1, 1001):
        with pytest.raises(ValidationError):
            await till.pay(invoice, amount_minor=wrong)
    await till.pay(invoice, amount_minor=400)
    assert (await till.head(invoice)).status is InvoiceStatus.PARTIALLY_PAID
    second = await till.pay(invoice)
    assert (second.number, second.received_minor) == (2, 600)
    with pytest.raises(ConflictError, match="not open"):
        await till.pay(invoice)
    assert len(till.bank.intents) == 2


async def test_a_key_pays_once(till):
    await till.card("pm_ok")
    invoice = await till.invoice(1000)
    wish = {"key": "a key", "actor": "test", "amount_minor": 300}
    first = await till.desk.service.process_payment(invoice.id, **wish)
    assert await till.desk.service.process_payment(invoice.id, **wish) == first
    with pytest.raises(ValidationError, match="another request"):
        await till.desk.service.process_payment(invoice.id, **wish | {"amount_minor": 301})
    assert len(till.bank.intents) == 1


@pytest.mark.parametrize(
    ("card", "decline", "code"),
    [
        ("pm_poor", Decline.SOFT, "insufficient_funds"),
        ("pm_stolen", Decline.HARD, "stolen_card"),
        ("pm_confused", Decline.HARD, "a_word_that_nobody_knows"),
    ],
)
async def test_a_decline_has_a_class(till, card, decline, code):
    await till.card(card)
    invoice = await till.invoice(1000)
    attempt = await till.pay(invoice)
    assert (attempt.state, attempt.decline, attempt.code) == (AttemptState.FAILED, decline, code)
    assert (await till.head(invoice)).open_minor == 1000
    assert till.bank.money == 0


@pytest.mark.parametrize("fault", ["error_before", "cut_before", "limited", "cut_after", "cut_in_the_body"])
async def test_one_bad_answer_is_asked_for_again_under_the_same_key(till, fault):
    await till.card("pm_ok")
    till.double.faults.append(fault)
    attempt = await till.pay(await till.invoice(1000))
    assert attempt.state is AttemptState.SUCCEEDED
    assert len(till.bank.intents) == 1
    assert {key for method, _, key in till.double.requests if method == "POST"} == {attempt.idempotency_key}


@pytest.mark.parametrize("fault", ["error_after", "cut_after", "cut_in_the_body", "late", "slow"])
async def test_what_is_lost_is_unknown_and_found_by_asking(till, fault):
    await till.card("pm_ok")
    invoice = await till.invoice(1000)
    till.double.faults.extend([fault, "cut_before", "cut_before"])
    if fault == "slow":
        till.provider._caller._policy = type(till.provider._caller._policy)(
            max_attempts=3, base_delay=0, attempt_seconds=0.05
        )
    attempt = await till.pay(invoice)
    assert attempt.state is AttemptState.UNKNOWN
    with pytest.raises(ConflictError, match="not resolved"):
        await till.pay(invoice)
    till.double.faults.clear()
    till.double.catch_up()
    if fault == "slow":
        await asyncio.sleep(0.5)
    till.clock.advance(seconds=HOUR)
    before = len([each for each in till.double.requests if each[0] == "POST"])
    run = await till.janitor()
    assert (run.waiting, len([e for e in till.double.requests if e[0] == "POST"])) == (0, before)
    assert (await till.desk.service.get(attempt.id)).state is AttemptState.SUCCEEDED
    assert (await till.head(invoice)).status is InvoiceStatus.PAID
    assert (await till.sums())["cash_clearing"] == till.bank.money


async def test_what_never_arrived_fails_only_when_nothing_can_be_on_its_way(till):
    await till.card("pm_ok")
    invoice = await till.invoice(1000)
    till.double.faults.extend(["cut_before"] * 3)
    attempt = await till.pay(invoice)
    till.clock.advance(seconds=10 * 60)
    assert (await till.janitor()).waiting == 1
    assert (await till.desk.service.get(attempt.id)).state is AttemptState.UNKNOWN
    till.clock.advance(seconds=HOUR)
    assert (await till.janitor()).resolved == 1
    after = await till.desk.service.get(attempt.id)
    assert (after.state, after.decline, after.code) == (AttemptState.FAILED, Decline.SOFT, "not_received")
    assert (await till.pay(invoice)).state is AttemptState.SUCCEEDED


async def test_a_failure_that_was_none_is_credit(till):
    await till.card("pm_ok")
    invoice = await till.invoice(1000)
    till.double.faults.extend(["late", "cut_before", "cut_before"])
    lost = await till.pay(invoice)
    till.clock.advance(seconds=HOUR)
    await till.janitor()
    await till.pay(invoice)
    till.double.catch_up()  # an hour late: no provider does that
    await till.janitor()
    assert (await till.desk.service.get(lost.id)).state is AttemptState.SUCCEEDED
    assert (await till.head(invoice)).paid_minor == 1000
    sums = await till.sums()
    assert sums["cash_clearing"] == till.bank.money
    assert sums["customer_credit"] == -1000


async def test_a_crash_before_the_answer_is_written_is_resolved_too(till):
    await till.card("pm_ok")
    invoice = await till.invoice(1000)

    async def killed(*_, **__):
        raise KeyboardInterrupt

    settle, till.desk.service.settle = till.desk.service.settle, killed
    with pytest.raises(KeyboardInterrupt):
        await till.pay(invoice)
    till.desk.service.settle = settle
    (attempt,) = await till.books.payments.of_invoice(invoice.id)
    assert attempt.state is AttemptState.CREATED
    till.clock.advance(seconds=HOUR)
    await till.janitor()
    assert (await till.head(invoice)).status is InvoiceStatus.PAID


async def test_a_payer_who_must_act_may_do_so_for_a_week(till):
    await till.card("pm_asks")
    first, second = await till.invoice(1000), await till.invoice(500)
    attempts = [await till.pay(each) for each in (first, second)]
    assert {each.state for each in attempts} == {AttemptState.REQUIRES_ACTION}
    till.bank.confirm(attempts[0].reference)
    till.clock.advance(seconds=24 * HOUR)
    assert (await till.janitor()).waiting == 1
    assert (await till.head(first)).status is InvoiceStatus.PAID
    till.clock.advance(seconds=7 * 24 * HOUR)
    assert (await till.janitor()).waiting == 0
    after = await till.desk.service.get(attempts[1].id)
    assert (after.state, after.code) == (AttemptState.FAILED, "canceled")
    with pytest.raises(ConflictError):
        await till.desk.service.cancel(after.id)


async def test_a_fee_that_is_known_later_is_written_later(till):
    await till.card("pm_ok")
    till.bank.is_fee_late = True
    attempt = await till.pay(await till.invoice(1000))
    assert attempt.fee_minor is None
    assert (await till.sums())["cash_clearing"] == 1000
    till.clock.advance(seconds=HOUR)
    till.double.catch_up()
    await till.janitor()
    assert (await till.sums())["cash_clearing"] == till.bank.money == 1000 - fee_of(1000)


async def test_a_provider_that_lies_is_not_believed(till):
    await till.card("pm_ok")
    invoice = await till.invoice(1000)
    till.double.faults.extend(["cut_after"] * 3)
    attempt = await till.pay(invoice)
    (intent,) = till.bank.intents.values()
    intent["currency"] = "jpy"
    till.double.faults.clear()
    till.clock.advance(seconds=HOUR)
    assert (await till.janitor()).waiting >= 1
    assert (await till.desk.service.get(attempt.id)).state is AttemptState.UNKNOWN
    assert (await till.head(invoice)).open_minor == 1000


async def test_the_breaker_gives_the_provider_a_pause(till):
    await till.card("pm_ok")
    till.double.faults.extend(["cut_before"] * 100)
    for _ in range(5):
        await till.pay(await till.invoice(10))
    asked = len(till.double.requests)
    await till.pay(await till.invoice(10))
    assert len(till.double.requests) - asked <= 1
    assert till.provider._caller._breaker.state == "open"


async def test_nothing_is_found_that_is_not_there(till):
    for wrong in (
        till.desk.service.get(uuid7()),
        till.desk.service.cancel(uuid7()),
        till.desk.refunds.refund(uuid7(), reason="r", key=None, actor="test"),
        till.desk.service.process_payment(uuid7(), key=None, actor="test"),
    ):
        with pytest.raises(NotFoundError):
            await wrong
    with pytest.raises(BitNetServiceError, match="not configured"):
        await till.desk.service.set_method(
            till.tenant_id, provider="paypal", customer="c", method="m", actor="test"
        )


async def test_no_key_is_in_what_fails(till, caplog, capsys):
    await till.card("pm_ok")
    till.double.faults.extend(["cut_before", "error_before", "cut_in_the_body"])
    attempt = await till.pay(await till.invoice(1000))
    shown = caplog.text + "".join(capsys.readouterr()) + repr(attempt) + repr(till.provider)
    assert "sk_test_double" not in shown
    assert timedelta(0) < till.clock.now() - attempt.created_at < timedelta(minutes=2)
