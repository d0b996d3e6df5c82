"""Compares what a payment provider says, one by one, with what is written down: pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from tritium_platform.billing.journal import Account
from tritium_platform.billing.payment import (
    PAID,
    AttemptState,
    RefundState,
    StatementItem,
    StatementKind,
)
from tritium_platform.billing.reconciliation.model import Check, Difference

if TYPE_CHECKING:
    from collections import Counter

    from tritium_platform.billing.payment import PaymentAttempt, PaymentDispute, PaymentRefund

# Whose money is at a provider that we know nothing of.
NOBODY = UUID(int=0)
NOTHING = "nothing"


def payment_item(attempt: PaymentAttempt) -> StatementItem:
    """Return what a provider should say of an attempt."""
    is_paid = attempt.state in PAID
    return StatementItem(
        kind=StatementKind.PAYMENT,
        reference=attempt.reference or "",
        payment=attempt.reference or "",
        own_id=attempt.id,
        state=AttemptState.SUCCEEDED.value if is_paid else attempt.state.value,
        amount_minor=attempt.received_minor if is_paid else attempt.amount_minor,
        currency=attempt.currency,
        created_at=attempt.created_at,
    )


def refund_item(refund: PaymentRefund, attempt: PaymentAttempt) -> StatementItem:
    """Return what a provider should say of a refund."""
    return StatementItem(
        kind=StatementKind.REFUND,
        reference=refund.reference or "",
        payment=attempt.reference or "",
        own_id=refund.id,
        state=refund.state.value,
        amount_minor=refund.amount_minor,
        currency=attempt.currency,
        created_at=refund.created_at,
    )


def dispute_item(dispute: PaymentDispute, attempt: PaymentAttempt) -> StatementItem:
    """Return what a provider should say of a dispute."""
    return StatementItem(
        kind=StatementKind.DISPUTE,
        reference=dispute.reference,
        payment=attempt.reference or "",
        own_id=dispute.id,
        state=dispute.state.value,
        amount_minor=dispute.amount_minor,
        currency=attempt.currency,
        created_at=dispute.created_at,
    )


def is_money_of_strangers(item: StatementItem) -> bool:
    """Say whether something that nobody here knows of matters: it moved money, or carries an id of ours."""
    is_idle = item.kind is StatementKind.PAYMENT and item.state != AttemptState.SUCCEEDED.value
    return item.own_id is not None or not is_idle


def is_expected_there(kept: StatementItem, *, is_with_provider: bool) -> bool:
    """Say whether a provider must know of something: it was asked for, and did not refuse unheard."""
    if kept.kind is StatementKind.PAYMENT:
        waits = kept.state in {AttemptState.SUCCEEDED.value, AttemptState.REQUIRES_ACTION.value}
        return is_with_provider and (waits or bool(kept.reference))
    if kept.kind is StatementKind.REFUND:
        return kept.state == RefundState.SUCCEEDED.value or bool(kept.reference)
    return True


def compare_items(said: StatementItem, kept: StatementItem, *, tenant_id: UUID) -> list[Difference]:
    """Compare what a provider says of something with what is written down: amount, currency, state."""
    pairs = (
        (Check.PAYMENT_AMOUNT, str(said.amount_minor), str(kept.amount_minor)),
        (Check.PAYMENT_CURRENCY, said.currency, kept.currency),
        (Check.PAYMENT_STATE, said.state, kept.state),
    )
    return [
        _difference(check, said, tenant_id=tenant_id, expected=expected, found=found)
        for check, expected, found in pairs
        if expected != found
    ]


def missing_here(said: StatementItem, *, tenant_id: UUID | None) -> Difference:
    """Name something that the provider has and we do not."""
    return _difference(
        Check.MISSING_HERE, said, tenant_id=tenant_id or NOBODY, expected=_told(said), found=NOTHING
    )


def missing_there(kept: StatementItem, *, tenant_id: UUID) -> Difference:
    """Name something that we have and the provider does not."""
    return _difference(Check.MISSING_THERE, kept, tenant_id=tenant_id, expected=NOTHING, found=_told(kept))


def compare_payment_movement(attempt: PaymentAttempt, moved: Counter[str]) -> list[Difference]:
    """Compare what an attempt brought with what the journal moved for it: cash and fee."""
    fee = attempt.fee_minor or 0 if attempt.received_minor else 0
    wanted = {
        Account.CASH_CLEARING.value: attempt.received_minor - fee,
        Account.PROCESSOR_FEE.value: fee,
    }
    return _movement(payment_item(attempt), wanted, moved, tenant_id=attempt.tenant_id)


def compare_refund_movement(
    refund: PaymentRefund, attempt: PaymentAttempt, moved: Counter[str]
) -> list[Difference]:
    """Compare a refund with the cash that the journal let go for it."""
    gone = refund.amount_minor if refund.state is RefundState.SUCCEEDED else 0
    wanted = {Account.CASH_CLEARING.value: -gone}
    return _movement(refund_item(refund, attempt), wanted, moved, tenant_id=refund.tenant_id)


def compare_dispute_movement(
    dispute: PaymentDispute, attempt: PaymentAttempt, moved: Counter[str]
) -> list[Difference]:
    """Compare a dispute with the cash and the fee that the journal moved for it."""
    wanted = {
        Account.CASH_CLEARING.value: dispute.cash_minor,
        Account.PROCESSOR_FEE.value: dispute.fee_minor,
    }
    return _movement(dispute_item(dispute, attempt), wanted, moved, tenant_id=dispute.tenant_id)


def _movement(
    kept: StatementItem, wanted: dict[str, int], moved: Counter[str], *, tenant_id: UUID
) -> list[Difference]:
    return [
        _difference(
            Check.MOVEMENT,
            kept,
            tenant_id=tenant_id,
            expected=str(amount),
            found=str(moved[account]),
            account=account,
        )
        for account, amount in wanted.items()
        if moved[account] != amount
    ]


def _difference(
    check: Check, item: StatementItem, *, tenant_id: UUID, expected: str, found: str, account: str = ""
) -> Difference:
    name = item.reference or str(item.own_id)
    return Difference(
        check=check,
        tenant_id=tenant_id,
        month=f"{item.created_at:%Y-%m}",
        account=account or item.currency,
        subject=f"{item.kind.value} {name}",
        expected=expected,
        found=found,
        look="tritiumd payment list; the provider's own list of payments",
    )


def _told(item: StatementItem) -> str:
    return f"{item.amount_minor} {item.currency}, {item.state}"
