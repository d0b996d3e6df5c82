"""Means with 95 % confidence intervals, and rank correlation.

Tokens of one window are not independent, so a window is the unit that varies: the intervals are those of a
ratio of sums over windows, by linearisation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tritium.quantize.report import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

NORMAL_95 = 1.959963984540054  # the 97.5 % point of the standard normal distribution


def mean_by_window(sums: NDArray[Any], counts: NDArray[Any]) -> Estimate:
    """Return the mean per token of sums [windows] over counts [windows]."""
    value, half = _ratio(sums, counts)
    if half is None:
        return Estimate(value=value)
    return Estimate(value=value, low=max(0.0, value - half), high=min(1.0, value + half))


def perplexity(losses: NDArray[np.float64], counts: NDArray[Any]) -> Estimate:
    """Return exp of the mean loss per token; differences of paired losses give a ratio of perplexities."""
    value, half = _ratio(losses, counts)
    if half is None:
        return Estimate(value=_exp(value))
    return Estimate(value=_exp(value), low=_exp(value - half), high=_exp(value + half))


def mean_of_samples(values: NDArray[np.float64]) -> Estimate:
    """Return the mean of independent values [samples]."""
    value, half = _ratio(values, np.ones(len(values)))
    if half is None:
        return Estimate(value=value)
    return Estimate(value=value, low=value - half, high=value + half)


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Return Spearman's rank correlation of two lists of values; None where one of them is constant."""
    ranks = [_ranks(values) - (len(values) + 1) / 2 for values in (first, second)]
    spread = math.sqrt(float(np.square(ranks[0]).sum()) * float(np.square(ranks[1]).sum()))
    return float((ranks[0] * ranks[1]).sum()) / spread if spread > 0 else None


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 1 on; equal values share the mean of their ranks."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    means: NDArray[np.float64] = (last - (sizes - 1) / 2)[group]
    return means


def _ratio(sums: NDArray[Any], counts: NDArray[Any]) -> tuple[float, float | None]:
    total = float(counts.sum())
    value = float(sums.sum()) / total
    windows = len(sums)
    if windows < 2:  # noqa: PLR2004 - one window does not vary
        return value, None
    residuals = sums - value * counts
    variance = windows / (windows - 1) * float(np.square(residuals).sum()) / total**2
    return value, NORMAL_95 * math.sqrt(variance)


def _exp(value: float) -> float:
    # A broken model's loss must not overflow: 1e300 says "broken" as well as infinity, and is JSON.
    return math.exp(min(value, 690.0))
