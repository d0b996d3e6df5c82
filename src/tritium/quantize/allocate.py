"""Which layers get how many planes: the least cost within a size, or the least size within a cost.

Costs of layers are added up, so this is the knapsack with one choice per layer. It is solved exactly, by
dynamic programming over the bytes that are spent beyond the smallest model: with more bytes the cost is never
higher. Where that is more than STEPS bytes, they are counted in units of a STEPS-th, each layer's rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

STEPS = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What one layer may become.

    Attributes:
        planes: trit-planes.
        size: trits and scales, in bytes.
        cost: what the model loses by it.
    """

    planes: int
    size: int
    cost: float


def least_cost(layers: Sequence[Sequence[Choice]], *, size: int) -> tuple[Choice, ...]:
    """Return one choice per layer with the least sum of costs among those of at most `size` bytes.

    Raises:
        ValidationError: the smallest choices together are larger.
    """
    spending = _Spending.of(layers)
    if size < spending.smallest:
        raise ValidationError(
            f"The linear layers take {spending.smallest} bytes at least; {size} are not enough for them."
        )
    return spending.choices((size - spending.smallest) // spending.unit)


def least_size(layers: Sequence[Sequence[Choice]], *, cost: float) -> tuple[Choice, ...]:
    """Return one choice per layer with the least sum of sizes among those that cost at most `cost` together.

    Raises:
        ValidationError: the cheapest choices together cost more.
    """
    spending = _Spending.of(layers)
    is_enough = spending.costs <= cost
    if not is_enough.any():
        raise ValidationError(
            f"The layers are predicted to lose {float(spending.costs[-1]):.4g} together with the most planes "
            f"they may have; {cost:.4g} cannot be met. Ask for more, or raise max_planes."
        )
    return spending.choices(int(is_enough.argmax()))


@dataclass(frozen=True, eq=False)
class _Spending:
    """The best choices for every number of units spent: costs [U], and by layer the position taken [L, U]."""

    layers: Sequence[Sequence[Choice]]
    smallest: int  # bytes when nothing is spent
    unit: int  # bytes
    costs: NDArray[np.float64]
    taken: NDArray[np.int8]

    @classmethod
    def of(cls, layers: Sequence[Sequence[Choice]]) -> _Spending:
        floors = [min(choice.size for choice in choices) for choices in layers]
        most = sum(max(choice.size for choice in choices) for choices in layers) - sum(floors)
        unit = max(1, -(-most // STEPS))
        length = 1 + sum(
            max(_units(choice, floor, unit) for choice in choices)
            for choices, floor in zip(layers, floors, strict=True)
        )
        costs, taken = np.zeros(length), np.zeros((len(layers), length), dtype=np.int8)
        for row, (choices, floor) in enumerate(zip(layers, floors, strict=True)):
            best = np.full(length, np.inf)
            for position, choice in enumerate(choices):
                spent = _units(choice, floor, unit)
                found = np.full(length, np.inf)
                found[spent:] = costs[: length - spent] + choice.cost
                taken[row, found < best] = position
                best = np.minimum(best, found)
            costs = best
        return cls(layers=layers, smallest=sum(floors), unit=unit, costs=costs, taken=taken)

    def choices(self, units: int) -> tuple[Choice, ...]:
        """Return the best choice of every layer for at most so many units."""
        rest = min(units, len(self.costs) - 1)
        found = []
        for choices, taken in zip(reversed(self.layers), self.taken[::-1], strict=True):
            choice = choices[taken[rest]]
            found.append(choice)
            rest -= _units(choice, min(each.size for each in choices), self.unit)
        return tuple(reversed(found))


def _units(choice: Choice, floor: int, unit: int) -> int:
    return -((floor - choice.size) // unit)
