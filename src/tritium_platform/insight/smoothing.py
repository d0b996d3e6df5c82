"""Exponential smoothing with a damped trend and the season of a day (Holt and Winters, additive).

It works on log(1 + x): bursts weigh less, and a season that grows with the load is a sum.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from tritium_platform.insight.series import DAY

if TYPE_CHECKING:
    from tritium_platform.insight.series import Values

# Every combination is tried, and the one that foresaw the history's own next hours best is taken.
GRID = np.array(list(product((0.05, 0.1, 0.2, 0.4, 0.7), (0.0, 0.02, 0.1), (0.05, 0.15, 0.35))))
DAMPING = 0.95
LONGEST_HISTORY = 14 * DAY


def smooth(history: Values, *, first_hour: int, horizon: int) -> Values:  # noqa: ARG001
    """Return the forecast; the history must have two days."""
    values = np.log1p(history[-LONGEST_HISTORY:])
    rises, trends, seasons = GRID.T
    level = np.full(len(GRID), values[:DAY].mean())
    trend = np.zeros(len(GRID))
    season = np.tile((values[:DAY] - values[:DAY].mean())[:, None], len(GRID))
    errors = np.zeros(len(GRID))
    for place in range(DAY, len(values)):
        phase = place % DAY
        damped = level + DAMPING * trend
        error = values[place] - damped - season[phase]
        errors += error**2
        level = damped + rises * error
        trend = DAMPING * trend + rises * trends * error
        season[phase] += (1 - rises) * seasons * error
    best = int(np.argmin(errors))
    steps = np.arange(1, horizon + 1)
    growth = trend[best] * DAMPING * (1 - DAMPING**steps) / (1 - DAMPING)
    phases = (len(values) + steps - 1) % DAY
    forecast: Values = np.expm1(level[best] + growth + season[phases, best])
    return forecast
