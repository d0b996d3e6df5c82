"""The distribution of a layer's weights, in figures that do not depend on their unit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tritium.quantize.weights import map_chunks

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


def analyze_weight_distribution(weights: NDArray[np.float32], *, threads: int = 1) -> WeightDistribution:
    """Return the distribution of float32 [N, K]; a constant matrix has kurtosis 0."""
    count = weights.size
    in_chunks = partial(map_chunks, rows=weights.shape[0], columns=weights.shape[1], threads=threads)
    mean = sum(in_chunks(lambda rows: float(weights[rows].sum(dtype=np.float64)))) / count
    row_squares = np.empty(weights.shape[0])

    def measure(rows: slice) -> tuple[float, float, float, float]:
        chunk = weights[rows].astype(np.float64)
        row_squares[rows] = np.square(chunk).mean(axis=1)
        magnitudes, squares = np.abs(chunk), np.square(chunk - mean)
        return (
            float(squares.sum()),
            float(np.square(squares).sum()),
            float(magnitudes.sum()),
            float(magnitudes.max()),
        )

    measured = in_chunks(measure)
    second, fourth, absolute = (sum(figures[index] for figures in measured) for index in range(3))
    largest = max(figures[3] for figures in measured)
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
