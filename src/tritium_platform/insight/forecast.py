"""The load of the next 24 hours: foreseen in several ways, of which one that has proved itself is published.

Every candidate forecasts the last days from what was known before each. A candidate is published only if its
mean absolute scaled error is at least `MARGIN` below that of the better seasonal-naive forecast; otherwise
that one is. Beside the expected load (P50) stands the load that nine of ten hours stay below (P90): the
forecast raised by what it fell short in the past (split conformal prediction; Vovk, Gammerman and Shafer
2005).

A forecast moves nothing by itself: see `insight.scaling`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tritium_platform.insight.backtest import Backtest, Forecaster, backtest
from tritium_platform.insight.ridge import regress
from tritium_platform.insight.seasonal import last_day_again, last_week_again, median_of_weeks
from tritium_platform.insight.series import DAY, HOUR, WEEK, without_outages
from tritium_platform.insight.smoothing import smooth

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from tritium_platform.insight.series import HourlySeries, Values

MARGIN = 0.05
NINE_OF_TEN = 0.9
# Errors are compared beside the forecast itself, or beside this part of the mean load where it is small.
SMALL_PART = 0.1
PLAIN = (
    Forecaster("seasonal_naive_24", last_day_again, needs=DAY),
    Forecaster("seasonal_naive_168", last_week_again, needs=WEEK),
)
CANDIDATES = (
    Forecaster("seasonal_median", median_of_weeks, needs=WEEK),
    Forecaster("holt_winters", smooth, needs=3 * DAY),
    Forecaster("fourier_ridge", regress, needs=WEEK + 3 * DAY),
)
BY_NAME = {each.name: each for each in (*PLAIN, *CANDIDATES)}
BEST_TWO = "mean_of_best_two"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadForecast:
    """What is expected in the hours from `start` on.

    Attributes:
        published: the name of the forecaster; None with less than a day of history.
        reason: why that one, in one sentence.
        expected: the load of each hour (P50); as likely more as less.
        high: the load that nine of ten hours stay below (P90); the same as `expected` where no day of the
        past could be tried. errors: the mean absolute scaled error of every forecaster that could be tried.
    """

    start: datetime
    published: str | None
    reason: str
    expected: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def peak_at(self) -> datetime | None:
        """The hour of the highest expected load."""
        return self.start + int(np.argmax(self.expected)) * HOUR if self.expected else None

    @property
    def relative_error(self) -> float | None:
        """The error of what is published beside that of the better seasonal-naive forecast."""
        plain = [self.errors[each.name] for each in PLAIN if each.name in self.errors]
        if self.published is None or self.published not in self.errors or not plain or not min(plain):
            return None
        return self.errors[self.published] / min(plain)


def forecast_load(series: HourlySeries, *, horizon: int = DAY) -> LoadForecast:
    """Forecast the hours after a series, a day unless told; the same series always gives the same forecast.

    Forecasters are tried on days: beyond the first day errors are larger than those that are told.
    """
    if len(series.values) < DAY:
        reason = f"{len(series.values)} full hours are known; a day is needed."
        return LoadForecast(start=series.end, published=None, reason=reason)
    history, first_hour = without_outages(series.values), series.first_hour
    tests = _try_all(history, first_hour=first_hour)
    errors = {name: test.mase for name, test in tests.items()}
    name, reason = choose_champion(errors)
    members = _best_two(errors) if name == BEST_TWO else [name]
    ahead = np.mean(
        [_ahead(BY_NAME[each], history, first_hour=first_hour, horizon=horizon) for each in members], axis=0
    )
    return LoadForecast(
        start=series.end,
        published=name,
        reason=reason,
        expected=tuple(map(float, ahead)),
        high=tuple(map(float, raise_to_high(ahead, test=tests.get(name), history=history))),
        errors=errors,
    )


def choose_champion(errors: Mapping[str, float]) -> tuple[str, str]:
    """Return whose forecast is published and why, given the error of each that could be tried."""
    plain = {each.name: errors[each.name] for each in PLAIN if each.name in errors}
    if not plain:
        return PLAIN[0].name, "Less than eight days are known: forecasts cannot be compared yet."
    simplest = min(plain, key=lambda name: plain[name])
    rivals = {name: error for name, error in errors.items() if name not in plain}
    best = min(rivals, key=lambda name: rivals[name], default=simplest)
    # Where the simplest forecast does not err, nothing errs less.
    if best in rivals and rivals[best] <= (1 - MARGIN) * plain[simplest] and plain[simplest] > 0:
        return best, f"It erred {1 - rivals[best] / plain[simplest]:.0%} less than {simplest}."
    return simplest, f"No other erred {MARGIN:.0%} less."


def raise_to_high(ahead: Values, *, test: Backtest | None, history: Values) -> Values:
    """Return the load that nine of ten hours stay below, by how far the same forecaster fell short before."""
    if test is None:
        return ahead
    small = SMALL_PART * float(history.mean())
    short = np.sort(((test.actual - test.predicted) / np.maximum(test.predicted, small)).ravel())
    rank = min(len(short), math.ceil(NINE_OF_TEN * (len(short) + 1)))
    high: Values = ahead + max(0.0, float(short[rank - 1])) * np.maximum(ahead, small)
    return high


def _try_all(history: Values, *, first_hour: int) -> dict[str, Backtest]:
    """Try every forecaster that has enough history on the same last days, and the mean of the best two."""
    tried = {
        name: test
        for name, each in BY_NAME.items()
        if (test := backtest(history, first_hour=first_hour, forecaster=each)) is not None
    }
    folds = min((len(test.actual) for test in tried.values()), default=0)
    tests = {
        name: Backtest(test.predicted[-folds:], test.actual[-folds:], test.scale)
        for name, test in tried.items()
    }
    pair = [tests[name] for name in _best_two({name: test.mase for name, test in tests.items()})]
    if len(pair) > 1:
        predicted = np.mean([test.predicted for test in pair], axis=0)
        tests[BEST_TWO] = Backtest(predicted, pair[0].actual, pair[0].scale)
    return tests


def _best_two(errors: Mapping[str, float]) -> list[str]:
    return sorted((name for name in errors if name in BY_NAME), key=lambda name: errors[name])[:2]


def _ahead(forecaster: Forecaster, history: Values, *, first_hour: int, horizon: int) -> Values:
    return np.maximum(0.0, forecaster.predict(history, first_hour=first_hour, horizon=horizon))
