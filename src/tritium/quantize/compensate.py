"""The compensated strategy: what rounding one weight spoils, the other weights of its row make good.

Wanted are levels and scales whose layer makes of the inputs behind the layers quantized already, X^, what the
source's weights make of the source's inputs: |X W' - X^ Q'|^2 is least. With H = X^'X^ that is a quadratic in
Q whose slope is P = W (X'X^) - Q H, and one weight's best level, all others fixed, is the level nearest to
q + P[k] / H[k, k]. Going round the columns so until nothing moves is QuantEase (arXiv 2309.01885); here the
scale of a group takes part in the round, as one more coordinate with an optimum of its own:
s + t'P / t'H t for its levels t. Every step lowers the error, so does the whole, and no matrix is inverted.

What GPTQ (arXiv 2210.17323) rounds once, with scales that stay, is a start for this descent and no better one
than plain rounding (docs/decisions/0008).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tritium.formats.scale_codes import decode_scales, encode_scales
from tritium.kernels.cpu import dense_matmul
from tritium.quantize.planes import quantize_planes
from tritium.quantize.weights import QuantizedWeights, level_limit, storable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tritium.quantize.inputs import LayerInputs

SWEEPS = 12  # most of what can be gained comes in the first four
TILE = 32  # columns between which changes are told one by one
CHUNK_WEIGHTS = 1 << 22
ROOM_TO_GROW = np.float32(1.5)  # scales may grow so much beyond the largest one they begin with


def quantize_compensated(
    weights: NDArray[np.float32], *, inputs: LayerInputs, planes: int, group_size: int, threads: int = 1
) -> QuantizedWeights:
    """Quantize float32 [N, K] to tied trit-planes with nearly the source's output on the actual inputs.

    Args:
        weights: the layer's weights.
        inputs: real inputs, in the source and behind what is quantized already.
        planes: trit-planes.
        group_size: weights of a row that share a scale.
        threads: threads to use; they do not change the result.

    Raises:
        ValueError: an input is NaN or infinite.
    """
    plain = quantize_planes(weights, planes=planes, group_size=group_size, threads=threads)
    # H comes first: it refuses what is not finite.
    problem = _Problem(hessian=inputs.hessian, drift=inputs.drift, limit=level_limit(planes))
    start = plain.scales_float32
    levels, scales = np.empty_like(plain.levels), np.empty_like(start)
    largest = start.max(initial=0) * ROOM_TO_GROW

    def begin(rows: slice) -> _Descent:
        return _Descent(problem, weights[rows], plain.levels[rows], start[rows], plain.group_size)

    with ThreadPoolExecutor(threads) as pool:
        for chunk in _row_chunks(weights):
            parts = _parts(chunk, count=threads)
            descents = list(pool.map(begin, parts))
            for _ in range(SWEEPS):
                # Rows do not know of each other, but those of a chunk rest as one, whoever works on them.
                if not any(list(pool.map(partial(_Descent.sweep, largest=largest), descents))):
                    break
            for rows, descent in zip(parts, descents, strict=True):
                levels[rows], scales[rows] = descent.found()
    stored, unit = storable(scales)
    return QuantizedWeights(
        levels=levels, scales=stored, planes=planes, group_size=plain.group_size, scale_unit=unit
    )


@dataclass(frozen=True, eq=False)
class _Problem:
    """The quadratic that all rows share: H and X^'(X - X^), float32 [K, K]; the latter None where X^ is X."""

    hessian: NDArray[np.float32]
    drift: NDArray[np.float32] | None
    limit: int


class _Descent:
    """Rows on their way down; everything is held column by column: levels [K, N], scales [G, N]."""

    def __init__(
        self,
        problem: _Problem,
        weights: NDArray[np.float32],
        levels: NDArray[np.int8],
        scales: NDArray[np.float32],
        group_size: int,
    ) -> None:
        self._problem, self._group_size = problem, group_size
        columns = np.ascontiguousarray(weights.T)
        self._levels = np.ascontiguousarray(levels.T, dtype=np.float32)
        self._scales = np.ascontiguousarray(scales.T)
        per_weight = np.repeat(self._scales, group_size, axis=0)[: len(columns)]
        self._slope = _product(problem.hessian, columns - self._levels * per_weight)
        if problem.drift is not None:
            self._slope += _product(problem.drift, columns)

    def sweep(self, *, largest: np.float32) -> bool:
        """Step through all groups; returns whether a level moved."""
        before = self._levels.copy()
        for group in range(len(self._scales)):
            self._step(group, largest)
        return not np.array_equal(before, self._levels)

    def found(self) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Return levels [N, K] and scales [N, G] as they will be stored."""
        return self._levels.T.astype(np.int8), self._scales.T

    def _step(self, group: int, largest: np.float32) -> None:
        """Move the scale and then the levels of one group, and tell all columns."""
        columns = slice(group * self._group_size, (group + 1) * self._group_size)
        hessian = np.ascontiguousarray(self._problem.hessian[columns, columns])
        levels, slope = self._levels[columns], self._slope[columns].copy()
        before = levels * self._scales[group]
        turned = _product(hessian, levels)
        scale = self._better_scale(
            self._scales[group],
            pull=(levels * slope).sum(axis=0),
            stiffness=(levels * turned).sum(axis=0),
            largest=largest,
        )
        slope -= turned * (scale - self._scales[group])
        self._scales[group] = scale
        _round(levels, slope, scale, hessian=hessian, problem=self._problem)
        change = levels * scale - before
        if change.any():
            self._slope -= _product(self._problem.hessian[:, columns], change)

    def _better_scale(
        self,
        scale: NDArray[np.float32],
        *,
        pull: NDArray[np.float32],
        stiffness: NDArray[np.float32],
        largest: np.float32,
    ) -> NDArray[np.float32]:
        """Return the best scales [N] of a group that can be stored; the present one where none is better."""
        wanted = scale + pull / np.where(stiffness > 0, stiffness, np.inf)
        found = self._stored(np.clip(wanted, 0, largest).astype(np.float32), largest=largest)
        step = found - scale
        is_better = (found > 0) & (step * (step * stiffness - 2 * pull) < 0)
        return np.where(is_better, found, scale)

    def _stored(self, scales: NDArray[np.float32], *, largest: np.float32) -> NDArray[np.float32]:
        """Return scales [N] of one group as they will be stored, in the unit that the largest decides."""
        if len(self._scales) == 1:
            return storable(scales[:, None])[0][:, 0].astype(np.float32)
        codes, unit = encode_scales(np.append(scales, largest))
        return decode_scales(codes[:-1], unit)


def _round(
    levels: NDArray[np.float32],
    slope: NDArray[np.float32],
    scale: NDArray[np.float32],
    *,
    hessian: NDArray[np.float32],
    problem: _Problem,
) -> None:
    """Give each column of a group its best level, one after another; levels and slope change in place."""
    safe = np.where(scale > 0, scale, np.float32(np.inf))
    for start in range(0, len(levels), TILE):
        tile = slice(start, start + TILE)
        before, block = levels[tile].copy(), hessian[tile, tile]
        for column, (level, pull) in enumerate(zip(levels[tile], slope[tile], strict=True)):
            best = np.rint(level + pull / (block[column, column] * safe))
            np.clip(best, -problem.limit, problem.limit, out=best)
            change = (best - level) * scale
            level[:] = best
            slope[start + column + 1 : start + len(block)] -= block[column + 1 :, column, None] * change
        after = slice(start + len(before), None)
        if after.start < len(levels):
            slope[after] -= _product(hessian[after, tile], (levels[tile] - before) * scale)


def _product(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return left [A, K] x right [K, N]; a column's bits do not depend on the columns beside it."""
    return dense_matmul(np.ascontiguousarray(left), np.ascontiguousarray(right.T))


def _parts(rows: slice, *, count: int) -> list[slice]:
    """Cut a slice of rows into `count` of about the same length, or fewer."""
    step = -(-(rows.stop - rows.start) // count)
    return [slice(start, min(start + step, rows.stop)) for start in range(rows.start, rows.stop, step)]


def _row_chunks(weights: NDArray[np.float32]) -> Iterator[slice]:
    """Yield slices of rows: they do not know of each other, and memory stays bounded."""
    rows, columns = weights.shape
    step = max(1, CHUNK_WEIGHTS // columns)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
