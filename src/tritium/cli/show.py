"""`tritium show`: what a model directory holds."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritium.cli.output import (
    FormatOption,
    ModelArgument,
    OutputFormat,
    readable_bytes,
    write_facts,
    write_json,
    write_table,
    write_text,
)
from tritium.cli.report import write_layers, write_report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium.formats.checkpoint import Checkpoint

Tensors = Annotated[bool, typer.Option("--tensors", help="List every tensor.")]
CONFIG_SHOWN = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)


def show(
    model: ModelArgument, *, tensors: Tensors = False, output_format: FormatOption = OutputFormat.HUMAN
) -> None:
    """Verify a model and show what it holds. A quantized one also shows its layers and its report."""
    from tritium.formats.native import is_native, open_native
    from tritium.model.gguf_model import open_model

    if is_native(model):
        with open_native(model) as native:
            _write(model, native.checkpoint, native.manifest, tensors=tensors, output_format=output_format)
        return
    with open_model(model) as checkpoint:
        _write(model, checkpoint, None, tensors=tensors, output_format=output_format)


def _write(
    model: str,
    checkpoint: Checkpoint,
    manifest: Mapping[str, Any] | None,
    *,
    tensors: bool,
    output_format: OutputFormat,
) -> None:
    content = _content(model, checkpoint, manifest)
    if output_format is OutputFormat.JSON:
        listed = {
            name: {"dtype": info.dtype, "shape": list(info.shape), "bytes": info.nbytes}
            for name, info in checkpoint.tensors.items()
        }
        write_json({**content, "tensors": listed} if tensors else content)
        return
    if output_format is OutputFormat.QUIET:
        write_text(f"{content['format']}\n")
        return
    _write_facts(content)
    if manifest is not None:
        write_layers(content["layers"])
        write_report(
            "quantization",
            metrics=content["metrics"],
            validation=content["validation_report"],
            config=manifest.get("quantization", {}).get("config"),
        )
    if tensors:
        rows = [
            [name, info.dtype, " x ".join(map(str, info.shape)), f"{info.nbytes:,}"]
            for name, info in checkpoint.tensors.items()
        ]
        write_table("tensors", ["name", "dtype", "shape", "bytes"], rows)


def _content(model: str, checkpoint: Checkpoint, manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    from tritium.formats.bitnet_hf import detect_ternary_convention

    dtypes: dict[str, int] = {}
    for info in checkpoint.tensors.values():
        dtypes[info.dtype] = dtypes.get(info.dtype, 0) + info.nbytes
    content: dict[str, Any] = {
        "path": model,
        "format": checkpoint.format
        if manifest is None
        else f"{manifest['format']} {manifest['format_version']}",
        "config": checkpoint.config or (manifest or {}).get("config", {}),
        "tensor_count": len(checkpoint.tensors),
        "elements": sum(math.prod(info.shape) for info in checkpoint.tensors.values()),
        "bytes": checkpoint.total_bytes,
        "bytes_by_dtype": dtypes,
    }
    if manifest is None:
        content["ternary_convention"] = detect_ternary_convention(checkpoint.config).value
        content["ternary_layers"] = len(checkpoint.linears)
    else:
        content["metrics"] = manifest.get("metrics", {})
        content["validation_report"] = manifest.get("validation_report", {})
        content["layers"] = manifest.get("linears", {})
        quantization = manifest.get("quantization", {})
        content["source_rounded_tensors"] = quantization.get("source_rounded_tensors", {})
    return content


def _write_facts(content: dict[str, Any]) -> None:
    config = content["config"]
    parts = ", ".join(f"{dtype} {readable_bytes(size)}" for dtype, size in content["bytes_by_dtype"].items())
    rounded = ", ".join(f"{n} of {kind}" for kind, n in content.get("source_rounded_tensors", {}).items())
    layers = content.get("ternary_layers")
    facts = [
        ("format", content["format"]),
        ("ternary", f"{layers} layers" if layers else content.get("ternary_convention", "")),
        ("already quantized in the source", rounded),
        ("tensors", f"{content['tensor_count']} of {readable_bytes(content['bytes'])} ({parts})"),
        *((name, str(config[name])) for name in CONFIG_SHOWN if name in config),
    ]
    write_facts(content["path"], facts)
