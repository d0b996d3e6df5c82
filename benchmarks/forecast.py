"""Measures the forecast of the load on traces whose future it does not see.

Every day of the second half of a trace is forecast from what was before it, as the platform does it, and held
against what came. Baseline: the seasonal-naive forecasts, day before and week before. A CSV file with an
hour's load per line (the first is an hour of UTC: --start) is measured the same way.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from load_traces import HOURS, TRACES

from tritium_platform.insight.forecast import forecast_load
from tritium_platform.insight.series import HourlySeries

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
WEEK = 7 * HOURS


def measure(values: Any, *, start: datetime = MONDAY, first: int | None = None) -> dict[str, Any]:
    """Return the figures of one trace; the days from `first` on are forecast."""
    days = len(values) // HOURS
    errors: dict[str, list[float]] = {"published": [], "day before": [], "week before": []}
    below, hits, near, published, seconds = 0, 0, 0, set(), 0.0
    tried = range(days // 2 if first is None else first, days)
    for day in tried:
        known, came = values[: day * HOURS], values[day * HOURS : (day + 1) * HOURS]
        begun = time.perf_counter()
        made = forecast_load(HourlySeries(start, known))
        seconds += time.perf_counter() - begun
        published.add(made.published)
        errors["published"].append(float(np.abs(np.array(made.expected) - came).mean()))
        errors["day before"].append(float(np.abs(known[-HOURS:] - came).mean()))
        errors["week before"].append(float(np.abs(known[-WEEK:][:HOURS] - came).mean()))
        below += int((came <= np.array(made.high)).sum())
        away = abs(int(np.argmax(made.expected)) - int(np.argmax(came)))
        hits += min(away, HOURS - away) <= 1
        # A peak that is hardly one has no hour: does the load of the foreseen hour come near the highest?
        near += came[int(np.argmax(made.expected))] >= 0.9 * came.max()
    mean = {name: float(np.mean(each)) for name, each in errors.items()}
    plain = min(mean["day before"], mean["week before"])
    return {
        "days": len(tried),
        "published": sorted(published),
        "relative_error": mean["published"] / plain if plain else None,
        "relative_to_day_before": mean["published"] / mean["day before"] if mean["day before"] else None,
        "below_high": below / (len(tried) * HOURS),
        "peak_within_an_hour": hits / len(tried),
        "load_at_foreseen_peak_near_highest": near / len(tried),
        "seconds_per_forecast": seconds / len(tried),
    }


def ceiling(values: Any, shape: Any) -> float:
    """Return on how many days the peak is within an hour of that of the shape without its noise."""
    came, known = (each.reshape(-1, HOURS)[len(values) // HOURS // 2 :] for each in (values, shape))
    away = np.abs(came.argmax(axis=1) - known.argmax(axis=1))
    return float((np.minimum(away, HOURS - away) <= 1).mean())


def main() -> None:
    """Write a line per trace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=56)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--file", type=Path, help="an hour's load per line")
    parser.add_argument("--start", type=datetime.fromisoformat, default=MONDAY)
    arguments = parser.parse_args()
    if arguments.file is not None:
        values = np.loadtxt(arguments.file)
        print(json.dumps({"trace": arguments.file.name, **measure(values, start=arguments.start)}))
        return
    for name, trace in TRACES.items():
        for seed in range(arguments.seeds):
            values = trace(np.random.default_rng(seed), days=arguments.days)
            shape = np.median(
                [trace(np.random.default_rng(100 + each), days=arguments.days) for each in range(31)], axis=0
            )
            figures = {"trace": name, "seed": seed, **measure(values), "ceiling": ceiling(values, shape)}
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
