"""How good a forecaster would have been: every day of the past is forecast from what was known before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tritium_platform.insight.series import DAY

if TYPE_CHECKING:
    from tritium_platform.insight.series import Values

FEWEST_FOLDS, MOST_FOLDS = 7, 14


class Predict(Protocol):
    """Foresees what follows a history of hours."""

    def __call__(self, history: Values, *, first_hour: int, horizon: int) -> Values:
        """Return `horizon` values; `first_hour` counts the first hour of the history from a Monday on."""


@dataclass(frozen=True, slots=True)
class Forecaster:
    """A way to forecast, and how many hours of history it needs."""

    name: str
    predict: Predict
    needs: int


@dataclass(frozen=True, slots=True)
class Backtest:
    """What was forecast for the last days and what came; one row of 24 hours for each day, oldest first.

    `scale` is the mean absolute difference to the day before over the whole history: the error of the
    simplest forecast, by which errors of different series can be compared.
    """

    predicted: Values
    actual: Values
    scale: float

    @property
    def mase(self) -> float:
        """The mean absolute scaled error; below 1 it is better than the day before was in the past."""
        return float(np.abs(self.predicted - self.actual).mean() / self.scale)


def backtest(history: Values, *, first_hour: int, forecaster: Forecaster) -> Backtest | None:
    """Forecast each of the last days from what was before it; None if seven days cannot be tried."""
    folds = min(MOST_FOLDS, (len(history) - forecaster.needs) // DAY)
    if folds < FEWEST_FOLDS:
        return None
    begins = [len(history) - (folds - fold) * DAY for fold in range(folds)]
    predicted = [
        np.maximum(0.0, forecaster.predict(history[:begin], first_hour=first_hour, horizon=DAY))
        for begin in begins
    ]
    actual = [history[begin : begin + DAY] for begin in begins]
    return Backtest(np.stack(predicted), np.stack(actual), _scale(history))


def _scale(history: Values) -> float:
    """Return the scale; 1 for a series of which every day is the same."""
    return float(np.abs(history[DAY:] - history[:-DAY]).mean()) or 1.0
