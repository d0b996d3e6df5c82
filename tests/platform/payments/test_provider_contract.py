"""What every payment provider promises: bank transfers, and Stripe's SDK in front of the double."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tritium_payments_till import START

from tritium_platform.billing.manual import ManualProvider
from tritium_platform.billing.payment import (
    PAID,
    AttemptState,
    Decline,
    PaymentAttempt,
    PaymentRefund,
    RefundState,
    idempotency_key,
)
from tritium_platform.values import uuid7


@pytest.fixture(params=["manual", "stripe"])
def provider(request, till):
    return ManualProvider() if request.param == "manual" else till.provider


def attempt_by(provider, *, method="pm_ok"):
    invoice_id = uuid7()
    return PaymentAttempt(
        id=uuid7(),
        invoice_id=invoice_id,
        tenant_id=uuid7(),
        number=1,
        provider=provider.name,
        idempotency_key=idempotency_key(invoice_id, 1),
        state=AttemptState.CREATED,
        amount_minor=1000,
        currency="USD",
        created_at=START,
        changed_at=START,
        customer="cus_1",
        method=method,
    )


def known_by(attempt, outcome):
    fields = {name: getattr(attempt, name) for name in attempt.__slots__}
    return PaymentAttempt(**fields | {"reference": outcome.reference})


async def test_asked_twice_it_charges_once_and_says_the_same(provider, till):
    attempt = attempt_by(provider)
    first = await provider.charge(attempt, description="INV-1")
    assert await provider.charge(attempt, description="INV-1") == first
    assert first.state in PAID | {AttemptState.REQUIRES_ACTION}
    assert len(till.bank.intents) == (provider.name == "stripe")
    assert await provider.find_charge(attempt) == first
    assert await provider.find_charge(known_by(attempt, first)) == first


@pytest.mark.parametrize("currency", ["ISK", "MGA", "UGX"])
async def test_what_stripe_counts_otherwise_is_not_asked_of_it(till, currency):
    outcome = await till.provider.charge(
        replace(attempt_by(till.provider), currency=currency), description="INV-1"
    )
    assert (outcome.state, outcome.decline) == (AttemptState.FAILED, Decline.HARD)
    assert outcome.code == "currency_not_supported"
    assert not till.bank.intents


async def test_what_waits_for_the_payer_can_be_given_up(provider):
    attempt = attempt_by(provider, method="pm_asks")
    outcome = await provider.charge(attempt, description="INV-1")
    assert outcome.state is AttemptState.REQUIRES_ACTION
    ended = await provider.cancel(known_by(attempt, outcome))
    assert (ended.state, ended.code) == (AttemptState.FAILED, "canceled")


async def test_asked_twice_it_gives_back_once_and_finds_it(provider, till):
    attempt = attempt_by(provider)
    attempt = known_by(attempt, await provider.charge(attempt, description="INV-1"))
    refund = PaymentRefund(
        id=uuid7(),
        attempt_id=attempt.id,
        invoice_id=attempt.invoice_id,
        tenant_id=attempt.tenant_id,
        number=1,
        idempotency_key=idempotency_key(attempt.id, 1),
        state=RefundState.CREATED,
        amount_minor=400,
        reason="sorry",
        created_at=START,
        changed_at=START,
    )
    first = await provider.refund(attempt, refund)
    assert await provider.refund(attempt, refund) == first
    assert (first.state, first.refund_id, first.amount_minor) == (RefundState.SUCCEEDED, refund.id, 400)
    assert list(await provider.find_refunds(attempt, [refund])) == [first]
    assert len(till.bank.refunds) == (provider.name == "stripe")


async def test_what_did_not_happen_is_not_told(provider):
    attempt = attempt_by(provider)
    attempt = known_by(attempt, await provider.charge(attempt, description="INV-1"))
    assert list(await provider.find_refunds(attempt, [])) == []
    assert list(await provider.find_disputes(attempt)) == []
    events = await provider.find_events(since=START)
    assert {each.attempt_id for each in events} <= {attempt.id}


async def test_a_list_longer_than_a_page_is_read_to_its_end(till):
    for _ in range(230):
        till.bank.tell("payment_intent.succeeded", {"object": "payment_intent", "id": "pi_1"})
    found = await till.provider.find_events(since=START)
    assert len({each.event_id for each in found}) == 230
