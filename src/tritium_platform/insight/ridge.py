"""Ridge regression on what was an hour, a day and a week ago, on waves of day and week, and on the calendar.

It works on log(1 + x), one hour after the other: what is forecast for an hour is what the next one looks back
to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium_platform.insight.series import DAY, WEEK

if TYPE_CHECKING:
    from tritium_platform.insight.series import Values

LAGS = (1, 2, DAY, WEEK)
DAILY_WAVES, WEEKLY_WAVES = 6, 6
FRIDAY_ENDS = 5 * DAY
PENALTY = 3.0
LONGEST_HISTORY = 10 * WEEK


def regress(history: Values, *, first_hour: int, horizon: int) -> Values:
    """Return the forecast; the history must have more than a week."""
    skipped = max(0, len(history) - LONGEST_HISTORY)
    values = np.log1p(history[skipped:])
    first = first_hour + skipped
    hours = np.arange(first, first + len(values) + horizon)
    calendar = _calendar(hours)
    lagged = np.stack([values[WEEK - lag : len(values) - lag] for lag in LAGS], axis=1)
    features = np.concatenate([lagged, calendar[WEEK : len(values)]], axis=1)
    center, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread == 0] = 1.0
    scaled = (features - center) / spread
    target = values[WEEK:]
    weights = np.linalg.solve(
        scaled.T @ scaled + PENALTY * np.eye(scaled.shape[1]), scaled.T @ (target - target.mean())
    )
    longer = np.concatenate([values, np.zeros(horizon)])
    for place in range(len(values), len(longer)):
        row = np.concatenate([[longer[place - lag] for lag in LAGS], calendar[place]])
        # A wave that feeds itself must not run away: nothing is foreseen beyond what was ever seen by much.
        foreseen = target.mean() + float((row - center) / spread @ weights)
        longer[place] = min(max(0.0, foreseen), values.max() + np.log(2.0))
    forecast: Values = np.expm1(longer[len(values) :])
    return forecast


def _calendar(hours: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Values:
    """Return sines and cosines of day and week, and whether it is a weekend."""
    columns = []
    for period, waves in ((DAY, DAILY_WAVES), (WEEK, WEEKLY_WAVES)):
        for wave in range(1, waves + 1):
            angle = 2 * np.pi * wave * hours / period
            columns += [np.sin(angle), np.cos(angle)]
    columns.append((hours % WEEK >= FRIDAY_ENDS).astype(np.float64))
    return np.stack(columns, axis=1)
