"""A quantization report as a human reads it: before and after, next to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritium.cli.output import readable_bytes, write_columns, write_facts, write_note, write_table

if TYPE_CHECKING:
    from collections.abc import Mapping

SIDES = ("", "source", "quantized", "change")
LARGEST_PLAIN = 100_000  # a perplexity beyond this is written with an exponent
LAYER_COLUMNS = ("layer", "strategy", "planes", "group", "bits/weight", "weight error", "output error")


def write_report(title: str, *, metrics: Mapping[str, Any], validation: Mapping[str, Any]) -> None:
    """Write the plain values of QuantizationMetrics and ValidationReport to stdout."""
    write_columns(title, SIDES, [*_sizes(metrics), *_quality(validation)])
    write_facts("", [*_counts(metrics), *_agreement(validation)])


def write_comparison(title: str, validation: Mapping[str, Any]) -> None:
    """Write the plain values of a ValidationReport alone to stdout."""
    write_columns(title, SIDES, _quality(validation))
    write_facts("", _agreement(validation))


def warn_if_broken(validation: Mapping[str, Any]) -> None:
    """Write the findings of a ValidationReport to stderr, whatever format the result has."""
    for finding in validation.get("findings") or []:
        write_note(f"Warning: this model is broken. {finding['message']}")


def write_layers(layers: Mapping[str, Mapping[str, Any]]) -> None:
    """Write what became of every layer, from the manifest's LayerReports, as a table to stdout."""
    rows = [
        [
            name,
            str(layer.get("strategy", "")),
            str(layer["planes"]),
            str(layer["group_size"]),
            _fixed(layer.get("bits_per_weight"), 3),
            "exact" if layer.get("is_lossless") else _fixed(layer.get("weight_error"), 4),
            _fixed(layer.get("output_error"), 4) or "-",
        ]
        for name, layer in sorted(layers.items(), key=_in_depth)
    ]
    write_table("layers (errors are relative root mean squares)", LAYER_COLUMNS, rows)


def _in_depth(item: tuple[str, Any]) -> list[tuple[bool, int, str]]:
    """Return a key that puts layer 2 before layer 10."""
    parts = item[0].split(".")
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def interval(estimate: Mapping[str, Any] | None, *, digits: int) -> str:
    """Return an Estimate's plain values as "value [low, high]"; empty for None."""
    if estimate is None:
        return ""
    text = _fixed(estimate["value"], digits)
    if estimate.get("low") is None:
        return text
    return f"{text} [{_fixed(estimate['low'], digits)}, {_fixed(estimate['high'], digits)}]"


def share(estimate: Mapping[str, Any] | None) -> str:
    """Return an Estimate of a share as "percent [low, high]"; empty for None."""
    if estimate is None:
        return ""
    hundredfold = {name: None if value is None else 100 * value for name, value in estimate.items()}
    return interval(hundredfold, digits=1) + " %"


def _sizes(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    if not metrics:
        return []
    size = metrics["quantized_bytes"]
    sources = {"size": "source_bytes", "against fp32": "float32_bytes", "against fp16": "float16_bytes"}
    rows: list[tuple[str, ...]] = [
        (label, readable_bytes(metrics[name]), readable_bytes(size), f"{size / metrics[name] - 1:+.1%}")
        for label, name in sources.items()
    ]
    before = 8 * metrics["source_bytes"] / metrics["parameters"]
    after = metrics["model_bits_per_parameter"]
    rows.append(("bits per parameter", _fixed(before, 3), _fixed(after, 3), f"{after / before - 1:+.1%}"))
    return rows


def _quality(validation: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    if validation.get("source_perplexity") is not None:
        before, after = (
            interval(validation[f"{side}_perplexity"], digits=2) for side in ("source", "quantized")
        )
        rows.append(("perplexity", before, after, "x" + interval(validation["perplexity_ratio"], digits=3)))
    if validation.get("source_seconds") is not None:
        first, second = validation["source_seconds"], validation["quantized_seconds"]
        rows.append(("time on the text", f"{first:.2f} s", f"{second:.2f} s", f"x{second / first:.2f}"))
    return rows


def _counts(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not metrics:
        return []
    planes = ", ".join(f"{count} with {planes}" for planes, count in sorted(metrics["planes"].items()))
    strategies = ", ".join(f"{count} {name}" for name, count in sorted(metrics["strategies"].items()))
    return [
        (
            "bits per weight",
            (
                f"{metrics['bits_per_weight']:.3f}, of it {metrics['trit_bits_per_weight']:.3f} in trits, in "
                f"{metrics['quantized_parameters']:,} of {metrics['parameters']:,} parameters"
            ),
        ),
        ("layers", f"{metrics['layers']} ({strategies}; trit-planes: {planes})"),
        *_coded(metrics.get("coded", {})),
        ("weight error", f"{metrics['mean_weight_error']:.4f} (relative root mean square, mean over layers)"),
        ("time of the layers", _time(metrics)),
    ]


def _coded(matrices: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [
        (
            name,
            (
                f"codes of {entry['bits']} bits, {entry['bits_per_weight']:.3f} with scales, "
                f"{readable_bytes(entry['stored_bytes'])}, weight error {entry['weight_error']:.4f}"
            ),
        )
        for name, entry in sorted(matrices.items())
    ]


def _time(metrics: Mapping[str, Any]) -> str:
    seconds, speed = metrics.get("seconds"), metrics.get("parameters_per_second")
    return "" if seconds is None or speed is None else f"{seconds:.2f} s, {speed / 1e6:.2f} M parameters/s"


def _agreement(validation: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not validation:
        return []
    if validation.get("reason"):
        return [("quality", validation["reason"])]
    return [
        *(("BROKEN", finding["message"]) for finding in validation.get("findings") or []),
        ("same top token", share(validation.get("top1_agreement"))),
        ("cosine similarity", interval(validation.get("cosine_similarity"), digits=4)),
        ("rank correlation", _fixed(validation.get("rank_correlation"), 4)),
        (
            "measured on",
            f"{validation['tokens']:,} tokens in {validation['samples']:,} samples; [95 % confidence]",
        ),
    ]


def _fixed(value: float | None, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}f}" if abs(value) < LARGEST_PLAIN else f"{value:.4g}"
