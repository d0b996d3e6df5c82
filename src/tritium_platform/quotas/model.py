"""Reservations and the counters they move."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

ALWAYS = "always"
LARGEST_AMOUNT = 2**62


class QuotaMeter(StrEnum):
    """What is held and used up: requests and money of a calendar month, bytes of storage.

    Money is counted in millionths of a minor unit.
    """

    REQUESTS = "requests"
    SPEND = "spend"
    STORAGE_BYTES = "storage_bytes"


class ReservationState(StrEnum):
    """Where a reservation is: held, or ended in one of three ways."""

    HELD = "held"
    SETTLED = "settled"
    VOID = "void"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """An amount set aside before the work. `period` is a month such as `2026-11`, or `always`.

    `used` is what of it has been used up; a lease is used up in parts, any other reservation at once.
    """

    id: UUID
    tenant_id: UUID
    meter: QuotaMeter
    period: str
    amount: int
    created_at: datetime
    expires_at: datetime
    state: ReservationState = ReservationState.HELD
    used: int = 0

    def used_at_once(self) -> Reservation:
        """Return it as that of what was used already."""
        return replace(self, state=ReservationState.SETTLED, used=self.amount)


class QuotaCounter(msgspec.Struct, frozen=True, gc=False):
    """What of a quota is used and held; `held + used <= limit` at every instant."""

    limit: int
    used: int = 0
    held: int = 0

    @property
    def remaining(self) -> int:
        """What can still be reserved."""
        return self.limit - self.used - self.held


class RateStatus(NamedTuple):
    """A limit after a decision: what remains now, and seconds until all of it is back."""

    limit: int
    remaining: int
    reset_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a tenant's limits leave at one moment; `month` is None where the store was not asked."""

    requests: RateStatus
    tokens: RateStatus
    concurrent: RateStatus
    month: RateStatus | None = None


def require_amount(name: str, amount: int) -> None:
    """Raise ValidationError unless an amount is a whole number from 0 on."""
    if type(amount) is not int or not 0 <= amount < LARGEST_AMOUNT:
        raise ValidationError(f"The amount of {name} must be a whole number from 0 on.", field=name)
