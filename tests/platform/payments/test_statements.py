"""What the provider lists and what is written down, one by one: each sabotage has its name."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tritium_platform.billing.journal import Account
from tritium_platform.billing.payment import AttemptState, RefundState
from tritium_platform.billing.reconciliation.model import Check
from tritium_platform.billing.reconciliation.statement import NOBODY
from tritium_platform.billing.reconciliation.statements import StatementComparison

DAY = 86_400


async def compared(till):
    """Let a day pass, and compare."""
    till.clock.advance(seconds=DAY)
    comparison = StatementComparison(books=till.books, providers=till.desk.service.providers)
    counted, found = await comparison.compare()
    return counted, found


def named(found):
    return [(each.check, each.expected, each.found) for each in found]


@pytest.fixture
async def life(till):
    """A day with everything in it; returns (attempt that was paid, refund, attempt that is disputed)."""
    await till.card("pm_ok")
    attempts = [await till.pay(await till.invoice(amount)) for amount in (1000, 2000, 3000)]
    refund = await till.desk.refunds.refund(
        attempts[1].id, amount_minor=500, reason="sorry", key=None, actor="test"
    )
    till.bank.dispute(attempts[2].reference)
    await till.card("pm_poor")
    await till.pay(await till.invoice(400))
    await till.janitor()
    return attempts[0], refund, attempts[2]


async def test_what_agrees_is_quiet_and_counted(till, life):
    counted, found = await compared(till)
    assert found == []
    assert counted == Counter(provider_entries=6, payments_by_provider=4, refunds=1, disputes=1)


async def test_a_transfer_that_was_recorded_by_hand_is_matched_with_the_journal(till):
    attempt = await till.pay(await till.invoice(70))
    assert attempt.provider == "manual"
    paid = await till.desk.service.receive(
        attempt.id, amount_minor=70, reference="wire 17", key=None, actor="test"
    )
    counted, found = await compared(till)
    assert (found, counted["payments_by_provider"], counted["provider_entries"]) == ([], 1, 0)
    await till.books.payments.save(replace(paid, received_minor=69))
    _, found = await compared(till)
    assert [(each.check, each.account, each.expected, each.found) for each in found] == [
        (Check.MOVEMENT, "cash_clearing", "69", "70")
    ]


async def test_a_charge_that_only_the_provider_has_is_named(till, life):
    till.bank.charge({"amount": "999", "currency": "usd", "customer": "cus_9", "payment_method": "pm_ok"})
    _, (difference,) = await compared(till)
    assert (difference.check, difference.tenant_id) == (Check.MISSING_HERE, NOBODY)
    assert (difference.expected, difference.found) == ("999 USD, succeeded", "nothing")
    assert difference.subject.startswith("payment pi_")


async def test_what_strangers_only_tried_is_nothing(till, life):
    till.bank.charge({"amount": "999", "currency": "usd", "customer": "cus_9", "payment_method": "pm_asks"})
    assert (await compared(till))[1] == []


async def test_a_refund_or_dispute_that_only_the_provider_has_is_named_with_its_tenant(till, life):
    paid, refund, _ = life
    till.bank.refund(
        {"payment_intent": paid.reference, "amount": "10"}
    )  # in the dashboard; the notice is lost
    till.bank.dispute(till.bank.refunds[refund.reference]["payment_intent"])
    _, found = await compared(till)
    assert [(each.check, each.tenant_id) for each in found] == [(Check.MISSING_HERE, till.tenant_id)] * 2
    assert [each.expected for each in found] == ["10 USD, succeeded", "1500 USD, opened"]


async def test_what_the_provider_has_lost_is_named(till, life):
    paid, refund, _ = life
    del till.bank.intents[paid.reference]
    del till.bank.refunds[refund.reference]
    (dispute,) = till.bank.disputes
    del till.bank.disputes[dispute]
    _, found = await compared(till)
    assert named(found) == [
        (Check.MISSING_THERE, "nothing", "1000 USD, succeeded"),
        (Check.MISSING_THERE, "nothing", "500 USD, succeeded"),
        (Check.MISSING_THERE, "nothing", "3000 USD, opened"),
    ]
    assert all(each.tenant_id == till.tenant_id for each in found)


@pytest.mark.parametrize(
    ("fields", "difference"),
    [
        ({"amount_received": 1001}, (Check.PAYMENT_AMOUNT, "1001", "1000")),
        ({"currency": "eur"}, (Check.PAYMENT_CURRENCY, "EUR", "USD")),
        (
            {"status": "requires_action"},
            (Check.PAYMENT_STATE, "requires_action", "succeeded"),
        ),
        ({"status": "a_new_word"}, (Check.PAYMENT_STATE, "a_new_word", "succeeded")),
    ],
)
async def test_an_amount_currency_or_state_that_the_provider_says_otherwise_is_named(
    till, life, fields, difference
):
    till.bank.intents[life[0].reference] |= fields
    assert difference in named((await compared(till))[1])


async def test_a_hand_in_our_books_is_named(till, life):
    paid, refund, disputed = life
    store = till.books.payments
    await store.save(replace(await store.get(paid.id), state=AttemptState.FAILED, received_minor=0))
    await store.save_refund(replace(refund, state=RefundState.FAILED))
    (dispute,) = await store.disputes(disputed.id)
    await store.save_dispute(replace(dispute, amount_minor=1))
    _, found = await compared(till)
    assert {(each.check, each.subject.split()[0], each.account) for each in found} == {
        (Check.PAYMENT_STATE, "payment", "USD"),
        (Check.MOVEMENT, "payment", Account.CASH_CLEARING.value),
        (Check.MOVEMENT, "payment", Account.PROCESSOR_FEE.value),
        (Check.PAYMENT_STATE, "refund", "USD"),
        (Check.MOVEMENT, "refund", Account.CASH_CLEARING.value),
        (Check.PAYMENT_AMOUNT, "dispute", "USD"),
    }


async def test_a_provider_that_cannot_be_asked_says_nothing_and_is_counted(till, life):
    till.double.faults.extend(["error_before"] * 20)
    counted, found = await compared(till)
    assert (found, counted["providers_silent"], counted["provider_entries"]) == ([], 1, 0)


async def test_a_provider_that_falls_silent_after_its_list_says_nothing_more_and_is_counted(till, life):
    (dispute,) = till.bank.disputes
    del till.bank.disputes[dispute]
    till.double.faults.extend(["", "", "", *["error_before"] * 20])  # three lists, then no answer
    counted, found = await compared(till)
    assert (found, counted["providers_silent"], counted["provider_entries"]) == ([], 1, 5)


async def test_faults_on_the_way_are_tried_again_and_a_long_list_is_read_to_its_end(till):
    await till.card("pm_ok")
    for number in range(120):
        await till.pay(await till.invoice(number + 1))
    till.double.faults.extend(["limited", "cut_after", "", "error_before"])
    counted, found = await compared(till)
    assert (found, counted["provider_entries"], counted["payments_by_provider"]) == ([], 120, 120)


async def test_only_what_is_settled_is_looked_at(till):
    await till.card("pm_ok")
    await till.pay(await till.invoice(5))
    till.bank.intents.clear()
    till.clock.advance(seconds=1800)
    comparison = StatementComparison(books=till.books, providers=till.desk.service.providers)
    assert await comparison.compare() == (Counter(), [])
    _, found = await compared(till)
    assert [each.check for each in found] == [Check.MISSING_THERE]
