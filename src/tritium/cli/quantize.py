"""`tritium quantize`: from a checkpoint to a ternary model, with a report."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritium.cli.output import (
    FormatOption,
    ModelArgument,
    OutputFormat,
    ThreadsOption,
    progress_bar,
    write_json,
    write_note,
    write_text,
)
from tritium.cli.report import warn_if_broken, write_report

if TYPE_CHECKING:
    from tritium.model.pretrained import QuantizedModel
    from tritium.quantize.config import QuantizationConfig
    from tritium.quantize.report import QuantizationProgress


Out = Annotated[Path, typer.Option("--out", help="A new or empty directory for the model.")]
# A default is told and not set here: it belongs to QuantizationConfig.
Settings = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="JSON of QuantizationConfig's fields, with layers; options win over it.",
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="fast, balanced, best (by torch) or native.  [default: balanced with --calibration, else fast]",
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(help="auto, standard, absmean, adaptive or compensated.  [default: auto]", metavar="NAME"),
]
GroupSize = Annotated[int | None, typer.Option(help="Weights that share a scale; 0 = a row.  [default: 128]")]
MinPlanes = Annotated[int | None, typer.Option(help="Trit-planes a layer starts with.  [default: 1]")]
MaxPlanes = Annotated[int | None, typer.Option(help="Trit-planes a layer may get.  [default: 3]")]
MaxLoss = Annotated[
    float | None, typer.Option(help="Error above which a layer gets one more plane.  [default: 0.5]")
]
AverageBits = Annotated[
    float | None,
    typer.Option(
        metavar="BITS",
        help="Bits per weight of all linear layers together, scales included; planes go where they help.",
    ),
]
TargetLoss = Annotated[
    float | None,
    typer.Option(
        metavar="LOSS",
        help="The smallest model predicted to lose no more: nats per token, or 1 - cosine for encoders.",
    ),
]
EmbeddingBits = Annotated[
    int | None,
    typer.Option(
        metavar="BITS",
        help="6 or 8 for embedding and head; 16 = as in the source.  [default: 6; 16 if it is ternary]",
    ),
]
EmbeddingPlanes = Annotated[
    int | None,
    typer.Option(metavar="N", help="Embedding and head become ternary, with 1 to 3 trit-planes."),
]
Calibration = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Text whose activations judge each layer.")
]
Validation = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Held-out text both models are run on afterwards.")
]
ValidationTokens = Annotated[int | None, typer.Option(help="At most so many tokens of it.  [default: 16384]")]


def quantize(
    source: ModelArgument,
    *,
    out: Out,
    settings: Settings = None,
    profile: ProfileOption = None,
    strategy: Strategy = None,
    group_size: GroupSize = None,
    min_planes: MinPlanes = None,
    max_planes: MaxPlanes = None,
    max_loss: MaxLoss = None,
    average_bits: AverageBits = None,
    target_loss: TargetLoss = None,
    embedding_bits: EmbeddingBits = None,
    embedding_planes: EmbeddingPlanes = None,
    calibration: Calibration = None,
    validation: Validation = None,
    validation_tokens: ValidationTokens = None,
    threads: ThreadsOption = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Quantize a model to ternary weights and report what came of it."""
    from tritium.formats.native import is_native
    from tritium.quantize.config import QuantizationConfig

    asked = {
        "profile": profile,
        "strategy": strategy,
        "group_size": group_size,
        "min_planes": min_planes,
        "max_planes": max_planes,
        "max_acceptable_loss": max_loss,
        "average_bits": average_bits,
        "target_loss": target_loss,
        "embedding_bits": embedding_bits,
        "embedding_planes": embedding_planes,
        "calibration_text": None if calibration is None else {"path": str(calibration)},
        "validation_text": None if validation is None else {"path": str(validation)},
        "validation_tokens": validation_tokens,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    config = QuantizationConfig.from_dict(_read_settings(settings) | given)
    was_there = is_native(out)
    model = _quantize(source, config, out=out, threads=threads, output_format=output_format)
    if was_there and output_format is OutputFormat.HUMAN:
        write_note(f"{out} holds this model already; nothing was computed again.")
    _tell(model, out, output_format=output_format)


def _quantize(
    source: str, config: QuantizationConfig, *, out: Path, threads: int | None, output_format: OutputFormat
) -> QuantizedModel:
    from tritium.quantize.pipeline import quantize_model

    try:
        with progress_bar(output_format) as move:

            def tell(step: QuantizationProgress) -> None:
                detail = f" {step.layer}" if step.layer else ""
                move(f"{step.stage}{detail}", step.completed, step.total)

            return quantize_model(source, config, out=out, threads=threads, progress=tell)
    except KeyboardInterrupt:
        write_note("Interrupted. The same command goes on where it stopped.")
        raise


def _tell(model: QuantizedModel, out: Path, *, output_format: OutputFormat) -> None:
    """Write what came of it, with all that is to be warned of."""
    rounded = model.manifest.get("quantization", {}).get("source_rounded_tensors", {})
    if rounded:
        counted = ", ".join(f"{count} of {kind}" for kind, count in rounded.items())
        write_note(
            f"Warning: the source is already quantized (dequantized tensors: {counted}). What it lost then "
            "is lost, and the report compares with it as it is; take the original model if you can get it."
        )
    for warning in model.warnings:
        write_note(f"Warning: {warning}")
    content = {
        "path": str(out),
        "source_rounded_tensors": rounded,
        "metrics": model.metrics,
        "validation_report": model.validation_report,
        "warnings": list(model.warnings),
    }
    if output_format is OutputFormat.JSON:
        write_json(content)
    elif output_format is OutputFormat.QUIET:
        write_text(f"{out}\n")
    else:
        config = model.manifest["quantization"]["config"]
        write_report(str(out), metrics=model.metrics, validation=model.validation_report, config=config)
    warn_if_broken(model.validation_report)


def _read_settings(file: Path | None) -> dict[str, Any]:
    from tritium.formats.strict_json import LARGEST_JSON, parse_json_object
    from tritium.formats.weight_file import read_small_file

    return {} if file is None else parse_json_object(read_small_file(file, limit=LARGEST_JSON), file=file)
