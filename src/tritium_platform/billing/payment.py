"""Payments: what an attempt, a refund and a dispute are, and what a provider says about them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


class AttemptState(StrEnum):
    """How far an attempt to be paid is."""

    CREATED = "created"
    UNKNOWN = "unknown"
    REQUIRES_ACTION = "requires_action"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUNDED = "refunded"


UNRESOLVED = frozenset({AttemptState.CREATED, AttemptState.UNKNOWN, AttemptState.REQUIRES_ACTION})
PAID = frozenset({AttemptState.SUCCEEDED, AttemptState.REFUNDED})


class Decline(StrEnum):
    """Whether another attempt can help: a soft decline may pass later, a hard one will not."""

    SOFT = "soft"
    HARD = "hard"


class RefundState(StrEnum):
    """How far a refund is."""

    CREATED = "created"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class DisputeState(StrEnum):
    """How far a dispute is."""

    OPENED = "opened"
    WON = "won"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentMethod:
    """What a tenant is charged with at a provider, which alone knows card or account behind it."""

    tenant_id: UUID
    provider: str
    customer: str
    method: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentAttempt:
    """One attempt to be paid for an invoice; amounts are minor units.

    Attributes:
        number: counts from 1 within the invoice.
        amount_minor: what is asked for.
        customer: whom the provider charges; empty where it needs nobody.
        method: with what.
        reference: the provider's name for it, once it is known.
        received_minor: what came in.
        refunded_minor: what is given back or on its way back.
        fee_minor: what the provider kept; None while it is not known.
        decline: of a failure, whether another attempt can help.
        code: the provider's word for a failure.
    """

    id: UUID
    invoice_id: UUID
    tenant_id: UUID
    number: int
    provider: str
    idempotency_key: str
    state: AttemptState
    amount_minor: int
    currency: str
    created_at: datetime
    changed_at: datetime
    customer: str = ""
    method: str = ""
    reference: str | None = None
    received_minor: int = 0
    refunded_minor: int = 0
    fee_minor: int | None = None
    decline: Decline | None = None
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRefund:
    """Money that goes back.

    Attributes:
        number: counts from 1 within the attempt.
        from_credit_minor: how much of it was credit; the invoice is open again by the rest.
        credit_note_id: the credit note whose credit is paid out.
    """

    id: UUID
    attempt_id: UUID
    invoice_id: UUID
    tenant_id: UUID
    number: int
    idempotency_key: str
    state: RefundState
    amount_minor: int
    reason: str
    created_at: datetime
    changed_at: datetime
    from_credit_minor: int = 0
    credit_note_id: UUID | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentDispute:
    """A payment that the payer's bank takes back, or tried to.

    Attributes:
        cash_minor: what it moved at the provider so far; below zero: taken.
        fee_minor: what of that is the provider's fee.
        version: counts what the provider said anew, from 1.
    """

    id: UUID
    attempt_id: UUID
    tenant_id: UUID
    provider: str
    reference: str
    state: DisputeState
    amount_minor: int
    cash_minor: int
    fee_minor: int
    version: int
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEvent:
    """That something happened at a provider: not what, for that is asked for when the event is dealt with.

    Attributes:
        event_id: the provider's.
        kind: the provider's word.
        reference: the payment it is about; empty if it is about none.
        attempt_id: the attempt that the provider was told of, if the event repeats it.
    """

    id: UUID
    provider: str
    event_id: str
    kind: str
    reference: str
    attempt_id: UUID | None
    received_at: datetime


class StatementKind(StrEnum):
    """What an entry of a provider's list is."""

    PAYMENT = "payment"
    REFUND = "refund"
    DISPUTE = "dispute"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementItem:
    """A payment, refund or dispute as a provider lists it, or as it should.

    Attributes:
        reference: the provider's name for it. payment: that of the payment it is about.
        own_id: our id of it, if the provider was told.
        state: a word of `AttemptState`, `RefundState` or `DisputeState`; what was refunded has succeeded.
        amount_minor: what came in; of a payment that did not succeed, what was asked for.
    """

    kind: StatementKind
    reference: str
    payment: str
    own_id: UUID | None
    state: str
    amount_minor: int
    currency: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeOutcome:
    """What a provider says about an attempt."""

    state: AttemptState
    reference: str | None = None
    received_minor: int = 0
    fee_minor: int | None = None
    decline: Decline | None = None
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundOutcome:
    """What a provider says about a refund; `refund_id` is ours, None where the refund was made elsewhere."""

    state: RefundState
    reference: str
    amount_minor: int
    refund_id: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputeOutcome:
    """What a provider says about a dispute; see `PaymentDispute`."""

    state: DisputeState
    reference: str
    amount_minor: int
    cash_minor: int
    fee_minor: int


def idempotency_key(subject: UUID, number: int) -> str:
    """Return the key of attempt or refund `number` of a subject: SHA-256 of both, in hexadecimal."""
    return hashlib.sha256(f"{subject}|{number}".encode()).hexdigest()
