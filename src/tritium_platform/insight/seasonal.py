"""Forecasts that repeat what was: the last day, the last week, the median of the last weeks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium_platform.insight.series import DAY, WEEK

if TYPE_CHECKING:
    from tritium_platform.insight.series import Values

WEEKS = 4


def last_day_again(history: Values, *, first_hour: int, horizon: int) -> Values:  # noqa: ARG001
    """Repeat the last 24 hours (seasonal naive, 24)."""
    return np.resize(history[-DAY:], horizon)


def last_week_again(history: Values, *, first_hour: int, horizon: int) -> Values:  # noqa: ARG001
    """Repeat the hours of a week ago (seasonal naive, 168)."""
    return np.resize(history[-WEEK:], horizon)


def median_of_weeks(history: Values, *, first_hour: int, horizon: int) -> Values:  # noqa: ARG001
    """Return the median at the same hour of the last four weeks, as far as there are so many."""
    weeks = min(WEEKS, len(history) // WEEK)
    return np.resize(np.median(history[-weeks * WEEK :].reshape(weeks, WEEK), axis=0), horizon)
