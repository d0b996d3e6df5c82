"""The compensated strategy: what rounding one weight spoils, the weights not yet rounded make good.

GPTQ (arXiv 2210.17323) rounds the columns of W one after another and moves the others so that the output on
real inputs changes least. Done with H = M D M' (M unit lower triangular), which QuIP (arXiv 2307.13304, LDLQ)
shows to be the same, no inverse of H is needed: the columns are taken from the last to the first, and column
k is rounded after the errors of those before it, times M[., k], were added. The squared output error is then
the sum of D[k] x (rounding error of column k)^2.

The inputs that are driven hardest come first ("act-order"), while most columns can still make up for them.
Scales are those of the plain fit and stay ("static groups").

The inputs are those behind layers that are quantized already, X^, while the output wanted is that of the
source on X. So W is first moved to the least-squares answer to that, W + W (X - X^)'X^ H^-1, which GPTAQ
(arXiv 2504.02692) does column by column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.quantize.factor import (
    TILE,
    WIDTH,
    Factor,
    column_tiles,
    from_column_tiles,
    multiply,
    square_tiles,
)
from tritium.quantize.planes import quantize_planes
from tritium.quantize.weights import QuantizedWeights, level_limit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tritium.quantize.inputs import LayerInputs

CHUNK_WEIGHTS = 1 << 22


def quantize_compensated(
    weights: NDArray[np.float32], *, inputs: LayerInputs, planes: int, group_size: int
) -> QuantizedWeights:
    """Quantize float32 [N, K] to tied trit-planes with nearly the same output on the actual inputs.

    Raises:
        ValueError: an input is NaN or infinite.
    """
    plain = quantize_planes(weights, planes=planes, group_size=group_size)
    levels = rounded_levels(
        weights,
        scales=plain.scales_float32,
        group_size=plain.group_size,
        planes=planes,
        inputs=inputs,
    )
    return QuantizedWeights(levels=levels, scales=plain.scales, planes=planes, group_size=plain.group_size)


def corrected(weights: NDArray[np.float32], *, inputs: LayerInputs) -> NDArray[np.float32]:
    """Return weights that make of the actual inputs what float32 [N, K] makes of the source's, nearly."""
    if inputs.drift is None:
        return weights
    order, drift = inputs.order, square_tiles(inputs.drift)
    found = weights.copy()
    for rows in _row_chunks(weights):
        columns = weights[rows][:, order].T
        change = inputs.factor.solve(multiply(drift, column_tiles(columns)))
        found[rows, order] += from_column_tiles(change, shape=columns.shape).T.astype(np.float32)
    return found


def rounded_levels(
    weights: NDArray[np.float32],
    *,
    scales: NDArray[np.float32],
    group_size: int,
    planes: int,
    inputs: LayerInputs,
) -> NDArray[np.int8]:
    """Return int8 levels [N, K] of float32 [N, K] on the grid of scales [N, G], with errors compensated."""
    order = inputs.order
    levels = np.empty(weights.shape, dtype=np.int8)
    for rows in _row_chunks(weights):
        columns = weights[rows][:, order].T
        found = _rounded(
            column_tiles(columns),
            column_tiles(scales[rows][:, order // group_size].T),
            inputs.factor,
            limit=level_limit(planes),
        )
        levels[rows, order] = from_column_tiles(found, shape=columns.shape).T
    return levels


def _rounded(
    weights: NDArray[np.float64], scales: NDArray[np.float64], factor: Factor, *, limit: int
) -> NDArray[np.float64]:
    """Return the levels of weights in the factor's order; everything as column tiles."""
    lower = factor.lower
    errors, levels = np.zeros_like(weights), np.zeros_like(weights)
    safe = np.where(scales > 0, scales, np.inf)
    for block in reversed(range(len(lower))):
        target = weights[block].copy()
        for done in range(block + 1, len(lower)):
            target += np.matmul(lower[done, block].T, errors[done])
        for column in reversed(range(TILE)):
            level = np.rint(target[:, column] / safe[block, :, column])
            np.clip(level, -limit, limit, out=level)
            levels[block, :, column] = level
            error = weights[block, :, column] - level * scales[block, :, column]
            errors[block, :, column] = error
            target[:, :column] += lower[block, block, column, :column, None] * error[:, None]
    return levels


def _row_chunks(weights: NDArray[np.float32]) -> Iterator[slice]:
    """Yield slices of rows that fill whole tiles: rows do not know of each other, memory stays bounded."""
    rows, columns = weights.shape
    step = max(WIDTH, CHUNK_WEIGHTS // columns // WIDTH * WIDTH)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
