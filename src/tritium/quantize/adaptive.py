"""The adaptive strategy: thresholds that follow the weights, where their distribution asks for it.

A heavy-tailed or unevenly scaled matrix has groups in which a few large weights dictate the threshold of all.
Halving the group lets scale and threshold follow; each halving must pay for the scales it adds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.quantize.config import QuantizationStrategy
from tritium.quantize.quality import weight_error
from tritium.quantize.standard import quantize_standard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tritium.quantize.stats import WeightDistribution
    from tritium.quantize.weights import QuantizedWeights

# A Gaussian has kurtosis 3; a Laplace distribution has 6.
HEAVY_TAIL_KURTOSIS = 6.0
UNEVEN_ROW_DISPERSION = 0.35
# A halving of the group must lower the weight error by at least this share.
WORTHWHILE_GAIN = 0.02
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


def quantize_adaptive(weights: NDArray[np.float32], *, group_size: int) -> QuantizedWeights:
    """Quantize float32 [N, K] to one trit-plane, halving the group as long as the error falls enough for it."""
    best = quantize_standard(weights, group_size=group_size)
    error = weight_error(weights, best)
    for finer in (size for size in FINER_GROUPS if size < group_size):
        candidate = quantize_standard(weights, group_size=finer)
        finer_error = weight_error(weights, candidate)
        if finer_error > error * (1 - WORTHWHILE_GAIN):
            break
        best, error = candidate, finer_error
    return best
