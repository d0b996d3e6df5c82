"""What a tenant has agreed to: which plan, from when, taxed where, paid within how many days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tritium_platform.billing.rating.proration import part_of_period
from tritium_platform.billing.rating.tax import TaxStatus
from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction
    from uuid import UUID

    from tritium_platform.billing.rating.plan import Plan
    from tritium_platform.values import CalendarMonth

DEFAULT_PAYMENT_DAYS = 14
MOST_PAYMENT_DAYS = 365
UNTAXED = TaxStatus()
FOR_EVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A contract never changes: other terms are another contract, from the start of a later month on.

    Attributes:
        plan_id: the plan that it pins.
        starts_at: from when; a month that it covers in part has a part of what is prorated.
        ends_at: until when; None: until another one follows.
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

    def part_of(self, month: CalendarMonth, *, plan: Plan) -> Fraction:
        """Return the part of a month that is covered."""
        return part_of_period(
            month.start,
            month.end,
            active_from=self.starts_at,
            active_until=self.ends_at or FOR_EVER,
            by=plan.proration,
        )


def contract_of(contracts: Sequence[Contract], *, month: CalendarMonth) -> Contract | None:
    """Return the contract of a month: the last that began before its end and had not ended at its start."""
    begun = [each for each in contracts if each.starts_at < month.end]
    last = max(begun, key=lambda each: each.starts_at, default=None)
    if last is None or (last.ends_at is not None and last.ends_at <= month.start):
        return None
    return last
