"""What the routes of payments read and write, as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from tritium_platform.api.money_schemas import Identity, MinorUnits, Text
from tritium_platform.billing.dunning_notice import NoticeKind
from tritium_platform.billing.payment import AttemptState, Decline, DisputeState, RefundState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.billing.payment import (
        PaymentAttempt,
        PaymentDispute,
        PaymentMethod,
        PaymentRefund,
    )

_INPUT = ConfigDict(extra="forbid", frozen=True)


class NewMethod(BaseModel):
    """What a tenant is charged with from now on, by the provider's names."""

    model_config = _INPUT
    provider: Identity
    customer: Text
    method: Text


class MethodOut(BaseModel):
    """What a tenant is charged with."""

    tenant_id: UUID
    provider: str
    customer: str
    method: str
    created_at: datetime


class NewAttempt(BaseModel):
    """How much of an invoice to be paid now; by default all that is open."""

    model_config = _INPUT
    amount_minor: MinorUnits | None = None


class NewTransfer(BaseModel):
    """A bank transfer that came in."""

    model_config = _INPUT
    amount_minor: MinorUnits
    reference: Text


class NewRefund(BaseModel):
    """What goes back, by default all that is left; from a credit note, if one is named."""

    model_config = _INPUT
    reason: Text
    amount_minor: MinorUnits | None = None
    credit_note_id: UUID | None = None


class NoticeOut(BaseModel):
    """What a customer is to be told; `email` is the buyer's as it is known now."""

    id: UUID
    tenant_id: UUID
    invoice_id: UUID
    attempt_number: int
    kind: NoticeKind
    subject: str
    body: str
    email: str | None
    created_at: datetime


class NoticePage(BaseModel):
    """Notices, oldest first; `next_after` continues the page."""

    notices: list[NoticeOut]
    next_after: UUID | None


class AttemptOut(BaseModel):
    """An attempt to be paid; amounts are minor units of its currency."""

    id: UUID
    invoice_id: UUID
    tenant_id: UUID
    number: int
    provider: str
    state: AttemptState
    amount_minor: int
    received_minor: int
    refunded_minor: int
    fee_minor: int | None
    currency: str
    decline: Decline | None
    code: str
    reference: str | None
    created_at: datetime
    changed_at: datetime


class RefundOut(BaseModel):
    """Money that goes back."""

    id: UUID
    attempt_id: UUID
    number: int
    state: RefundState
    amount_minor: int
    from_credit_minor: int
    credit_note_id: UUID | None
    reason: str
    created_at: datetime
    changed_at: datetime


class DisputeOut(BaseModel):
    """A payment that the payer's bank takes back, or tried to."""

    id: UUID
    attempt_id: UUID
    state: DisputeState
    amount_minor: int
    reference: str
    created_at: datetime
    changed_at: datetime


class AttemptDetailOut(BaseModel):
    """An attempt with its refunds and disputes."""

    attempt: AttemptOut
    refunds: list[RefundOut]
    disputes: list[DisputeOut]


class AttemptPage(BaseModel):
    """Attempts, newest first; `next_after` continues the page."""

    attempts: list[AttemptOut]
    next_after: UUID | None


def attempt_out(attempt: PaymentAttempt) -> AttemptOut:
    """Spell an attempt."""
    return AttemptOut(**{name: getattr(attempt, name) for name in AttemptOut.model_fields})


def refund_out(refund: PaymentRefund) -> RefundOut:
    """Spell a refund."""
    return RefundOut(**{name: getattr(refund, name) for name in RefundOut.model_fields})


def dispute_out(dispute: PaymentDispute) -> DisputeOut:
    """Spell a dispute."""
    return DisputeOut(**{name: getattr(dispute, name) for name in DisputeOut.model_fields})


def method_out(method: PaymentMethod) -> MethodOut:
    """Spell a payment method."""
    return MethodOut(**{name: getattr(method, name) for name in MethodOut.model_fields})


def attempt_page(attempts: Sequence[PaymentAttempt], *, limit: int) -> AttemptPage:
    """Spell a page of attempts."""
    return AttemptPage(
        attempts=[attempt_out(each) for each in attempts],
        next_after=attempts[-1].id if len(attempts) == limit else None,
    )
