"""What a step of the engine costs: learned from steps, as sums that can be added, aged and written down."""

from __future__ import annotations

import itertools
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_PARTS = 3  # fixed, row, prompt token
_BETTER = 1e-9  # an error that is smaller by less is the same error


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Seconds of a step = fixed + per_row * rows + per_prompt_token * prompt tokens; none is negative.

    Attributes:
        per_row: for a sequence that writes one token.
        per_prompt_token: for a token of a prompt.
    """

    fixed: float = 0.0
    per_row: float = 0.0
    per_prompt_token: float = 0.0

    def seconds(self, *, rows: int, prompt_tokens: int = 0) -> float:
        """Return what a step of so many rows that write and tokens of prompts takes."""
        return self.fixed + self.per_row * rows + self.per_prompt_token * prompt_tokens


@dataclass(slots=True)
class StepSums:
    """Weighted sums over steps, enough for the least squares of `StepCost`.

    A step's weight is 1 / (rows + prompt tokens)^2: errors count as shares, so that one long prompt does not
    drown a thousand short steps.
    """

    count: float = 0.0
    one: float = 0.0
    row: float = 0.0
    prompt: float = 0.0
    row_row: float = 0.0
    row_prompt: float = 0.0
    prompt_prompt: float = 0.0
    seconds: float = 0.0
    row_seconds: float = 0.0
    prompt_seconds: float = 0.0
    seconds_seconds: float = 0.0

    def add(self, *, rows: int, prompt_tokens: int, seconds: float) -> None:
        """Take a step into account; one without tokens says nothing."""
        tokens = rows + prompt_tokens
        if not tokens:
            return
        weight = 1.0 / (tokens * tokens)
        self.count += 1
        self.one += weight
        self.row += weight * rows
        self.prompt += weight * prompt_tokens
        self.row_row += weight * rows * rows
        self.row_prompt += weight * rows * prompt_tokens
        self.prompt_prompt += weight * prompt_tokens * prompt_tokens
        self.seconds += weight * seconds
        self.row_seconds += weight * rows * seconds
        self.prompt_seconds += weight * prompt_tokens * seconds
        self.seconds_seconds += weight * seconds * seconds

    def age(self, factor: float) -> None:
        """Let everything so far count for less."""
        for name in self.__slots__:
            setattr(self, name, factor * getattr(self, name))

    def __add__(self, other: StepSums) -> StepSums:
        """Return the sums over both."""
        return StepSums(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def to_list(self) -> list[float]:
        """Return the sums in order, for a file."""
        return list(astuple(self))

    @classmethod
    def from_list(cls, numbers: Sequence[float]) -> Self:
        """Return the sums that were written down."""
        return cls(*map(float, numbers))

    def fit(self) -> StepCost:
        """Return the cost with the least squared error among those without a negative part; 0 of no step.

        With three parts each choice of those above 0 can be tried: the best that is feasible is the optimum.
        Where steps do not tell parts apart, the fixed one is left out: more work is then believed to take
        longer rather than to be free.
        """
        gram = np.array(
            [
                [self.one, self.row, self.prompt],
                [self.row, self.row_row, self.row_prompt],
                [self.prompt, self.row_prompt, self.prompt_prompt],
            ]
        )
        aim = np.array([self.seconds, self.row_seconds, self.prompt_seconds])
        best, least = np.zeros(_PARTS), self.seconds_seconds
        for size in range(1, _PARTS + 1):
            for chosen in itertools.combinations((1, 2, 0), size):
                found = _solve(gram, aim, chosen)
                if found is None:
                    continue
                error = self.seconds_seconds - 2 * found @ aim + found @ gram @ found
                if error < least - _BETTER * self.seconds_seconds:
                    best, least = found, error
        return StepCost(fixed=float(best[0]), per_row=float(best[1]), per_prompt_token=float(best[2]))


def _solve(
    gram: NDArray[np.float64], aim: NDArray[np.float64], chosen: tuple[int, ...]
) -> NDArray[np.float64] | None:
    """Return the least squares with these parts alone; None if one is negative or they are not told apart."""
    index = np.array(chosen)
    part = gram[np.ix_(index, index)]
    scale = np.sqrt(np.diag(part))
    if not np.all(scale > 0):
        return None
    even = part / np.outer(scale, scale)
    if np.linalg.cond(even) > 1 / _BETTER:
        return None
    values = np.linalg.solve(even, aim[index] / scale) / scale
    if np.any(values < 0):
        return None
    found = np.zeros(_PARTS)
    found[index] = values
    return found
