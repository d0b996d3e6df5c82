"""What a layer reads on the calibration text: in the source, and behind layers that are quantized already."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from tritium.quantize.factor import Factor

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Bits kept of an input. A sum of products over CHUNK_ROWS rows is then a whole number below 2^53.
BITS = 20
CHUNK_ROWS = 1 << (53 - 2 * BITS - 1)
# This share of H's mean diagonal is added to it: what was seen on few inputs must not decide too much.
DAMPING = 0.2
JUDGED_SHARE = 8
JUDGED_ROWS = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerInputs:
    """Inputs of one layer, token by token; both float32 [M, K].

    Attributes:
        source: X, what the layer reads in the source model.
        actual: X^, what it reads once everything before it is quantized.
    """

    source: NDArray[np.float32]
    actual: NDArray[np.float32]

    @classmethod
    def alike(cls, activations: NDArray[np.float32]) -> Self:
        """Return the inputs of a layer with nothing quantized before it."""
        return cls(source=activations, actual=activations)

    @property
    def judged(self) -> LayerInputs:
        """The last eighth of the tokens, 512 at most: errors are measured there, nothing is fitted to it."""
        rows = len(self.actual)
        first = max(self._fitted_rows, rows - JUDGED_ROWS) if self._fitted_rows < rows else 0
        return LayerInputs(source=self.source[first:], actual=self.actual[first:])

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """The inputs from the least driven to the most, [K]."""
        return np.argsort(self._hessian.diagonal(), kind="stable")

    @cached_property
    def factor(self) -> Factor:
        """H = X^'X^, damped, in that order; raises ValueError if an input is NaN or infinite."""
        matrix = self._hessian[np.ix_(self.order, self.order)]
        matrix[np.diag_indices(len(matrix))] += DAMPING * float(matrix.diagonal().mean()) or 1.0
        return Factor.of(matrix)

    @cached_property
    def drift(self) -> NDArray[np.float64] | None:
        """X^'(X - X^) in that order, float64 [K, K]; None where X^ is X."""
        order = self.order  # first: it refuses inputs that are NaN or infinite
        actual = self.actual[: self._fitted_rows]
        lost = self.source[: self._fitted_rows] - actual
        return gram(actual, lost)[np.ix_(order, order)] if lost.any() else None

    @cached_property
    def _hessian(self) -> NDArray[np.float64]:
        rows = self.actual[: self._fitted_rows]
        return gram(rows, rows)

    @property
    def _fitted_rows(self) -> int:
        """Where the judged rows begin; fewer than eight tokens are fitted and judged alike."""
        return len(self.actual) - len(self.actual) // JUDGED_SHARE


def gram(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return first' second, float32 [M, K] each -> float64 [K, K], with the same bits on every machine.

    Each column is rounded to 21 bits within a chunk of rows, so that every sum of products is a whole number
    that float64 holds exactly, in whatever order and by however many threads it was added up.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    total = np.zeros((first.shape[1], second.shape[1]))
    for start in range(0, len(first), CHUNK_ROWS):
        left, left_exponents = _whole(first[start : start + CHUNK_ROWS])
        right, right_exponents = _whole(second[start : start + CHUNK_ROWS])
        products = left.T @ right
        total += np.ldexp(products, left_exponents[:, None] + right_exponents - 2 * BITS, out=products)
    return total


def _whole(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    largest = np.abs(rows).max(axis=0)
    if not np.isfinite(largest).all():
        raise ValueError("an input on the calibration text is NaN or infinite")
    _, exponents = np.frexp(largest)
    return np.rint(np.ldexp(rows.astype(np.float64), BITS - exponents)), exponents
