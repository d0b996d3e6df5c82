"""Each unit at the price of the step in which it lies."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from tritium_platform.billing.rating.steps import require_steps

if TYPE_CHECKING:
    from tritium_platform.billing.rating.steps import Step


@dataclass(frozen=True, slots=True)
class GraduatedPrice:
    """Every step is filled before the next one begins; its flat fee is due with its first unit."""

    kind: ClassVar[str] = "graduated"
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        require_steps(self.steps)

    def cost(self, quantity: int) -> Fraction:
        """Return the exact cost in minor units."""
        cost, before = Fraction(0), 0
        for step in self.steps:
            if quantity <= before:
                break
            end = quantity if step.up_to is None else min(quantity, step.up_to)
            cost += step.flat_fee + (end - before) * step.unit_price
            before = end
        return cost
