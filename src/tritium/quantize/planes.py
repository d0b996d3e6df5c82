"""Mixed precision on the ternary kernel: a layer with two or three trit-planes.

P planes tied at the ratio 3 are the digits of one uniform grid of 3^P levels: weight = scale x level, and
level = sum of 3^(P-1-p) x trit. A second plane is a second pass of the same kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.kernels.quantization import least_squares_scales
from tritium.quantize.weights import QuantizedWeights, grouped, level_limit, map_chunks, with_scales

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Steps of the grid that are tried first, as shares of the step at which the largest weight just fits;
# long groups with outliers have their best step far below it, short ones near it.
FIRST_STEPS = tuple(float(step) for step in np.geomspace(0.2, 1.12, 36))
REFINEMENTS = 3


def quantize_planes(
    weights: NDArray[np.float32], *, planes: int, group_size: int, threads: int = 1
) -> QuantizedWeights:
    """Quantize float32 [N, K] to `planes` tied trit-planes; more planes never fit worse.

    The threads do not change the result.
    """
    weights = np.ascontiguousarray(weights)
    scales = plane_scales(weights, planes=planes, group_size=group_size, threads=threads)
    return with_scales(weights, scales, planes=planes, group_size=group_size, threads=threads)


def plane_scales(
    weights: NDArray[np.float32], *, planes: int, group_size: int, threads: int = 1
) -> NDArray[np.float32]:
    """Return the scales of `planes` tied trit-planes for float32 [N, K], before they are rounded: [N, G]."""
    scales = least_squares_scales(weights, group_size=group_size, threads=threads)
    for count in range(2, planes + 1):
        scales = _refined_scales(weights, scales, planes=count, group_size=group_size, threads=threads)
    return scales


def _refined_scales(
    weights: NDArray[np.float32],
    coarser: NDArray[np.float32],
    *,
    planes: int,
    group_size: int,
    threads: int,
) -> NDArray[np.float32]:
    scales = np.empty_like(coarser)

    def refine(chunk: slice) -> None:
        # Groups as columns: every sum runs over axis 0, in the same order on every processor.
        magnitudes = np.ascontiguousarray(np.abs(grouped(weights[chunk], group_size=group_size)).T)
        found = _grid_scales(magnitudes, coarser[chunk].reshape(-1), limit=level_limit(planes))
        scales[chunk] = found.reshape(chunk.stop - chunk.start, -1)

    map_chunks(refine, *weights.shape, threads=threads)
    return scales


def _grid_scales(
    magnitudes: NDArray[np.float32], coarser: NDArray[np.float32], *, limit: int
) -> NDArray[np.float32]:
    """Return the step of the grid with the least squared error found for each column of [g, n].

    A third of the coarser grid's step reaches all of its levels: starting there, more planes are never worse.
    """
    best = coarser / np.float32(3)
    gain, _ = _gain_and_refit(magnitudes, best, limit=limit)
    fitting = magnitudes.max(axis=0) / np.float32(limit + 0.5)
    for share in FIRST_STEPS:
        best, gain = _keep_better(magnitudes, best, gain, candidate=fitting * np.float32(share), limit=limit)
    for _ in range(REFINEMENTS):
        _, refit = _gain_and_refit(magnitudes, best, limit=limit)
        best, gain = _keep_better(magnitudes, best, gain, candidate=refit, limit=limit)
    return best


def _keep_better(
    magnitudes: NDArray[np.float32],
    best: NDArray[np.float32],
    gain: NDArray[np.float64],
    *,
    candidate: NDArray[np.float32],
    limit: int,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    candidate_gain, _ = _gain_and_refit(magnitudes, candidate, limit=limit)
    is_better = candidate_gain > gain
    return np.where(is_better, candidate, best), np.where(is_better, candidate_gain, gain)


def _gain_and_refit(
    magnitudes: NDArray[np.float32], scales: NDArray[np.float32], *, limit: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return by how much scales [n] lower the squared error of [g, n], and the best for their levels."""
    safe = np.where(scales > 0, scales, np.float32(np.inf))
    levels = np.minimum(np.rint(magnitudes / safe), np.float32(limit))
    products = (levels * magnitudes).sum(axis=0).astype(np.float64)
    squares = np.square(levels, out=levels).sum(axis=0).astype(np.float64)
    step = scales.astype(np.float64)
    gain = 2 * step * products - np.square(step) * squares
    refit = np.divide(products, squares, out=np.zeros_like(products), where=squares > 0)
    return gain, refit.astype(np.float32)
