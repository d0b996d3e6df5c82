"""The adaptive strategy: thresholds that follow the layer, where its distribution asks for it.

With real activations at hand, a weight counts as much as its input is driven: the squared error of weight k
is weighted by the mean square of input k. For one scale the best trits do not depend on that weighting (a
weight is nearer to s or to 0 whatever it counts), so the exact search of the standard strategy stays exact.
The weighting knows nothing of how inputs go together, so the measured output error decides whether it stays.

Without activations, halving the group lets scale and threshold follow heavy tails and uneven rows; each
halving must pay for the scales it adds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.quantize.config import QuantizationStrategy
from tritium.quantize.quality import output_errors, weight_error
from tritium.quantize.standard import quantize_standard
from tritium.quantize.weights import QuantizedWeights, grouped, row_chunks, with_scales

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tritium.quantize.stats import WeightDistribution

# A Gaussian has kurtosis 3; a Laplace distribution has 6.
HEAVY_TAIL_KURTOSIS = 6.0
UNEVEN_ROW_DISPERSION = 0.35
# A halving of the group must lower the weight error by at least this share.
WORTHWHILE_GAIN = 0.01
FINER_GROUPS = (128, 64, 32)


def choose_strategy(distribution: WeightDistribution, *, kind: str) -> QuantizationStrategy:
    """Return `adaptive` for attention layers with heavy tails or uneven rows, else `standard`."""
    is_difficult = (
        distribution.kurtosis > HEAVY_TAIL_KURTOSIS
        or distribution.row_scale_dispersion > UNEVEN_ROW_DISPERSION
    )
    if kind == "attention" and is_difficult:
        return QuantizationStrategy.ADAPTIVE
    return QuantizationStrategy.STANDARD


def quantize_adaptive(
    weights: NDArray[np.float32],
    *,
    group_size: int,
    activations: NDArray[np.float32] | None,
    threads: int = 1,
) -> QuantizedWeights:
    """Quantize float32 [N, K] to one trit-plane.

    Args:
        weights: the layer's weights.
        group_size: weights that share a scale.
        activations: real inputs, float32 [M, K], that weight the errors; None looks for finer groups instead.
        threads: threads to use; they do not change the result.
    """
    if activations is None:
        return _quantize_in_finer_groups(weights, group_size=group_size, threads=threads)
    importance = np.square(activations, dtype=np.float64).mean(axis=0)
    scales = weighted_scales(weights, importance=importance, group_size=group_size)
    weighted = with_scales(weights, scales, planes=1, group_size=group_size, threads=threads)
    standard = quantize_standard(weights, group_size=group_size, threads=threads)
    errors = output_errors(weights, [standard, weighted], activations=activations, threads=threads)
    return weighted if errors[1] < errors[0] else standard


def weighted_scales(
    weights: NDArray[np.float32], *, importance: NDArray[np.float64], group_size: int
) -> NDArray[np.float32]:
    """Return the scale of least weighted squared error of every group, float32 [N, G].

    Args:
        weights: float32 [N, K].
        importance: how much an error on each input counts, float64 [K].
        group_size: weights that share a scale.
    """
    rows, columns = weights.shape
    scales = np.empty((rows, -(-columns // group_size)), dtype=np.float32)
    per_weight = np.broadcast_to(importance, weights.shape)
    for chunk in row_chunks(rows, columns):
        magnitudes = np.abs(grouped(weights[chunk], group_size=group_size))
        counts = grouped(per_weight[chunk], group_size=group_size)
        order = np.argsort(-magnitudes, axis=1, kind="stable")
        counts = np.take_along_axis(counts, order, axis=1)
        products = np.cumsum(np.take_along_axis(magnitudes, order, axis=1) * counts, axis=1)
        totals = np.cumsum(counts, axis=1)
        totals[totals == 0] = 1.0  # inputs that are always zero: any scale is as good
        best = np.argmax(np.square(products) / totals, axis=1)
        found = products[np.arange(len(best)), best] / totals[np.arange(len(best)), best]
        scales[chunk] = found.reshape(chunk.stop - chunk.start, -1)
    return scales


def _quantize_in_finer_groups(
    weights: NDArray[np.float32], *, group_size: int, threads: int
) -> QuantizedWeights:
    best = quantize_standard(weights, group_size=group_size, threads=threads)
    error = weight_error(weights, best, threads=threads)
    for finer in (size for size in FINER_GROUPS if size < group_size):
        candidate = quantize_standard(weights, group_size=finer, threads=threads)
        finer_error = weight_error(weights, candidate, threads=threads)
        if finer_error >= error * (1 - WORTHWHILE_GAIN):
            break
        best, error = candidate, finer_error
    return best
