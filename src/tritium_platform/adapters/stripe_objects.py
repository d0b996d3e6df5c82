"""What Stripe's objects mean to us; each comes as plain JSON."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tritium_platform.billing.declines import classify_decline
from tritium_platform.billing.payment import (
    AttemptState,
    ChargeOutcome,
    Decline,
    DisputeOutcome,
    DisputeState,
    ProviderEvent,
    RefundOutcome,
    RefundState,
    StatementItem,
    StatementKind,
)
from tritium_platform.errors import PlatformError
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium_platform.billing.payment import PaymentAttempt
    from tritium_platform.values import Clock

NAME = "stripe"
# Our ids at Stripe: how an attempt is found whose answer was lost.
ATTEMPT = "tritium_attempt"
INVOICE = "tritium_invoice"
REFUND = "tritium_refund"
STATES = {
    "succeeded": AttemptState.SUCCEEDED,
    "processing": AttemptState.UNKNOWN,
    "requires_action": AttemptState.REQUIRES_ACTION,
    "requires_capture": AttemptState.REQUIRES_ACTION,
    "requires_confirmation": AttemptState.REQUIRES_ACTION,
    "requires_payment_method": AttemptState.FAILED,
    "canceled": AttemptState.FAILED,
}
REFUND_STATES = {
    "succeeded": RefundState.SUCCEEDED,
    "failed": RefundState.FAILED,
    "canceled": RefundState.FAILED,
}
DISPUTE_STATES = {
    "won": DisputeState.WON,
    "warning_closed": DisputeState.WON,
    "lost": DisputeState.LOST,
}


def charge_outcome(intent: Mapping[str, Any], *, attempt: PaymentAttempt) -> ChargeOutcome:
    """Read a PaymentIntent; PlatformError if it cannot be the attempt's, which nothing then believes."""
    state = STATES.get(intent["status"])
    if state is None or intent["currency"].upper() != attempt.currency:
        raise PlatformError("Stripe says something about a payment that cannot be.", status=intent["status"])
    if state is AttemptState.FAILED:
        code = "canceled" if intent["status"] == "canceled" else decline_code(intent["last_payment_error"])
        return ChargeOutcome(state=state, reference=intent["id"], decline=classify_decline(code), code=code)
    received = received_minor(intent) if state is AttemptState.SUCCEEDED else 0
    return ChargeOutcome(state=state, reference=intent["id"], received_minor=received, fee_minor=_fee(intent))


def received_minor(intent: Mapping[str, Any]) -> int:
    """Return what a PaymentIntent that succeeded brought, in minor units."""
    received = intent.get("amount_received", intent["amount"])
    if type(received) is not int or received <= 0:
        raise PlatformError("Stripe says that a payment succeeded and brought nothing.")
    return received


def decline_code(error: Mapping[str, Any] | None) -> str:
    """Return the most telling word of a decline."""
    told = error or {}
    return str(told.get("decline_code") or told.get("code") or "unknown")[:100]


def refused_outcome(error: Mapping[str, Any], *, is_card: bool) -> ChargeOutcome:
    """Read the error with which Stripe refuses a charge: a declined card, or a request that cannot be."""
    code = decline_code(error)
    intent = error.get("payment_intent") or {}
    return ChargeOutcome(
        state=AttemptState.FAILED,
        reference=intent.get("id"),
        decline=classify_decline(code) if is_card else Decline.HARD,
        code=code,
    )


def refund_outcome(refund: Mapping[str, Any]) -> RefundOutcome:
    """Read a Refund."""
    return RefundOutcome(
        state=REFUND_STATES.get(refund["status"], RefundState.UNKNOWN),
        reference=refund["id"],
        amount_minor=refund["amount"],
        refund_id=_identity(refund, REFUND),
    )


def dispute_outcome(dispute: Mapping[str, Any]) -> DisputeOutcome:
    """Read a Dispute; what it moved so far is in its balance transactions."""
    moves = [each for each in dispute["balance_transactions"] if each["currency"] == dispute["currency"]]
    return DisputeOutcome(
        state=DISPUTE_STATES.get(dispute["status"], DisputeState.OPENED),
        reference=dispute["id"],
        amount_minor=dispute["amount"],
        cash_minor=sum(each["net"] for each in moves),
        fee_minor=sum(each["fee"] for each in moves),
    )


def payment_entry(intent: Mapping[str, Any]) -> StatementItem:
    """Read a PaymentIntent as an entry of a list; a status that nobody knows stays what it is."""
    state = STATES.get(intent["status"], intent["status"])
    is_paid = state is AttemptState.SUCCEEDED
    amount = intent.get("amount_received", intent["amount"]) if is_paid else intent["amount"]
    return _entry(
        intent, StatementKind.PAYMENT, state=state, amount=amount, payment=intent["id"], name=ATTEMPT
    )


def refund_entry(refund: Mapping[str, Any]) -> StatementItem:
    """Read a Refund as an entry of a list."""
    state = REFUND_STATES.get(refund["status"], RefundState.UNKNOWN)
    payment = str(refund.get("payment_intent") or "")
    return _entry(
        refund, StatementKind.REFUND, state=state, amount=refund["amount"], payment=payment, name=REFUND
    )


def dispute_entry(dispute: Mapping[str, Any]) -> StatementItem:
    """Read a Dispute as an entry of a list."""
    state = DISPUTE_STATES.get(dispute["status"], DisputeState.OPENED)
    payment = str(dispute.get("payment_intent") or "")
    return _entry(
        dispute, StatementKind.DISPUTE, state=state, amount=dispute["amount"], payment=payment, name=""
    )


def _entry(
    of: Mapping[str, Any], kind: StatementKind, *, state: str, amount: int, payment: str, name: str
) -> StatementItem:
    return StatementItem(
        kind=kind,
        reference=of["id"],
        payment=payment,
        own_id=_identity(of, name),
        state=str(state),
        amount_minor=amount,
        currency=of["currency"].upper(),
        created_at=datetime.fromtimestamp(of["created"], UTC),
    )


def provider_event(event: Mapping[str, Any], *, clock: Clock) -> ProviderEvent:
    """Read an Event: only what it is about, for what is true is asked for later."""
    about = event["data"]["object"]
    named = about.get("id") if about.get("object") == "payment_intent" else about.get("payment_intent")
    reference = named.get("id") if isinstance(named, dict) else named
    return ProviderEvent(
        id=uuid7(clock),
        provider=NAME,
        event_id=str(event["id"])[:200],
        kind=str(event["type"])[:100],
        reference=str(reference or "")[:200],
        attempt_id=_identity(about, ATTEMPT),
        received_at=clock.now(),
    )


def _fee(intent: Mapping[str, Any]) -> int | None:
    """Return the fee, if Stripe names it yet and takes it in the currency of the payment."""
    charge = intent.get("latest_charge")
    balance = charge.get("balance_transaction") if isinstance(charge, dict) else None
    if not isinstance(balance, dict) or balance["currency"] != intent["currency"]:
        return None
    fee: int = balance["fee"]
    return fee


def _identity(about: Mapping[str, Any], name: str) -> UUID | None:
    with suppress(KeyError, TypeError, ValueError):
        return UUID(about["metadata"][name])
    return None
