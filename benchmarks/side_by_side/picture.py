"""The picture for the README: three panels of bars, drawn for a light and a dark page."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from statistics import median
from typing import TYPE_CHECKING, Any

from side_by_side.report import Results

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, PANEL, GAP, LEFT = 880, 264, 32, 12
BAR, STEP, TOP = 18, 44, 64
NUMBER_ROOM = 58  # right of the longest bar


@dataclass(frozen=True)
class Palette:
    """Colours of one page."""

    text: str
    quiet: str
    ours: str
    theirs: str
    track: str


LIGHT = Palette(text="#1f2328", quiet="#59636e", ours="#0f766e", theirs="#9aa5b1", track="#eff2f5")
DARK = Palette(text="#f0f6fc", quiet="#9198a1", ours="#2dd4bf", theirs="#6e7781", track="#21262d")
# title, section of the figures, (label, figure) of each bar; ours first
PANELS = (
    (
        "One stream, 2B model: writing",
        "whole_model",
        (
            ("Tritium", "ours: decode, 2 threads"),
            ("llama.cpp TQ2_0", "tq2_0: decode, 2 threads"),
            ("llama.cpp TQ1_0", "tq1_0: decode, 2 threads"),
        ),
    ),
    (
        "One stream, 2B model: reading",
        "whole_model",
        (
            ("Tritium", "ours: prefill, 2 threads"),
            ("llama.cpp TQ2_0", "tq2_0: prefill, 2 threads"),
            ("llama.cpp TQ1_0", "tq1_0: prefill, 2 threads"),
        ),
    ),
    (
        "16 streams, 125M model, served",
        "streams",
        (
            ("tritium serve", "tritium serve: tokens_per_s"),
            ("llama-server", "llama-server: tokens_per_s"),
            ("llama-cpp-python server", "llama-cpp-python server: tokens_per_s"),
        ),
    ),
)
FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"
HEIGHT = TOP + 3 * STEP + 34
TRACK = PANEL - NUMBER_ROOM


def picture(content: dict[str, Any], palette: Palette) -> str:
    """Return an SVG of medians in tokens per second, 2 threads, with thin marks from least to largest."""
    machine = content["machine"]
    title = "Tokens per second, the same random ternary weights, 2 threads"
    caption = (
        f"{machine['cores']} cores of {machine['processor']}, {machine['time'][:10]}, "
        f"commit {machine['commit']}; medians, marks from the least to the largest round"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"',
        f' height="{HEIGHT}" role="img" aria-label="{escape(title)}" font-family="{FONT}">',
        text_at(LEFT, 22, title, colour=palette.text, size=15, weight=600),
    ]
    for index, (heading, section, bars) in enumerate(PANELS):
        figures = [(label, Results(content).values(section, name)) for label, name in bars]
        parts += _panel(LEFT + index * (PANEL + GAP), heading, figures, palette)
    parts.append(text_at(LEFT, HEIGHT - 10, caption, colour=palette.quiet, size=11))
    return "\n".join([*parts, "</svg>", ""])


def _panel(x: int, heading: str, bars: Sequence[tuple[str, list[float]]], palette: Palette) -> list[str]:
    parts = [text_at(x, 46, heading, colour=palette.quiet, size=12, weight=600)]
    scale = TRACK / max((value for _, values in bars for value in values), default=1.0)
    for row, (label, values) in enumerate(bars):
        y = TOP + row * STEP
        parts.append(text_at(x, y + 10, label, colour=palette.text, size=12))
        parts.append(_rectangle(x, y + 15, TRACK, palette.track))
        if not values:
            parts.append(text_at(x + 6, y + 28, "not measured", colour=palette.quiet, size=11))
            continue
        middle, low, high = median(values), min(values) * scale, max(values) * scale
        parts.append(_rectangle(x, y + 15, middle * scale, palette.theirs if row else palette.ours))
        if high - low >= 1:
            mark = f"M{x + low:.1f} {y + 24}H{x + high:.1f}"
            parts.append(f'<path d="{mark}" stroke="{palette.text}" stroke-width="1.5"/>')
        number = f"{middle:,.0f}" if middle >= 100 else f"{middle:.1f}"
        at = x + TRACK + 8
        parts.append(text_at(at, y + 29, number, colour=palette.text, size=13, weight=400 if row else 600))
    return parts


def _rectangle(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{max(width, 1):.1f}" height="{BAR}" rx="3" fill="{colour}"/>'


def text_at(
    x: float, y: float, text: str, *, colour: str, size: int, weight: int = 400, anchor: str = ""
) -> str:
    """Return a line of text; `anchor` is "middle" or "end" where it does not start at x."""
    style = f'fill="{colour}" font-size="{size}" font-weight="{weight}"'
    style += f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x}" y="{y}" {style}>{escape(text)}</text>'
