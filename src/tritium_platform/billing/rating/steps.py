"""Steps of a price that depends on how much is used: what graduated and volume prices share."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Step:
    """A range of units that ends with unit number `up_to` (None: never), counted from 1.

    Attributes:
        up_to: the last unit of the step.
        unit_price: minor units per unit; exact.
        flat_fee: minor units for entering the step at all.
    """

    up_to: int | None
    unit_price: Fraction
    flat_fee: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        require_amounts(self.unit_price, self.flat_fee)


def require_amounts(*amounts: Fraction) -> None:
    """Refuse what is no exact amount from 0 on; ValidationError."""
    for amount in amounts:
        if not isinstance(amount, Fraction) or amount < 0:
            raise ValidationError("An amount of a price is an exact fraction and not negative.")


def require_steps(steps: Sequence[Step]) -> None:
    """Refuse steps that do not rise or do not cover every quantity; ValidationError."""
    bounds = [step.up_to for step in steps]
    if not bounds or bounds[-1] is not None or None in bounds[:-1]:
        raise ValidationError("The last step of a price, and only it, has no end.", field="steps")
    ends = [0, *(bound for bound in bounds if bound is not None)]
    if any(type(end) is not int or end <= before for before, end in pairwise(ends)):
        raise ValidationError("Each step of a price ends after the one before it.", field="steps")
