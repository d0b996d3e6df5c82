"""Small pictures for a terminal, drawn with block characters; every one has its numbers beside it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tritium.cli.output import readable_bytes, write_columns, write_facts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEIGHTS = "▁▂▃▄▅▆▇█"
WIDTHS = "▏▎▍▌▋▊▉█"
EIGHTHS = 8
BAR_WIDTH = 32  # characters
SIZES = {
    "fp32": "float32_bytes",
    "fp16": "float16_bytes",
    "source": "source_bytes",
    "Q4_0": "four_bit_bytes",
    "this model": "quantized_bytes",
}


def write_size_picture(metrics: Mapping[str, Any]) -> None:
    """Write the sizes side by side as bars to stdout."""
    sizes = {label: metrics[name] for label, name in SIZES.items() if name in metrics}
    largest = max(sizes.values())
    rows = [
        (label, f"{horizontal_bar(size / largest):<{BAR_WIDTH}}  {readable_bytes(size)}")
        for label, size in sizes.items()
    ]
    write_facts("sizes", rows)


def write_layer_picture(layers: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the errors of all layers to stdout: a line for each kind, a column for each block."""
    rows = []
    highest = max((loss_of(layer) for layer in layers.values()), default=0.0)
    for role, found in by_role(layers).items():
        losses = [loss_of(layer) for _, layer in found]
        columns = "".join(vertical_bar(loss, highest=highest) for loss in losses)
        planes = "".join(str(layer["planes"]) for _, layer in found)
        is_exact = all(layer.get("is_lossless") for _, layer in found)
        reach = "exact" if is_exact else f"{min(losses):.4f} to {max(losses):.4f}"
        rows.append((role, columns, reach, planes))
    title = "error by layer, block after block (of the output on the calibration text, else of the weights)"
    write_columns(title, ("", "error", "from, to", "trit-planes"), rows)


def horizontal_bar(share: float, *, width: int = BAR_WIDTH) -> str:
    """Return a bar of a share of the full width, to an eighth of a character; never nothing for something."""
    eighths = max(round(EIGHTHS * width * share), 1 if share > 0 else 0)
    whole, rest = divmod(eighths, EIGHTHS)
    return WIDTHS[-1] * whole + (WIDTHS[rest - 1] if rest else "")


def vertical_bar(value: float, *, highest: float) -> str:
    """Return one character as high as the value's share of the highest; a blank for nothing."""
    if not value > 0 or not highest > 0:
        return " "
    return HEIGHTS[min(math.ceil(EIGHTHS * value / highest), EIGHTHS) - 1]


def loss_of(layer: Mapping[str, Any]) -> float:
    """Return the error that a layer is judged by: of its output where that was measured."""
    measured = layer.get("output_error")
    return float(layer["weight_error"] if measured is None else measured)


def by_role(
    layers: Mapping[str, Mapping[str, Any]],
) -> dict[str, Sequence[tuple[int, Mapping[str, Any]]]]:
    """Return (block, layer) of all layers by what they are in a block, in the order of the blocks."""
    found: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for name, layer in layers.items():
        parts = name.split(".")
        place = next((index for index, part in enumerate(parts) if part.isdecimal()), None)
        block, role = (0, name) if place is None else (int(parts[place]), ".".join(parts[place + 1 :]))
        found.setdefault(role, []).append((block, layer))
    return {role: sorted(found[role], key=lambda item: item[0]) for role in sorted(found)}
