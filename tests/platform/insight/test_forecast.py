"""The forecast: published only where it has proved itself, honest about its bounds, the same every time."""

from __future__ import annotations

import importlib.util
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.insight.backtest import FEWEST_FOLDS, Backtest, Forecaster, backtest
from tritium_platform.insight.forecast import (
    BEST_TWO,
    BY_NAME,
    MARGIN,
    PLAIN,
    choose_champion,
    forecast_load,
    raise_to_high,
)
from tritium_platform.insight.prediction import MOST_SERIES, PredictionService
from tritium_platform.insight.scaling import replicas_wanted
from tritium_platform.insight.series import DAY, WEEK, HourlySeries, build_series, without_outages
from tritium_platform.metering.model import TokenCount
from tritium_platform.tenancy.model import TenantTier

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
PLAIN_NAMES = {each.name for each in PLAIN}


@pytest.fixture(scope="module")
def traces():
    """The generated loads that the measurements use."""
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "load_traces.py"
    spec = importlib.util.spec_from_file_location("load_traces", path)
    module = sys.modules.setdefault("load_traces", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module.TRACES


def series_of(values, *, start=MONDAY):
    return HourlySeries(start, np.asarray(values, dtype=np.float64))


@pytest.mark.parametrize("name", sorted(BY_NAME))
@pytest.mark.parametrize("start", [0, 55])
def test_a_load_that_repeats_is_foreseen_exactly_by_what_looks_a_period_back(name, start):
    hours = np.arange(5 * WEEK)
    load = 1000 + 500 * np.sin(2 * np.pi * hours / DAY)
    if name in {"seasonal_naive_168", "seasonal_median", "fourier_ridge"}:  # those that know weeks
        load += np.where(hours % WEEK >= 5 * DAY, 200, 0)
    history, coming = load[start : 4 * WEEK], load[4 * WEEK : 4 * WEEK + DAY]
    foreseen = BY_NAME[name].predict(history, first_hour=start, horizon=DAY)
    assert foreseen.shape == (DAY,)
    bound = {"fourier_ridge": 100, "holt_winters": 20}.get(name, 1e-9)
    assert np.abs(foreseen - coming).max() <= bound


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=24 * 20), st.integers(0, WEEK - 1))
@settings(max_examples=25)
def test_every_forecaster_takes_every_history_it_says_it_can(values, first_hour):
    history = np.array(values)
    for forecaster in BY_NAME.values():
        if len(history) >= forecaster.needs:
            foreseen = forecaster.predict(history, first_hour=first_hour, horizon=DAY)
            assert np.isfinite(foreseen).all(), forecaster.name


@given(st.lists(st.floats(0, 1e9), min_size=0, max_size=24 * 24))
@settings(max_examples=15)
def test_a_forecast_is_never_negative_and_high_is_never_below_expected(values):
    made = forecast_load(series_of(values))
    assert (made.published is None) == (len(values) < DAY)
    assert all(0 <= low <= high for low, high in zip(made.expected, made.high, strict=True))
    assert len(made.expected) == (0 if made.published is None else DAY)
    if made.published not in PLAIN_NAMES | {None}:
        assert made.relative_error <= 1 - MARGIN


@pytest.mark.parametrize(
    ("hours", "names"),
    [
        (23, None),
        (24, set()),
        (8 * DAY - 1, set()),
        (8 * DAY, {"seasonal_naive_24"}),
        (10 * DAY, {"seasonal_naive_24", "holt_winters", BEST_TWO}),
        (14 * DAY, {"seasonal_naive_24", "holt_winters", "seasonal_naive_168", "seasonal_median", BEST_TWO}),
        (17 * DAY, {*BY_NAME, BEST_TWO}),
    ],
)
def test_what_is_tried_follows_from_what_is_known(traces, hours, names):
    values = traces["consumer"](np.random.default_rng(0), days=20)[:hours]
    made = forecast_load(series_of(values))
    if names is None:
        assert made.published is None
        assert "a day is needed" in made.reason
    else:
        assert set(made.errors) == names
        if len(names) < 2:
            assert made.published == "seasonal_naive_24"
            assert np.array_equal(made.expected, values[-DAY:])


errors_of_all = st.fixed_dictionaries(
    {PLAIN[0].name: st.floats(0, 5)},
    optional={name: st.floats(0, 5) for name in [*list(BY_NAME)[1:], BEST_TWO]},
)


@given(errors_of_all)
def test_nothing_is_published_that_did_not_err_less_than_the_seasonal_naive_by_the_margin(errors):
    name, reason = choose_champion(errors)
    plain = {each: errors[each] for each in PLAIN_NAMES & set(errors)}
    if name in plain:
        assert plain[name] == min(plain.values())
        rivals = [error for each, error in errors.items() if each not in plain]
        assert min(plain.values()) == 0 or all(error > (1 - MARGIN) * plain[name] for error in rivals)
    else:
        assert errors[name] <= (1 - MARGIN) * min(plain.values())
        assert errors[name] == min(error for each, error in errors.items() if each not in plain)
    assert reason


def test_a_forecaster_that_repeats_the_best_is_not_published(traces):
    """The gate keeps out what is no better, whatever its name."""
    assert choose_champion({"seasonal_naive_24": 1.0, "seasonal_naive_168": 0.8, "fourier_ridge": 0.77})[
        0
    ] == ("seasonal_naive_168")
    assert choose_champion({"seasonal_naive_24": 1.0, "fourier_ridge": 0.95})[0] == "fourier_ridge"
    assert choose_champion({"seasonal_naive_24": 0.0, "fourier_ridge": 0.0})[0] == "seasonal_naive_24"


def test_a_backtest_sees_nothing_of_the_days_it_forecasts():
    history = np.arange(20.0 * DAY)
    seen = []

    def last_value(known, *, first_hour, horizon):
        seen.append(len(known))
        return np.full(horizon, known[-1])

    test = backtest(history, first_hour=3, forecaster=Forecaster("last", last_value, needs=DAY))
    assert seen == [day * DAY for day in range(6, 20)]
    assert np.array_equal(test.actual.ravel(), history[6 * DAY :])
    assert test.mase == pytest.approx(12.5 / 24)
    few = Forecaster("last", last_value, needs=len(history) - FEWEST_FOLDS * DAY + 1)
    assert backtest(history, first_hour=0, forecaster=few) is None


def test_the_high_load_is_the_ninth_of_ten_of_what_was_missed():
    short = np.arange(99.0)  # how far a forecast of 100 fell short: 0 to 98
    test = Backtest(np.full((1, 99), 100.0), 100 + short[None, ::-1], 1.0)
    high = raise_to_high(np.array([100.0, 200.0]), test=test, history=np.full(99, 100.0))
    assert high == pytest.approx([189.0, 378.0])
    always_over = Backtest(np.full((1, 99), 100.0), np.zeros((1, 99)), 1.0)
    assert raise_to_high(np.array([100.0]), test=always_over, history=np.ones(99)) == [100.0]


def test_the_hours_of_an_outage_do_not_count_and_an_end_does(traces):
    values = traces["consumer"](np.random.default_rng(1), days=28)
    broken = values.copy()
    broken[400:408] = 0
    mended = without_outages(broken)
    assert np.array_equal(np.delete(mended, range(400, 408)), np.delete(values, range(400, 408)))
    assert (np.abs(mended[400:408] / values[400:408] - 1) < 1).all()
    ended = values.copy()
    ended[-3 * DAY :] = 0
    assert np.array_equal(without_outages(ended), ended)
    quiet = np.tile(np.r_[np.zeros(12), np.full(12, 9.0)], 30)
    assert np.array_equal(without_outages(quiet), quiet)


@pytest.mark.parametrize("name", ["office", "consumer", "growing"])
def test_on_days_it_has_not_seen_it_errs_less_than_the_seasonal_naive_and_the_bound_holds(traces, name):
    values = traces[name](np.random.default_rng(7), days=49)
    ours, day_before, week_before, below = 0.0, 0.0, 0.0, []
    for day in range(35, 49, 2):
        known, came = values[: day * DAY], values[day * DAY : (day + 1) * DAY]
        made = forecast_load(series_of(known))
        ours += np.abs(np.array(made.expected) - came).sum()
        day_before += np.abs(known[-DAY:] - came).sum()
        week_before += np.abs(known[-WEEK:][:DAY] - came).sum()
        below.append((came <= np.array(made.high)).mean())
    assert ours < 0.95 * min(day_before, week_before)
    assert 0.8 <= np.mean(below) <= 1


def test_the_same_series_always_gives_the_same_forecast(traces):
    values = traces["bursts"](np.random.default_rng(3), days=30)
    assert forecast_load(series_of(values)) == forecast_load(series_of(values.copy()))


def test_a_series_has_no_holes_and_ends_before_the_hour_that_runs():
    hour = MONDAY + timedelta(days=3)
    counts = {hour: 5, hour + timedelta(hours=3): 7, hour + timedelta(hours=5): 9}
    series = build_series(counts, end=hour + timedelta(hours=5))
    assert (series.start, series.end, series.first_hour % WEEK) == (hour, hour + timedelta(hours=5), 72)
    assert series.values.tolist() == [5, 0, 0, 7, 0]
    assert len(build_series({}, end=hour).values) == 0


@given(
    st.lists(st.floats(0, 1e15), max_size=24),
    st.floats(0, 1e12),
    st.integers(0, 100),
    st.integers(0, 100),
    st.floats(1, 10),
)
def test_a_forecast_never_takes_an_engine_away_and_a_higher_one_never_asks_for_fewer(
    high, rate, current, most, factor
):
    wanted = replicas_wanted(high, tokens_per_replica=rate, current=current, most=most)
    assert current <= wanted <= max(current, most)
    more = replicas_wanted(
        [value * factor for value in high], tokens_per_replica=rate, current=current, most=most
    )
    assert more >= wanted


def test_engines_are_asked_for_so_that_none_is_busy_all_the_time():
    assert replicas_wanted([100, 799], tokens_per_replica=1000, current=1, most=9) == 1
    assert replicas_wanted([100, 801], tokens_per_replica=1000, current=1, most=9) == 2
    assert replicas_wanted([10**6], tokens_per_replica=1000, current=1, most=9) == 9
    assert replicas_wanted([10**6], tokens_per_replica=0, current=3, most=9) == 3
    assert replicas_wanted([], tokens_per_replica=10, current=3, most=9) == 3


class Source:
    """Tokens of two models, counted when asked for."""

    def __init__(self, clock):
        self.clock, self.asked = clock, 0

    async def hourly_tokens(self, *, start, end):
        self.asked += 1
        return [
            TokenCount(
                tier=TenantTier.TEAM,
                model=model,
                hour=end - timedelta(hours=age),
                tokens=tokens,
                compute_ms=1000,
            )
            for model, tokens in (("small", 10), ("large", 100))
            for age in range(1, 49)
        ]


async def test_the_forecasts_are_made_once_an_hour_the_busiest_first():
    clock = ManualClock()
    source = Source(clock)
    service = PredictionService(tokens=source, clock=clock)
    assert service.latest == ()
    made = await service.refresh()
    assert [(each.model, each.tier) for each in made] == [("large", "team"), ("small", "team")]
    assert made[0].tokens_per_replica == 100 * 3600
    assert made[0].forecast.expected == (100.0,) * 24
    assert made[0].forecast.start == clock.now().replace(minute=0, second=0, microsecond=0)
    clock.advance(seconds=60)
    assert await service.refresh() is made
    assert source.asked == 1
    clock.advance(seconds=3600)
    assert (await service.refresh())[0].forecast.start > made[0].forecast.start
    assert MOST_SERIES > 2
