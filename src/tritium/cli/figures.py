"""Figures in words, the same on a terminal and on a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritium.kernels.measure import Candidate, Product
    from tritium.quantize.timing import Timing

PERCENT = 100
LARGEST_PLAIN = 100_000  # a perplexity beyond this is written with an exponent


def interval(estimate: Mapping[str, Any] | None, *, digits: int) -> str:
    """Return an Estimate's plain values as "value [low, high]"; empty for None."""
    if estimate is None:
        return ""
    text = fixed(estimate["value"], digits)
    if estimate.get("low") is None:
        return text
    return f"{text} [{fixed(estimate['low'], digits)}, {fixed(estimate['high'], digits)}]"


def share(estimate: Mapping[str, Any] | None) -> str:
    """Return an Estimate of a share as "percent [low, high]"; empty for None."""
    if estimate is None:
        return ""
    hundredfold = {name: None if value is None else PERCENT * value for name, value in estimate.items()}
    return interval(hundredfold, digits=1) + " %"


def budget(
    config: Mapping[str, Any], metrics: Mapping[str, Any], validation: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return what a budget of the whole model asked for and what came of it; nothing where there was none."""
    unit = "nats per token" if validation.get("kind") == "generator" else "1 - cosine"
    predicted, measured = metrics.get("predicted_loss"), interval(validation.get("loss"), digits=4)
    told = [f"{fixed(predicted, 4)} predicted without compensation"] if predicted is not None else []
    told += [f"{measured} measured"] if measured else []
    asked = config.get("target_loss")
    if config.get("average_bits") is not None:
        bits = f"{fixed(metrics.get('bits_per_weight'), 3)} of {config['average_bits']} asked for"
        return [("bit budget", bits), *([("loss", f"{', '.join(told)} ({unit})")] if told else [])]
    if asked is None:
        return []
    return [("loss budget", f"{asked} asked for, {', '.join(told)} ({unit})")]


def machine(timing: Timing) -> str:
    """Return what a run was timed on."""
    return f"{timing.processor}, {timing.isa}, {counted(timing.threads)}, tritium {timing.library}"


def choice(candidates: Sequence[Candidate], product: Product | None) -> str:
    """Return by what figures instruction set and threads were chosen; empty if nothing was measured."""
    if not candidates or product is None:
        return ""
    first, *others = (f"{each.isa} on {counted(each.threads)} {each.gops:.3g}" for each in candidates)
    shape = f"{product.out_features} x {product.in_features} by {product.rows}"
    return f"{first} GOPS in a ternary product of {shape}, against {', '.join(others)}"


def counted(threads: int) -> str:
    """Return a number of threads in words."""
    return f"{threads} {'thread' if threads == 1 else 'threads'}"


def layers_in_order(layers: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the layers with their names, those of layer 2 before those of layer 10."""
    return sorted(layers.items(), key=_in_depth)


def table_form(entry: Mapping[str, Any]) -> str:
    """Return what an embedding or a head became."""
    planes = entry.get("planes")
    if planes is None:
        return f"codes of {entry['bits']} bits"
    return "1 trit-plane of 1.6 bits" if planes == 1 else f"{planes} trit-planes of 1.6 bits"


def scale_span(layer: Mapping[str, Any]) -> str:
    """Return what shares a scale in a layer: so many weights, or what had one in a ternary source."""
    kept = layer.get("source_scales")
    return str(layer["group_size"]) if kept in {None, "group"} else str(kept)


def _in_depth(item: tuple[str, Any]) -> list[tuple[bool, int, str]]:
    """Return a key that puts layer 2 before layer 10."""
    parts = item[0].split(".")
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def fixed(value: float | None, digits: int) -> str:
    """Return a number with so many decimals; empty for None."""
    if value is None:
        return ""
    return f"{value:.{digits}f}" if abs(value) < LARGEST_PLAIN else f"{value:.4g}"
