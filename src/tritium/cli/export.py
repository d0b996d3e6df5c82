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

Out = Annotated[Path, typer.Argument(metavar="OUT", help="The file to write; it is replaced if it is there.")]
To = Annotated[str, typer.Option("--to", help="The format of the file: gguf.")]
Ternary = Annotated[
    str,
    typer.Option(
        "--type",
        help="Ternary layers: tq2_0 (2.06 bits), tq1_0 (1.69 bits), or i2_s for bitnet.cpp (2 bits).",
    ),
]
Embedding = Annotated[str, typer.Option(help="Embeddings and head: q6_k, q8_0, f16 or f32.")]


def export(
    model: ModelArgument,
    out: Out,
    *,
    to: To = "gguf",
    ternary: Ternary = "tq2_0",
    embedding: Embedding = "q6_k",
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Write a ternary llama as a GGUF file for llama.cpp; what does not fit without loss is refused."""
    from tritium.errors import ValidationError
    from tritium.model.export_gguf import export_gguf

    if to != "gguf":
        raise ValidationError(f"--to must be gguf, not {to!r}.")
    report = export_gguf(model, out, ternary_type=ternary, embedding_type=embedding)
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
