"""What a layer reads on the calibration text: in the source, and behind layers that are quantized already.

The text passes in batches: of a layer's inputs, which may be gigabytes, one batch is in memory at a time, and
the sums that compensation needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from tritium.kernels.gram import add_cross_gram, add_gram, multiplied
from tritium.kernels.quantization import first_not_finite

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

# This share of H's mean diagonal is added to it: what was seen on few inputs must not decide too much.
DAMPING = 0.3
JUDGED_SHARE = 8
JUDGED_ROWS = 512
MIRRORED_ROWS = 256  # at once
OUTPUTS_AT_ONCE = 256
KEPT_BYTES = 1 << 24  # a batch of more is run again rather than kept while all others pass


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Some tokens' inputs of one layer; both float32 [M, K].

    Attributes:
        source: X, what the layer reads in the source model.
        actual: X^, what it reads once everything before it is quantized.
    """

    source: NDArray[np.float32]
    actual: NDArray[np.float32]

    def cut(self, begin: int, end: int) -> Rows:
        """Return the rows from `begin` to `end`."""
        return Rows(source=self.source[begin:end], actual=self.actual[begin:end])


@dataclass(frozen=True, kw_only=True, eq=False)
class Quadratic:
    """The error of a layer's output as a function of its weights.

    Attributes:
        hessian: H = X^'X^, damped, float32 [K, K].
        drift: X^'(X - X^), float32 [K, K]; None where X^ is X, or where `pull` is known.
        pull: W (X - X^)'X^ of the weights that were asked about, float32 [N, K]; None likewise.
    """

    hessian: NDArray[np.float32]
    drift: NDArray[np.float32] | None = None
    pull: NDArray[np.float32] | None = None


@dataclass(kw_only=True, eq=False)
class _Sums:
    """What a `Quadratic` is made of, as far as it is summed up."""

    hessian: NDArray[np.float32] | None = None
    drift: NDArray[np.float32] | None = None
    pull: NDArray[np.float32] | None = None


class LayerInputs:
    """Inputs of one layer, batch by batch; the last eighth of the tokens judges, the rest is fitted."""

    def __init__(self, read: Callable[[int], Rows], starts: Sequence[int], *, threads: int = 1) -> None:
        """Take a function that reads a batch, and where batches begin among the tokens and the last ends."""
        self._read, self._starts, self._threads = read, starts, threads
        self._rows = starts[-1]
        self._kept: dict[int, Rows] = {}
        self._pull: tuple[NDArray[np.float32], Quadratic] | None = None

    @classmethod
    def of(cls, rows: Rows, *, threads: int = 1) -> Self:
        """Return inputs that are in memory already."""
        return cls(lambda _: rows, (0, len(rows.actual)), threads=threads)

    @classmethod
    def alike(cls, activations: NDArray[np.float32]) -> Self:
        """Return the inputs float32 [M, K] of a layer with nothing quantized before it."""
        return cls.of(Rows(source=activations, actual=activations))

    @cached_property
    def judged(self) -> Rows:
        """The last eighth of the tokens, 512 at most: errors are measured there, nothing is fitted to it."""
        first = max(self._fitted_rows, self._rows - JUDGED_ROWS) if self._fitted_rows < self._rows else 0
        pieces = []
        for batch, start in enumerate(self._starts[:-1]):
            if self._starts[batch + 1] > first:
                rows = self._read(batch)
                if start < self._fitted_rows and rows.source.nbytes + rows.actual.nbytes <= KEPT_BYTES:
                    self._kept[batch] = rows  # it will be asked for again
                pieces.append(rows.cut(max(0, first - start), len(rows.actual)))
        return Rows(
            source=np.concatenate([piece.source for piece in pieces]),
            actual=np.concatenate([piece.actual for piece in pieces]),
        )

    def quadratic(self, weights: NDArray[np.float32]) -> Quadratic:
        """Return the error of a layer with these weights float32 [N, K], over the tokens that are fitted.

        Layers that read the same inputs share H and drift. Of a layer with many more inputs than outputs the
        drift, which is larger than the layer, is never worked out.

        Raises:
            ValueError: an input is NaN or infinite, or too large to be squared.
        """
        outputs, inputs = weights.shape
        if 2 * outputs >= inputs:
            return self._shared
        if self._pull is None or self._pull[0] is not weights:
            self._pull = None
            self._pull = weights, self._summed(weights)
        return self._pull[1]

    @cached_property
    def _shared(self) -> Quadratic:
        return self._summed(None)

    def _summed(self, weights: NDArray[np.float32] | None) -> Quadratic:
        sums = _Sums()
        for batch, start in enumerate(self._starts[:-1]):
            if start < self._fitted_rows:
                self._add_batch(batch, weights, sums)
        if sums.hessian is None:
            raise ValueError("there are no inputs on the calibration text")
        _damp(sums.hessian)
        return Quadratic(hessian=sums.hessian, drift=sums.drift, pull=sums.pull)

    def _add_batch(self, batch: int, weights: NDArray[np.float32] | None, sums: _Sums) -> None:
        """Add what the tokens of a batch contribute; nothing of it is held when the next one is read."""
        actual, lost = self._fitted(batch)
        if sums.hessian is None:
            sums.hessian = np.zeros((actual.shape[1],) * 2, np.float32)
        add_gram(actual, sums.hessian, threads=self._threads)
        if not lost.any():
            return
        if weights is None:
            sums.drift = np.zeros_like(sums.hessian) if sums.drift is None else sums.drift
            add_cross_gram(actual, lost, sums.drift, threads=self._threads)
        else:
            sums.pull = np.zeros(weights.shape, np.float32) if sums.pull is None else sums.pull
            self._add_pull(weights, lost, actual, sums.pull)

    def _add_pull(
        self,
        weights: NDArray[np.float32],
        lost: NDArray[np.float32],
        actual: NDArray[np.float32],
        pull: NDArray[np.float32],
    ) -> None:
        """Add W (X - X^)'X^ of some tokens to float32 [N, K], some outputs at a time."""
        for first in range(0, len(weights), OUTPUTS_AT_ONCE):
            rows = slice(first, first + OUTPUTS_AT_ONCE)
            missing = multiplied(lost, np.ascontiguousarray(weights[rows].T), threads=self._threads)
            self._check_finite(missing)
            add_cross_gram(missing, actual, pull[rows], threads=self._threads)

    def _fitted(self, batch: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return X^ and X - X^ of the tokens of a batch that are fitted; X itself is let go."""
        found = self._kept.pop(batch) if batch in self._kept else self._read(batch)
        rows = found.cut(0, self._fitted_rows - self._starts[batch])
        self._check_finite(rows.source)
        self._check_finite(rows.actual)
        return rows.actual, rows.source - rows.actual

    def _check_finite(self, values: NDArray[np.float32]) -> None:
        if first_not_finite(values.reshape(-1), threads=self._threads) >= 0:
            raise ValueError("an input on the calibration text is NaN or infinite")

    @property
    def _fitted_rows(self) -> int:
        """Where the judged rows begin; fewer than eight tokens are fitted and judged alike."""
        return self._rows - self._rows // JUDGED_SHARE


def _damp(hessian: NDArray[np.float32]) -> None:
    """Mirror the upper half of sums [K, K] into the lower one, and add what damps them to the diagonal."""
    for start in range(0, len(hessian), MIRRORED_ROWS):
        rows = slice(start, start + MIRRORED_ROWS)
        hessian[rows, :start] = hessian[:start, rows].T
        block = hessian[rows, rows]
        block[:] = np.triu(block) + np.triu(block, 1).T
    diagonal = hessian.diagonal().astype(np.float64)
    if not np.isfinite(diagonal).all():
        raise ValueError("inputs on the calibration text are too large to be squared")
    hessian[np.diag_indices(len(hessian))] += np.float32(DAMPING * diagonal.mean() or 1.0)
