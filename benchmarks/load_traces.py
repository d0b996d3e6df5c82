"""Hourly loads that look like those of services: generated from a seed, for measurements and tests.

Each begins on a Monday's midnight. They are made of a day's shape, a weaker weekend, noise that grows with
the load, and what the name says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

HOURS = 24


def _day(hours: Any, *, peak: int, depth: float) -> Any:
    return 1 + depth * np.cos(2 * np.pi * (hours % HOURS - peak) / HOURS)


def office(random: Any, *, days: int) -> Any:
    """A load of working hours: two humps a day, quiet nights and weekends."""
    hours = np.arange(days * HOURS)
    hour = hours % HOURS
    humps = np.exp(-(((hour - 10) / 2.2) ** 2)) + 0.9 * np.exp(-(((hour - 15) / 2.5) ** 2)) + 0.05
    weekend = np.where(hours // HOURS % 7 >= 5, 0.25, 1.0)
    return 50_000 * humps * weekend * random.lognormal(0, 0.25, len(hours))


def consumer(random: Any, *, days: int) -> Any:
    """A load of evenings, a little more at weekends."""
    hours = np.arange(days * HOURS)
    weekend = np.where(hours // HOURS % 7 >= 5, 1.2, 1.0)
    return 80_000 * _day(hours, peak=20, depth=0.7) * weekend * random.lognormal(0, 0.2, len(hours))


def growing(random: Any, *, days: int) -> Any:
    """An evening load that doubles in a month."""
    load = consumer(random, days=days)
    return load * 2 ** (np.arange(len(load)) / (30 * HOURS))


def bursts(random: Any, *, days: int) -> Any:
    """A day's shape with batches that come at any hour, ten times the load for one to four hours."""
    hours = np.arange(days * HOURS)
    load = 20_000 * _day(hours, peak=14, depth=0.5) * random.lognormal(0, 0.3, len(hours))
    for begin in np.flatnonzero(random.random(len(hours)) < 0.012):
        load[begin : begin + random.integers(1, 5)] *= 10
    return load


def shifted(random: Any, *, days: int) -> Any:
    """A load of working hours that falls to two fifths from one hour to the next, two thirds of the way."""
    load = office(random, days=days)
    load[len(load) * 2 // 3 :] *= 0.4
    return load


def outages(random: Any, *, days: int) -> Any:
    """An evening load with an outage of two to eight hours about once in ten days."""
    load = consumer(random, days=days)
    for begin in np.flatnonzero(random.random(len(load)) < 1 / 240):
        load[begin : begin + random.integers(2, 9)] = 0
    return load


def noise(random: Any, *, days: int) -> Any:
    """No shape at all: nothing should be found in it."""
    return 10_000 * random.lognormal(0, 0.8, days * HOURS)


TRACES: dict[str, Callable[..., Any]] = {
    trace.__name__: trace for trace in (office, consumer, growing, bursts, shifted, outages, noise)
}
