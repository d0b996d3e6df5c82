"""A fee that does not depend on how much is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tritium_platform.billing.rating.steps import require_amounts

if TYPE_CHECKING:
    from fractions import Fraction


@dataclass(frozen=True, slots=True)
class FlatPrice:
    """`amount` minor units for the period, or nothing for a quantity of nothing."""

    kind: ClassVar[str] = "flat"
    amount: Fraction

    def __post_init__(self) -> None:
        require_amounts(self.amount)

    def cost(self, quantity: int) -> Fraction:
        """Return the exact cost in minor units."""
        return self.amount if quantity else self.amount * 0
