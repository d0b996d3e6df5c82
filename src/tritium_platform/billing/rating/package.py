"""Whole packages: the last one is paid in full however little of it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tritium_platform.billing.rating.steps import require_amounts
from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from fractions import Fraction


@dataclass(frozen=True, slots=True)
class PackagePrice:
    """`amount` minor units for every begun `size` units."""

    kind: ClassVar[str] = "package"
    size: int
    amount: Fraction

    def __post_init__(self) -> None:
        require_amounts(self.amount)
        if type(self.size) is not int or self.size < 1:
            raise ValidationError("A package has at least one unit.", field="size")

    def cost(self, quantity: int) -> Fraction:
        """Return the exact cost in minor units."""
        return -(-quantity // self.size) * self.amount  # a floor of the negative: exact at any size
