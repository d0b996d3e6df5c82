"""What a layer reads on the calibration text: in the source, and behind layers that are quantized already."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Bits kept of an input. A sum of products over CHUNK_ROWS rows is then a whole number below 2^53.
BITS = 20
CHUNK_ROWS = 1 << (53 - 2 * BITS - 1)
# This share of H's mean diagonal is added to it: what was seen on few inputs must not decide too much.
DAMPING = 0.3
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
    def hessian(self) -> NDArray[np.float32]:
        """H = X^'X^, damped, float32 [K, K]; raises ValueError if an input is NaN or infinite."""
        matrix = gram(self.actual[: self._fitted_rows])
        matrix[np.diag_indices(len(matrix))] += DAMPING * float(matrix.diagonal().mean()) or 1.0
        return matrix.astype(np.float32)

    @cached_property
    def drift(self) -> NDArray[np.float32] | None:
        """X^'(X - X^), float32 [K, K]; None where X^ is X; raises ValueError as `hessian` does."""
        actual = self.actual[: self._fitted_rows]
        lost = self.source[: self._fitted_rows] - actual
        return gram(actual, lost).astype(np.float32) if lost.any() else None

    @property
    def _fitted_rows(self) -> int:
        """Where the judged rows begin; fewer than eight tokens are fitted and judged alike."""
        return len(self.actual) - len(self.actual) // JUDGED_SHARE


def gram(first: NDArray[np.float32], second: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
    """Return first' second, float32 [M, K] each -> float64 [K, K], with the same bits on every machine.

    Without `second` it is first' first, which takes half the work.

    Each column is rounded to 21 bits within a chunk of rows, so that every sum of products is a whole number
    that float64 holds exactly, in whatever order and by however many threads it was added up.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    total: NDArray[np.float64] | None = None
    for start in range(0, len(first), CHUNK_ROWS):
        left, left_exponents = _whole(first[start : start + CHUNK_ROWS])
        right, right_exponents = left, left_exponents
        if second is not None:
            right, right_exponents = _whole(second[start : start + CHUNK_ROWS])
        products = left.T @ right  # of one array with itself, numpy works out one triangle
        for row, exponent in zip(products, left_exponents, strict=True):
            np.ldexp(row, exponent + right_exponents - 2 * BITS, out=row)
        total = products if total is None else np.add(total, products, out=total)
    return (
        np.zeros((first.shape[1], (first if second is None else second).shape[1])) if total is None else total
    )


def _whole(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    largest = np.abs(rows).max(axis=0)
    if not np.isfinite(largest).all():
        raise ValueError("an input on the calibration text is NaN or infinite")
    _, exponents = np.frexp(largest)
    return np.rint(np.ldexp(rows.astype(np.float64), BITS - exponents)), exponents
