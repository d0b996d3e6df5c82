"""A quantization report as a human reads it: before and after, next to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritium.cli.output import readable_bytes, write_facts

if TYPE_CHECKING:
    from collections.abc import Mapping


def write_report(title: str, *, metrics: Mapping[str, Any], validation: Mapping[str, Any]) -> None:
    """Write the plain values of QuantizationMetrics and ValidationReport to stdout."""
    write_facts(title, [*_sizes(metrics), *comparison(validation)])


def _sizes(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not metrics:
        return []
    size = readable_bytes(metrics["quantized_bytes"])
    planes = ", ".join(f"{count} with {planes}" for planes, count in sorted(metrics["planes"].items()))
    strategies = ", ".join(f"{count} {name}" for name, count in sorted(metrics["strategies"].items()))
    return [
        ("size", f"{readable_bytes(metrics['source_bytes'])} -> {size}"),
        (
            "against fp32",
            f"{readable_bytes(metrics['float32_bytes'])}, {-metrics['reduction_to_float32']:+.1%}",
        ),
        (
            "against fp16",
            f"{readable_bytes(metrics['float16_bytes'])}, {-metrics['reduction_to_float16']:+.1%}",
        ),
        (
            "bits per weight",
            f"{metrics['bits_per_weight']:.3f} in {metrics['quantized_parameters']:,} weights",
        ),
        (
            "of the whole model",
            f"{metrics['model_bits_per_parameter']:.3f} in {metrics['parameters']:,} parameters",
        ),
        ("layers", f"{metrics['layers']} ({strategies}; trit-planes: {planes})"),
        ("weight error", f"{metrics['mean_weight_error']:.4f} (relative root mean square, mean over layers)"),
        ("time", _time(metrics)),
    ]


def _time(metrics: Mapping[str, Any]) -> str:
    seconds, speed = metrics.get("seconds"), metrics.get("parameters_per_second")
    return "" if seconds is None or speed is None else f"{seconds:.2f} s, {speed / 1e6:.2f} M parameters/s"


def comparison(validation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of a ValidationReport's plain values; empty without one."""
    if not validation:
        return []
    if validation.get("reason"):
        return [("quality", validation["reason"])]
    before, after = validation.get("source_perplexity"), validation.get("quantized_perplexity")
    both = "" if before is None or after is None else f"{interval(before)} -> {interval(after)}"
    return [
        ("perplexity", both),
        ("ratio", interval(validation.get("perplexity_ratio"))),
        ("same top token", interval(validation.get("top1_agreement"))),
        ("cosine similarity", interval(validation.get("cosine_similarity"))),
        ("rank correlation", _number(validation.get("rank_correlation"))),
        ("measured on", f"{validation['tokens']:,} tokens in {validation['samples']:,} samples"),
        ("time of the models", _times(validation)),
    ]


def _times(validation: Mapping[str, Any]) -> str:
    before, after = validation.get("source_seconds"), validation.get("quantized_seconds")
    return "" if before is None or after is None else f"{before:.2f} s -> {after:.2f} s"


def interval(estimate: Mapping[str, Any] | None) -> str:
    """Return an Estimate's plain values as "value [low, high]"; empty for None."""
    if estimate is None:
        return ""
    text = _number(estimate["value"])
    if estimate.get("low") is None:
        return text
    return f"{text} [{_number(estimate['low'])}, {_number(estimate['high'])}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
