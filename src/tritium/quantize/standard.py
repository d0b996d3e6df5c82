"""The standard strategy: for every group the scale and threshold of least squared error, exactly.

For one scale s, the best trits are sign(w) where |w| > s/2, so the best support is always "the k largest".
With the k largest |w| the best scale is their mean and the error falls by (sum of them)^2 / k: sorting and
trying every k finds the optimum, with no search and no parameter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.quantize.weights import QuantizedWeights, grouped, row_chunks, with_scales

if TYPE_CHECKING:
    from numpy.typing import NDArray


def quantize_standard(weights: NDArray[np.float32], *, group_size: int) -> QuantizedWeights:
    """Quantize float32 [N, K] to one trit-plane with the least-squares scale of every group."""
    scales = least_squares_scales(weights, group_size=group_size)
    return with_scales(weights, scales, planes=1, group_size=group_size)


def least_squares_scales(weights: NDArray[np.float32], *, group_size: int) -> NDArray[np.float32]:
    """Return the exact least-squares scale of every group: float32 [N, K] -> float32 [N, G]."""
    rows, columns = weights.shape
    scales = np.empty((rows, -(-columns // group_size)), dtype=np.float32)
    for chunk in row_chunks(rows, columns):
        groups = grouped(weights[chunk], group_size=group_size)
        scales[chunk] = _scales_of(groups).reshape(chunk.stop - chunk.start, -1)
    return scales


def _scales_of(groups: NDArray[np.float32]) -> NDArray[np.float32]:
    # Sums in float64 and in the order of size: the same bytes on every processor.
    descending = np.sort(np.abs(groups), axis=1)[:, ::-1]
    sums = np.cumsum(descending, axis=1, dtype=np.float64)
    counts = np.arange(1, groups.shape[1] + 1, dtype=np.float64)
    gains = np.square(sums)
    gains /= counts
    best = np.argmax(gains, axis=1)
    scales: NDArray[np.float32] = (sums[np.arange(len(best)), best] / counts[best]).astype(np.float32)
    return scales
