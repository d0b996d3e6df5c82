"""What a customer is to be told when an invoice could not be charged: plain English, ready to be sent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.billing.invoice import Invoice


class NoticeKind(StrEnum):
    """What a notice is about."""

    SOFT = "soft"
    """The charge was declined and will be tried again."""
    HARD = "hard"
    """The charge was declined for good: another payment method is needed."""
    END = "end"
    """Nothing more is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DunningNotice:
    """A notice that is due, kept once per invoice, attempt and kind.

    Attributes:
        attempt_number: the attempt that was declined, counted from 1.
        body: the text; the reason that a bank gave is not in it, for it may be a suspicion.
    """

    id: UUID
    tenant_id: UUID
    invoice_id: UUID
    attempt_number: int
    kind: NoticeKind
    subject: str
    body: str
    created_at: datetime


def soft_text(invoice: Invoice, *, next_try: datetime) -> tuple[str, str]:
    """Return subject and body after a decline that may pass."""
    return f"Payment of invoice {_name(invoice)} was declined", _letter(
        f"We tried to collect {_amount(invoice)} for invoice {_name(invoice)}, and the charge was declined.",
        f"Nothing is lost yet: we will try again on {_day(next_try)}. Please see to it that the payment "
        "method can be charged then, or name another one before.",
    )


def hard_text(invoice: Invoice, *, until: datetime) -> tuple[str, str]:
    """Return subject and body after a decline that will not pass."""
    return f"Another payment method is needed for invoice {_name(invoice)}", _letter(
        f"We tried to collect {_amount(invoice)} for invoice {_name(invoice)}, and the charge was declined. "
        "This payment method will not be charged again.",
        f"Please name another payment method, or pay in another way, by {_day(until)}.",
    )


def end_text(invoice: Invoice, *, is_suspended: bool) -> tuple[str, str]:
    """Return subject and body when nothing more is tried."""
    follows = "Your account is suspended until it is paid. " if is_suspended else ""
    return f"Invoice {_name(invoice)} could not be collected", _letter(
        f"We could not collect {_amount(invoice)} for invoice {_name(invoice)}, and will not try again by "
        "ourselves.",
        f"{follows}Please get in touch with us about how to pay it.",
    )


def _letter(*paragraphs: str) -> str:
    return "\n\n".join(
        ("Hello,", *paragraphs, "If you have paid in the meantime, please ignore this message.")
    )


def _name(invoice: Invoice) -> str:
    return invoice.number or str(invoice.id)


def _amount(invoice: Invoice) -> str:
    return str(invoice.money(invoice.open_minor))


def _day(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y}"
