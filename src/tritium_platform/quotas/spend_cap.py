"""What a tenant may spend in a calendar month, and what happened to that cap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from tritium_platform.errors import ValidationError
from tritium_platform.values import CURRENCY_DIGITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from fractions import Fraction
    from uuid import UUID

    from tritium_platform.quotas.model import QuotaCounter

# Costs are counted in millionths of a minor unit, each rounded up: a token costs far less than a cent.
MICRO = 1_000_000
LARGEST_CAP = 2**42
NO_LIMIT = 2**62
THRESHOLDS = (50, 80, 100)
SHADOW = "shadow"


class SpendMode(StrEnum):
    """What follows when a cap is reached: a refusal, or a count of those that would have been."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendCap:
    """What a tenant may spend in a calendar month, in minor units of a currency."""

    tenant_id: UUID
    amount_minor: int
    currency: str
    mode: SpendMode = SpendMode.ENFORCE

    def __post_init__(self) -> None:
        if type(self.amount_minor) is not int or not 0 < self.amount_minor < LARGEST_CAP:
            raise ValidationError(
                "A spend cap is a whole number of minor units above 0.", field="amount_minor"
            )
        if self.currency not in CURRENCY_DIGITS:
            raise ValidationError(f"The currency '{self.currency[:10]}' is not known.", field="currency")

    @property
    def amount(self) -> int:
        """The same in millionths of a minor unit."""
        return self.amount_minor * MICRO

    @property
    def limit(self) -> int:
        """What is refused beyond, in millionths of a minor unit; in shadow mode nothing is."""
        return NO_LIMIT if self.mode is SpendMode.SHADOW else self.amount


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendStatus:
    """A cap and its month: what is used and held in millionths of a minor unit, alerts by threshold.

    `would_refuse`: how many requests a cap in shadow mode would have refused.
    """

    cap: SpendCap
    period: str
    counter: QuotaCounter
    alerts: Mapping[int, datetime]
    would_refuse: int


@dataclass(frozen=True, slots=True)
class SpendMark:
    """Something that happened to a cap in a month: a threshold, or a refusal that would have been."""

    name: str
    count: int
    created_at: datetime


class SpendStore(Protocol):
    """Keeps caps, and what happened to them by month."""

    async def caps(self) -> Sequence[SpendCap]:
        """Return all caps by tenant."""

    async def put(self, cap: SpendCap) -> None:
        """Keep a cap in the place of the tenant's earlier one."""

    async def remove(self, tenant_id: UUID) -> bool:
        """Forget a cap; False if there is none."""

    async def mark(self, tenant_id: UUID, *, period: str, name: str, at: datetime) -> bool:
        """Note that something happened; True the first time in a month, later it is counted only."""

    async def unmark(self, tenant_id: UUID, *, period: str, names: Sequence[str]) -> None:
        """Forget that something happened in a month."""

    async def marks(self, tenant_id: UUID, *, period: str) -> Sequence[SpendMark]:
        """Return what happened in a month, by name."""


def micro(exact_minor: Fraction) -> int:
    """Return an exact amount of minor units in millionths, rounded up."""
    return math.ceil(exact_minor * MICRO)
