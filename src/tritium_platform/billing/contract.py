"""What a tenant has agreed to: which plan, from when, taxed where, paid within how many days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from typing import TYPE_CHECKING

from tritium_platform.billing.rating.tax import TaxStatus
from tritium_platform.errors import ValidationError
from tritium_platform.values import Interval

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.values import CalendarMonth

DEFAULT_PAYMENT_DAYS = 14
MOST_PAYMENT_DAYS = 365
UNTAXED = TaxStatus()
FOR_EVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A contract never changes: other terms are another contract, from a later instant on.

    Attributes:
        plan_id: the plan that it pins.
        starts_at: from when; a month that it covers in part has a part of what is prorated.
        ends_at: until when, unless another one follows earlier; None: until another one follows.
        payment_days: how long after its date an invoice is due.
        tax: where the customer is taxed.
    """

    id: UUID
    tenant_id: UUID
    plan_id: str
    starts_at: datetime
    created_at: datetime
    ends_at: datetime | None = None
    payment_days: int = DEFAULT_PAYMENT_DAYS
    tax: TaxStatus = UNTAXED

    def __post_init__(self) -> None:
        if self.starts_at.tzinfo is None or (self.ends_at is not None and self.ends_at.tzinfo is None):
            raise ValidationError(
                "A contract starts and ends at instants with a time zone.", field="starts_at"
            )
        if self.ends_at is not None and self.ends_at <= self.starts_at:
            raise ValidationError("A contract ends after its start.", field="ends_at")
        if not 0 <= self.payment_days <= MOST_PAYMENT_DAYS:
            raise ValidationError(
                f"An invoice is due after 0 to {MOST_PAYMENT_DAYS} days.", field="payment_days"
            )


def contracts_of(contracts: Sequence[Contract], *, month: CalendarMonth) -> list[tuple[Contract, Interval]]:
    """Return the contracts that hold in a month, in their order, and when in it each of them does.

    A contract holds from its start on, until its end or until another one starts.
    """
    ordered = sorted(contracts, key=lambda each: each.starts_at)
    held = []
    for contract, follower in zip_longest(ordered, ordered[1:]):
        follows_at = follower.starts_at if follower else FOR_EVER
        start = max(month.start, contract.starts_at)
        end = min(month.end, contract.ends_at or FOR_EVER, follows_at)
        if start < end:
            held.append((contract, Interval(start.astimezone(UTC), end.astimezone(UTC))))
    return held
