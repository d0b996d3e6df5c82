"""What is taken off, spread over the lines it is taken off from."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from tritium_platform.billing.rating.rounding import round_once, share_out
from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.billing.rating.rounding import Rounding


@dataclass(frozen=True, slots=True)
class Discount:
    """A share of the amounts or a fixed sum.

    Attributes:
        name: says on the invoice what it is.
        share: between 0 and 1 of what the lines still cost; 0 where it is a fixed sum.
        amount: minor units, at most what the lines still cost; 0 where it is a share.
        charges: the charges it is for; empty: all.
    """

    name: str
    share: Fraction = Fraction(0)
    amount: int = 0
    charges: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.amount < 0 or bool(self.share) == bool(self.amount):
            raise ValidationError(
                "A discount is either a share between 0 and 1 or an amount above 0.", field="discounts"
            )

    def is_for(self, charge: str) -> bool:
        """Return whether a charge is discounted."""
        return not self.charges or charge in self.charges


def take_off(
    discounts: Sequence[Discount], *, charges: Sequence[str], amounts: Sequence[int], rounding: Rounding
) -> list[int]:
    """Return how much is taken off each line, one discount after the other; no line goes below 0.

    Args:
        discounts: in their order.
        charges: the charge of each line.
        amounts: minor units of each line, not negative.
        rounding: what happens to a half; each discount is rounded once, as a whole.
    """
    left = list(amounts)
    for discount in discounts:
        base = [
            amount if discount.is_for(charge) else 0 for charge, amount in zip(charges, left, strict=True)
        ]
        whole = sum(base)
        taken = min(discount.amount or round_once(discount.share * whole, rounding=rounding), whole)
        if taken:
            shares = share_out(taken, parts=[Fraction(taken * part, whole) for part in base])
            left = [amount - share for amount, share in zip(left, shares, strict=True)]
    return [amount - rest for amount, rest in zip(amounts, left, strict=True)]
