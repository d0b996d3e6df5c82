"""The picture of what quantization takes: seconds and memory against the size of the model.

    python benchmarks/growth.py

It draws the figures of docs/measurements/quantize.json, which `quantize_memory.py --record` writes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side_by_side.picture import DARK, FONT, LIGHT, Palette, text_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DOCS = Path(__file__).resolve().parent.parent / "docs"
RECORD = DOCS / "measurements" / "quantize.json"
WIDTH, HEIGHT, PANEL, GAP, LEFT = 880, 300, 340, 96, 52
TOP, BOTTOM = 78, 236
BILLION = 1e9
STEPS = (1, 2, 2.5, 5, 10)
MOST_STEPS = 5
LEGEND = 190  # from one label to the next


@dataclass(frozen=True)
class Series:
    """Figures of one kind, by size; `per_weight` draws the line through zero that they would lie on."""

    label: str
    figures: Sequence[tuple[float, float]]  # billion weights, value
    is_ours: bool
    per_weight: float | None = None


def draw() -> None:
    """Write the picture for a light and a dark page."""
    content = json.loads(RECORD.read_text(encoding="utf-8"))
    for mode, palette in (("light", LIGHT), ("dark", DARK)):
        path = DOCS / "pictures" / f"quantize-{mode}.svg"
        path.write_text(picture(content, palette), encoding="utf-8")


def picture(content: dict[str, Any], palette: Palette) -> str:
    """Return an SVG of two panels: seconds and MiB, both from zero and linear."""
    runs = list(content["runs"].values())
    title = "What quantization takes, by the size of the model"
    places = " and ".join(sorted({run["machine"] for run in runs}))
    commits = " and ".join(sorted({run["commit"] for run in runs}))
    days = " and ".join(sorted({run["date"] for run in runs}))
    busy = ", with other work on it" if any(run["is_busy"] for run in runs) else ""
    caption = f"{places}{busy}, {days}, commit {commits}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"',
        f' height="{HEIGHT}" role="img" aria-label="{escape(title)}" font-family="{FONT}">',
        text_at(LEFT, 22, title, colour=palette.text, size=15, weight=600),
        *_panel(LEFT, "Seconds", _seconds(runs), palette),
        *_panel(LEFT + PANEL + GAP, "Memory, MiB", _memory(runs), palette),
        text_at(LEFT, HEIGHT - 10, caption, colour=palette.quiet, size=11),
    ]
    return "\n".join([*parts, "</svg>", ""])


def _seconds(runs: Sequence[dict[str, Any]]) -> list[Series]:
    rate = sum(run["processor_seconds"] for run in runs) / sum(run["weights"] for run in runs) * BILLION
    label = f"of one processor, {rate:.0f} a billion"
    return [
        Series(label, _figures(runs, "processor_seconds"), is_ours=True, per_weight=rate),
        Series("of the clock", _figures(runs, "seconds"), is_ours=False),
    ]


def _memory(runs: Sequence[dict[str, Any]]) -> list[Series]:
    return [
        Series("peak of the process", _figures(runs, "peak_mib"), is_ours=True),
        Series("the largest layer as fp32", _figures(runs, "largest_layer_mib"), is_ours=False),
    ]


def _figures(runs: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(run["weights"] / BILLION, run[name]) for run in runs]


def _panel(left: int, heading: str, series: Sequence[Series], palette: Palette) -> Iterator[str]:
    points = [point for one in series for point in one.figures]
    across, up = (_ticks(max(values)) for values in zip(*points, strict=True))

    def x(value: float) -> float:
        return left + PANEL * value / across[-1]

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * value / up[-1]

    yield text_at(left, 46, heading, colour=palette.text, size=12, weight=600)
    for tick in up:
        yield f'<path d="M{left} {y(tick):.1f}H{left + PANEL}" stroke="{palette.track}"/>'
        yield text_at(left - 8, y(tick) + 4, f"{tick:g}", colour=palette.quiet, size=11, anchor="end")
    for tick in across:
        yield text_at(x(tick), BOTTOM + 16, f"{tick:g}", colour=palette.quiet, size=11, anchor="middle")
    yield text_at(left + PANEL, BOTTOM + 32, "billion weights", colour=palette.quiet, size=11, anchor="end")
    for row, one in enumerate(series):
        colour = palette.ours if one.is_ours else palette.theirs
        if one.per_weight is not None:
            end = f"L{x(across[-1]):.1f} {y(one.per_weight * across[-1]):.1f}"
            yield f'<path d="M{left} {BOTTOM}{end}" stroke="{colour}" stroke-dasharray="4 4"/>'
        for size, value in one.figures:
            yield f'<circle cx="{x(size):.1f}" cy="{y(value):.1f}" r="5" fill="{colour}"/>'
            is_highest = value == max(other for where, other in points if where == size)
            beside = y(value) + (-1 if is_highest else 11)  # the numbers of two points do not meet
            yield text_at(x(size) + 9, beside, f"{value:,.0f}", colour=palette.text, size=11)
        at = left + LEGEND * row
        yield f'<circle cx="{at + 5}" cy="60" r="5" fill="{colour}"/>'
        yield text_at(at + 15, 64, one.label, colour=palette.quiet, size=11)


def _ticks(largest: float) -> list[float]:
    """Return round numbers from 0 to at least the largest value, five or fewer steps of them."""
    power = 10 ** math.floor(math.log10(largest / MOST_STEPS))
    step = next(power * each for each in STEPS if power * each >= largest / MOST_STEPS)
    return [step * index for index in range(math.ceil(largest / step) + 1)]


if __name__ == "__main__":
    draw()
