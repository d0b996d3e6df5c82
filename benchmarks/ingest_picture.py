"""The pictures of what an event costs as the table grows.

    python benchmarks/ingest_picture.py

They show the figures of docs/measurements/ingest-random.json and ingest-ordered.json, which
`ingest.py --record` writes.
"""

from __future__ import annotations

import json
import math
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side_by_side.picture import DARK, FONT, LIGHT, Palette, text_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DOCS = Path(__file__).resolve().parent.parent / "docs"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 880, 300, 52, 820, 78, 236
STEP_US, LEAST_TOP_US = 20, 40  # both pictures have one scale
SERIES = (("server_us", "the server"), ("database_us", "its database connections"))


def draw() -> None:
    """Write both pictures for a light and a dark page."""
    for ids in ("random", "ordered"):
        record = DOCS / "measurements" / f"ingest-{ids}.json"
        content = json.loads(record.read_text(encoding="utf-8"))
        for mode, palette in (("light", LIGHT), ("dark", DARK)):
            path = DOCS / "pictures" / f"ingest-{ids}-{mode}.svg"
            path.write_text(picture(content, palette, ids=ids), encoding="utf-8")


def picture(content: dict[str, Any], palette: Palette, *, ids: str) -> str:
    """Return an SVG: microseconds of processor per event from zero, rows in the table by decades."""
    runs = [each for each in content["runs"] if each["accepted"] and each["rows_before"]]
    grown = [each for each in runs if each.get("table", "grown") == "grown"]
    small = [each for each in runs if each.get("table") == "small"]
    title = f"Microseconds of processor per event with {ids} ids, by the rows that are there already"
    machine, loads = content["machine"], [each["load_average"] for each in runs]
    place = f"{machine['processor']}, {machine['cores']} cores"
    caption = f"{place}, load {min(loads):g} to {max(loads):g}, {content['date']}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"',
        f' height="{HEIGHT}" role="img" aria-label="{escape(title)}" font-family="{FONT}">',
        text_at(LEFT, 22, title, colour=palette.text, size=15, weight=600),
        *_lines(grown, small, palette),
        text_at(LEFT, HEIGHT - 10, caption, colour=palette.quiet, size=11),
    ]
    return "\n".join([*parts, "</svg>", ""])


def _lines(
    runs: Sequence[dict[str, Any]], small: Sequence[dict[str, Any]], palette: Palette
) -> Iterator[str]:
    fewest, most = (math.log10(end(each["rows_before"] for each in runs)) for end in (min, max))
    most_us = max(each[name] for each in (*runs, *small) for name, _ in SERIES)
    top = max(LEAST_TOP_US, STEP_US * (int(most_us // STEP_US) + 1))

    def place(rows: int, value: float) -> tuple[float, float]:
        share = (math.log10(rows) - fewest) / (most - fewest)
        return LEFT + (RIGHT - LEFT) * share, BOTTOM - (BOTTOM - TOP) * value / top

    for tick in range(0, top + 1, STEP_US):
        _, y = place(runs[0]["rows_before"], tick)
        yield f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="{palette.track}"/>'
        yield text_at(LEFT - 8, y + 4, f"{tick}", colour=palette.quiet, size=11, anchor="end")
    for power in range(math.ceil(fewest), round(most) + 1):
        x, _ = place(10**power, 0)
        yield text_at(x, BOTTOM + 16, f"{10**power:,}", colour=palette.quiet, size=11, anchor="middle")
    for row, (name, label) in enumerate(SERIES):
        colour = palette.theirs if row else palette.ours
        points = [place(each["rows_before"], each[name]) for each in runs]
        for (x1, y1), (x2, y2) in pairwise(points):
            yield f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}" stroke-width="2"/>'
        for x, y in points:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
        for x, y in (place(each["turn_at"], each[name]) for each in small):
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="none" stroke="{colour}"/>'
        yield f'<circle cx="{LEFT + 5 + 190 * row}" cy="46" r="5" fill="{colour}"/>'
        yield text_at(LEFT + 15 + 190 * row, 50, label, colour=palette.quiet, size=11)
    if small:
        label = "the same in a small table, in turns with it"
        yield f'<circle cx="{LEFT + 385}" cy="46" r="4" fill="none" stroke="{palette.theirs}"/>'
        yield text_at(LEFT + 395, 50, label, colour=palette.quiet, size=11)


if __name__ == "__main__":
    draw()
