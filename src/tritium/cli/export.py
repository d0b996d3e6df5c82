"""`tritium export`: a model in a format that other programs read."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritium.cli.output import (
    FormatOption,
    ModelArgument,
    OutputFormat,
    readable_bytes,
    write_facts,
    write_json,
    write_note,
    write_text,
)

Out = Annotated[
    Path,
    typer.Argument(
        metavar="OUT",
        help="The GGUF file, which is replaced if it is there; or a new or empty directory (huggingface).",
    ),
]
To = Annotated[str, typer.Option("--to", help="gguf, or huggingface for packed safetensors.")]
Ternary = Annotated[
    str,
    typer.Option(
        "--type",
        help="Ternary layers of GGUF: tq2_0 (2.06 bits), tq1_0 (1.69 bits), or i2_s for bitnet.cpp (2 bits).",
    ),
]
Embedding = Annotated[str, typer.Option(help="Embeddings and head of GGUF: q6_k, q8_0, f16 or f32.")]
LinearClass = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="huggingface: bitlinear (scales divide) or autobitlinear (they multiply); by default as stored.",
    ),
]


def export(
    model: ModelArgument,
    out: Out,
    *,
    to: To = "gguf",
    ternary: Ternary = "tq2_0",
    embedding: Embedding = "q6_k",
    linear_class: LinearClass = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Write a ternary model for other programs; what does not fit without loss is refused."""
    from tritium.errors import ValidationError
    from tritium.model.export_gguf import export_gguf
    from tritium.model.export_huggingface import export_huggingface

    if to == "gguf":
        report = export_gguf(model, out, ternary_type=ternary, embedding_type=embedding)
    elif to == "huggingface":
        report = export_huggingface(model, out, linear_class=linear_class)
    else:
        raise ValidationError(f"--to must be gguf or huggingface, not {to!r}.")
    if output_format is OutputFormat.JSON:
        write_json(report.to_dict())
        return
    if output_format is OutputFormat.QUIET:
        write_text(f"{out}\n")
    else:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.tensor_types.items()))
        rounding = report.largest_scale_rounding
        facts = [
            ("size", readable_bytes(report.bytes)),
            ("tensors", kinds),
            ("scales", f"rounded by at most {rounding:.1e} of their value" if rounding else "exact"),
        ]
        write_facts(str(out), facts)
    for note in report.notes:
        write_note(f"Note: {note}")
