"""Prices and what comes of them. Amounts inside are exact fractions of the minor unit (cents)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

from tritium_platform.errors import ValidationError
from tritium_platform.values import CURRENCY_DIGITS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from tritium_platform.metering.model import Meter
    from tritium_platform.tenancy.model import TenantTier


@dataclass(frozen=True, slots=True)
class MeterPrice:
    """The price of one meter at one tier.

    Attributes:
        unit_price: minor units (cents) per single unit; exact, never negative.
        included: units per month that cost nothing.
    """

    unit_price: Fraction
    included: int = 0

    def __post_init__(self) -> None:
        if self.unit_price < 0 or self.included < 0:
            raise ValidationError("A price and an included quantity are not negative.")


FREE = MeterPrice(Fraction(0))


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """A price list that never changes; a new price is a new version with its own `valid_from`.

    A meter without a price costs nothing.

    Attributes:
        id: the digest of the content, 16 hexadecimal digits: another price is another version.
    """

    currency: str
    valid_from: datetime
    prices: Mapping[TenantTier, Mapping[Meter, MeterPrice]]
    id: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if self.currency not in CURRENCY_DIGITS:
            raise ValidationError(f"The currency '{self.currency[:10]}' is not known.", field="currency")
        if self.valid_from.tzinfo is None:
            raise ValidationError("The start of a price version needs a time zone.", field="valid_from")

        digest = hashlib.sha256(self.to_json().encode("ascii")).hexdigest()[:16]
        object.__setattr__(self, "id", digest)  # once: every use is priced by it

    def price_of(self, meter: Meter, *, tier: TenantTier) -> MeterPrice:
        """Return a meter's price at a tier."""
        return self.prices.get(tier, {}).get(meter, FREE)

    def to_json(self) -> str:
        """Write the version in one canonical form."""
        prices = {
            tier.value: {
                meter.value: {"unit_price": str(price.unit_price), "included": price.included}
                for meter, price in of_tier.items()
            }
            for tier, of_tier in self.prices.items()
        }
        body = {"currency": self.currency, "valid_from": self.valid_from.isoformat(), "prices": prices}
        return json.dumps(body, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class CostLine:
    """One meter of one tier: how much, how much of it is included, and the exact amount in minor units."""

    tier: TenantTier
    meter: Meter
    quantity: int
    included: int
    unit_price: Fraction
    amount: Fraction

    @property
    def billable(self) -> int:
        """The units that cost something."""
        return self.quantity - self.included


@dataclass(frozen=True, slots=True)
class CostBreakdown:
    """What a use costs, exactly; `total` is a fraction of the minor unit, not rounded."""

    currency: str
    price_version: str
    lines: tuple[CostLine, ...]

    @property
    def total(self) -> Fraction:
        """The exact sum of the lines in minor units."""
        return sum((line.amount for line in self.lines), Fraction(0))
