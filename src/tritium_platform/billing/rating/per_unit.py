"""The same price for every unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tritium_platform.billing.rating.steps import require_amounts

if TYPE_CHECKING:
    from fractions import Fraction


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """`unit_price` minor units for each unit; exact."""

    kind: ClassVar[str] = "per_unit"
    unit_price: Fraction

    def __post_init__(self) -> None:
        require_amounts(self.unit_price)

    def cost(self, quantity: int) -> Fraction:
        """Return the exact cost in minor units."""
        return quantity * self.unit_price
