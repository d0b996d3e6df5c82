"""The two places where a fraction becomes whole minor units: one rounding, or one sum shared out."""

from __future__ import annotations

from enum import StrEnum
from fractions import Fraction
from math import floor, lcm
from typing import TYPE_CHECKING

from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence

HALF = Fraction(1, 2)


class Rounding(StrEnum):
    """What happens to exactly a half."""

    HALF_EVEN = "half_even"
    HALF_UP = "half_up"


def round_once(exact: Fraction, *, rounding: Rounding) -> int:
    """Round to whole minor units; `half_up` takes a half away from zero, as a refund mirrors a charge."""
    if rounding is Rounding.HALF_EVEN:
        return round(exact)
    magnitude = floor(abs(exact) + HALF)
    return magnitude if exact >= 0 else -magnitude


def share_out(total: int, *, parts: Sequence[Fraction]) -> list[int]:
    """Make whole numbers of exact parts so that they sum to `total` (largest remainder, ties to the first).

    Every share is the floor or the ceiling of its part.

    Raises:
        ValidationError: the parts do not sum to within one unit of the total.
    """
    # Over one denominator the parts are whole numbers: a fraction for each would cost ten times as much.
    unit = lcm(*(part.denominator for part in parts))
    scaled = [part.numerator * (unit // part.denominator) for part in parts]
    if abs(sum(scaled) - total * unit) >= unit:
        raise ValidationError("What is shared out must be the sum of its parts, rounded.")
    shares = [part // unit for part in scaled]
    by_remainder = sorted(range(len(parts)), key=lambda place: -(scaled[place] % unit))
    for place in by_remainder[: total - sum(shares)]:
        shares[place] += 1
    return shares
