"""Where the marks of the page's charts stand: plain geometry in the units of an SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritium.cli.output import readable_bytes
from tritium.cli.pictures import SIZES, by_role, loss_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH = 680
LABEL_WIDTH = 110  # left of the marks
VALUE_WIDTH = 180  # right of them
ROW_HEIGHT = 34
AXIS_HEIGHT = 28
MARGIN = 8
BAR_STEP = 22  # from one layer's bar to the next
BAR_HEIGHT = 64
TICKS = 4
NICE_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
OVERHANG = 0.05  # of the range, so that no mark stands on the edge


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar: its place, and what it says in words."""

    label: str
    value: str
    x: float
    y: float
    width: float
    height: float
    is_this_model: bool = False
    planes: int = 0
    is_exact: bool = False


@dataclass(frozen=True, kw_only=True)
class Point:
    """A value on an axis with its interval, and what it says in words."""

    label: str
    value: str
    x: float
    low_x: float | None
    high_x: float | None
    y: float
    is_this_model: bool = False


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Points under one another on a common axis."""

    points: Sequence[Point]
    ticks: Sequence[tuple[float, str]]
    height: float


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """The layers of one kind, block after block."""

    role: str
    bars: Sequence[Bar]
    width: float


def size_bars(metrics: Mapping[str, Any]) -> list[Bar]:
    """Return the sizes under one another, as long as they are large."""
    sizes = {label: metrics[name] for label, name in SIZES.items() if name in metrics}
    largest, room = max(sizes.values()), WIDTH - LABEL_WIDTH - VALUE_WIDTH
    return [
        Bar(
            label=label,
            value=f"{readable_bytes(size)} ({size / metrics['float16_bytes']:.0%} of fp16)",
            x=LABEL_WIDTH,
            y=index * ROW_HEIGHT,
            width=room * size / largest,
            height=ROW_HEIGHT - MARGIN,
            is_this_model=label == "this model",
        )
        for index, (label, size) in enumerate(sizes.items())
    ]


def value_axis(rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> Axis | None:
    """Return estimates (label, words, Estimate's plain values) on a common axis; None without any."""
    if not rows:
        return None
    ends = [value for _, _, estimate in rows for value in estimate.values() if value is not None]
    lowest, highest = min(ends), max(ends)
    spare = OVERHANG * (highest - lowest) or max(abs(highest), 1) * OVERHANG
    lowest, highest = lowest - spare, highest + spare
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH

    def place(value: float | None) -> float | None:
        return None if value is None else LABEL_WIDTH + room * (value - lowest) / (highest - lowest)

    points = [
        Point(
            label=label,
            value=words,
            x=place(estimate["value"]) or 0,
            low_x=place(estimate.get("low")),
            high_x=place(estimate.get("high")),
            y=(index + 1 / 2) * ROW_HEIGHT,
            is_this_model=label == "this model",
        )
        for index, (label, words, estimate) in enumerate(rows)
    ]
    ticks = [(place(tick) or 0, f"{tick:.6g}") for tick in ticks_between(lowest, highest)]
    return Axis(points=points, ticks=ticks, height=len(rows) * ROW_HEIGHT + AXIS_HEIGHT)


def layer_rows(layers: Mapping[str, Mapping[str, Any]]) -> list[LayerRow]:
    """Return a row of bars for each kind of layer; the highest bar of all is the largest error."""
    highest = max((loss_of(layer) for layer in layers.values()), default=0.0) or 1
    rows = []
    for role, found in by_role(layers).items():
        bars = []
        for index, (block, layer) in enumerate(found):
            height = BAR_HEIGHT * loss_of(layer) / highest
            bars.append(
                Bar(
                    label=f"block {block}",
                    value=f"{loss_of(layer):.4f}",
                    x=index * BAR_STEP,
                    y=BAR_HEIGHT - height,
                    width=BAR_STEP - MARGIN,
                    height=height,
                    planes=layer["planes"],
                    is_exact=bool(layer.get("is_lossless")),
                )
            )
        rows.append(LayerRow(role=role, bars=bars, width=len(bars) * BAR_STEP))
    return rows


def ticks_between(lowest: float, highest: float) -> list[float]:
    """Return a few round values within a range."""
    rough = (highest - lowest) / TICKS
    magnitude = NICE_STEPS[-1] ** math.floor(math.log10(rough))
    step = next((nice * magnitude for nice in NICE_STEPS if nice * magnitude >= rough), rough)
    first, last = math.ceil(lowest / step), math.floor(highest / step)
    return [number * step for number in range(first, last + 1)]
