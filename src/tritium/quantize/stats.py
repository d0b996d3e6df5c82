"""The distribution of a layer's weights, in figures that do not depend on their unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tritium.quantize.weights import row_chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightDistribution:
    """Figures of one weight matrix.

    Attributes:
        count: number of weights.
        mean: their mean.
        variance: their variance (in the unit of the weights squared; never used to decide).
        absmean: mean of the absolute values.
        absmax: largest absolute value.
        kurtosis: fourth standardised moment: 3 for a Gaussian, more for heavy tails; scale-free.
        row_scale_dispersion: standard deviation over mean of the rows' root mean squares; scale-free.
    """

    count: int
    mean: float
    variance: float
    absmean: float
    absmax: float
    kurtosis: float
    row_scale_dispersion: float


def analyze_weight_distribution(weights: NDArray[np.float32]) -> WeightDistribution:
    """Return the distribution of float32 [N, K]; a constant matrix has kurtosis 0."""
    count = weights.size
    chunks = list(row_chunks(*weights.shape))
    mean = sum(float(weights[rows].sum(dtype=np.float64)) for rows in chunks) / count
    second = fourth = absolute = largest = 0.0
    row_squares = np.empty(weights.shape[0])
    for rows in chunks:
        chunk = weights[rows].astype(np.float64)
        row_squares[rows] = np.square(chunk).mean(axis=1)
        absolute += float(np.abs(chunk).sum())
        largest = max(largest, float(np.abs(chunk).max()))
        squares = np.square(chunk - mean)
        second += float(squares.sum())
        fourth += float(np.square(squares).sum())
    variance = second / count
    row_scales = np.sqrt(row_squares)
    typical = float(row_scales.mean())
    return WeightDistribution(
        count=count,
        mean=mean,
        variance=variance,
        absmean=absolute / count,
        absmax=largest,
        kurtosis=fourth / count / variance**2 if variance > 0 else 0.0,
        row_scale_dispersion=float(row_scales.std()) / typical if typical > 0 else 0.0,
    )
