"""A quantization report as a human reads it: before and after, next to each other; `tritium report`."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritium.cli.figures import (
    budget,
    choice,
    fixed,
    interval,
    layers_in_order,
    machine,
    scale_span,
    share,
    table_form,
)
from tritium.cli.output import (
    FormatOption,
    OutputFormat,
    readable_bytes,
    write_columns,
    write_facts,
    write_json,
    write_note,
    write_table,
    write_text,
)
from tritium.cli.pictures import write_layer_picture, write_size_picture

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium.quantize.model_report import ModelReport

Model = Annotated[str, typer.Argument(help="A model directory that `tritium quantize` wrote.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Write one HTML page with pictures; it is replaced."),
]
SIDES = ("", "source", "quantized", "change")
MILLION = 1_000_000
BITS = 8  # of a byte
LAYER_COLUMNS = ("layer", "strategy", "planes", "group", "bits/weight", "weight error", "output error")


def report(model: Model, *, out: Out = None, output_format: FormatOption = OutputFormat.HUMAN) -> None:
    """Show what a quantization measured, with pictures. With --out, as a page for a browser."""
    from tritium.errors import ValidationError

    try:
        _report(model, out, output_format=output_format)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValidationError(f"The report of {model} is damaged: {error!r}.", file="tritium.json") from error


def _report(model: str, out: Path | None, *, output_format: OutputFormat) -> None:
    from tritium.quantize.model_report import open_report

    found = open_report(model)
    if out is not None:
        from tritium.cli.page import render_page
        from tritium.formats.storage import write_file_atomically

        write_file_atomically(out, [render_page(found).encode("utf-8")])
    if output_format is OutputFormat.JSON:
        write_json(found.to_dict())
    elif output_format is OutputFormat.QUIET:
        write_text(f"{out}\n" if out else "")
    elif out is not None:
        write_note(f"The report of {model} is in {out}.")
    else:
        write_everything(model, found)


def write_everything(title: str, found: ModelReport) -> None:
    """Write a report with its pictures to stdout."""
    config = found.quantization.get("config", {})
    write_report(title, metrics=found.metrics, validation=found.validation, config=config)
    write_facts("", [("warning", warning) for warning in found.quantization.get("warnings", [])])
    if found.metrics:
        write_size_picture(found.metrics)
    write_layer_picture(found.layers)
    for number, sample in enumerate(found.samples, start=1):
        sides = [(name, " ".join(sample[name].split())) for name in ("prompt", "source", "quantized")]
        write_facts(f"sample {number}", sides)
    for near in found.neighbourhoods:
        sides = [(side, text) for side in ("source", "quantized") for text in getattr(near, side)]
        write_facts(f"nearest to: {near.passage}", sides)
    write_facts("", _machine(found))


def _machine(found: ModelReport) -> list[tuple[str, str]]:
    timing = found.timing
    if timing is None:
        return [("speed", "not known here: its file was not beside the model; `tritium bench` measures it")]
    chosen = choice(timing.candidates, timing.product)
    return [("timed on", machine(timing)), ("chosen by measurement", chosen)]


def write_report(
    title: str,
    *,
    metrics: Mapping[str, Any],
    validation: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write the plain values of QuantizationMetrics, ValidationReport and the configuration to stdout."""
    write_columns(title, SIDES, [*_sizes(metrics), *_quality(validation)])
    facts = [*_counts(metrics), *budget(config or {}, metrics, validation)]
    write_facts("", [*facts, *_in_four_bits(metrics, validation), *_agreement(validation)])


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
    has_sensitivity = any(layer.get("sensitivity") is not None for layer in layers.values())
    rows = [
        [
            name,
            str(layer.get("strategy", "")),
            str(layer["planes"]),
            scale_span(layer),
            fixed(layer.get("bits_per_weight"), 3),
            "exact" if layer.get("is_lossless") else fixed(layer.get("weight_error"), 4),
            fixed(layer.get("output_error"), 4) or "-",
            *([fixed(layer.get("sensitivity"), 5)] if has_sensitivity else []),
        ]
        for name, layer in layers_in_order(layers)
    ]
    columns = (*LAYER_COLUMNS, "sensitivity") if has_sensitivity else LAYER_COLUMNS
    write_table("layers (errors are relative root mean squares)", columns, rows)


def _sizes(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    if not metrics:
        return []
    size = metrics["quantized_bytes"]
    sources = {
        "size": "source_bytes",
        "against fp32": "float32_bytes",
        "against fp16": "float16_bytes",
        "against Q4_0": "four_bit_bytes",
    }
    rows: list[tuple[str, ...]] = [
        (label, readable_bytes(metrics[name]), readable_bytes(size), f"{size / metrics[name] - 1:+.1%}")
        for label, name in sources.items()
        if name in metrics
    ]
    before = BITS * metrics["source_bytes"] / metrics["parameters"]
    after = metrics["model_bits_per_parameter"]
    rows.append(("bits per parameter", fixed(before, 3), fixed(after, 3), f"{after / before - 1:+.1%}"))
    return rows


def _quality(validation: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    if validation.get("source_perplexity") is not None:
        before, after = (
            interval(validation[f"{side}_perplexity"], digits=2) for side in ("source", "quantized")
        )
        rows.append(("perplexity", before, after, "x" + interval(validation["perplexity_ratio"], digits=3)))
    for label, name in (("tokens/s, reading", "prefill_speed"), ("tokens/s, writing", "decode_speed")):
        first, second = (validation.get(f"{side}_{name}") for side in ("source", "quantized"))
        if first and second:
            rows.append((label, f"{first:.1f}", f"{second:.1f}", f"x{second / first:.2f}"))
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
                f"{table_form(entry)}, {entry['bits_per_weight']:.3f} with scales, "
                f"{readable_bytes(entry['stored_bytes'])}, weight error {entry['weight_error']:.4f}"
            ),
        )
        for name, entry in sorted(matrices.items())
    ]


def _time(metrics: Mapping[str, Any]) -> str:
    seconds, speed = metrics.get("seconds"), metrics.get("parameters_per_second")
    return (
        "" if seconds is None or speed is None else f"{seconds:.2f} s, {speed / MILLION:.2f} M parameters/s"
    )


def _agreement(validation: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not validation:
        return []
    if validation.get("reason"):
        return [("quality", validation["reason"])]
    return [
        *(("BROKEN", finding["message"]) for finding in validation.get("findings") or []),
        ("top token right", _before_and_after(validation)),
        ("same top token", share(validation.get("top1_agreement"))),
        ("cosine similarity", interval(validation.get("cosine_similarity"), digits=4)),
        ("rank correlation", fixed(validation.get("rank_correlation"), 4)),
        (
            "measured on",
            f"{validation['tokens']:,} tokens in {validation['samples']:,} samples; [95 % confidence]",
        ),
    ]


def four_bit_quality(four_bit: Mapping[str, Any] | None) -> str:
    """Return in a line how the source in four bits does on the same text; empty where it was not run."""
    if not four_bit:
        return ""
    if four_bit["perplexity"] is not None:
        ratio = interval(four_bit["perplexity_ratio"], digits=3)
        return f"perplexity {interval(four_bit['perplexity'], digits=2)}, x{ratio}"
    return f"cosine similarity {interval(four_bit['cosine_similarity'], digits=4)}"


def _in_four_bits(metrics: Mapping[str, Any], validation: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "four_bit_bytes" not in metrics:
        return []
    quality = four_bit_quality(validation.get("four_bit"))
    return [
        ("in Q4_0 instead", ", ".join(filter(None, [readable_bytes(metrics["four_bit_bytes"]), quality])))
    ]


def _before_and_after(validation: Mapping[str, Any]) -> str:
    before, after = (share(validation.get(f"{side}_top1_accuracy")) for side in ("source", "quantized"))
    return f"{before} before, {after} after" if before and after else ""
