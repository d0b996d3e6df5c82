"""All units at the price of the step in which the last of them lies."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from tritium_platform.billing.rating.steps import require_steps

if TYPE_CHECKING:
    from tritium_platform.billing.rating.steps import Step


@dataclass(frozen=True, slots=True)
class VolumePrice:
    """The whole quantity decides the step, and the step the price of every unit and one flat fee."""

    kind: ClassVar[str] = "volume"
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        require_steps(self.steps)

    def cost(self, quantity: int) -> Fraction:
        """Return the exact cost in minor units."""
        if not quantity:
            return Fraction(0)
        step = next(each for each in self.steps if each.up_to is None or quantity <= each.up_to)
        return step.flat_fee + quantity * step.unit_price
