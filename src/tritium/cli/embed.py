"""`tritium embed`: texts to vectors."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tritium.cli.output import (
    FormatOption,
    ModelArgument,
    OutputFormat,
    ThreadsOption,
    write_json,
    write_table,
    write_text,
)
from tritium.cli.standard_input import read_standard_input

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Texts = Annotated[list[str] | None, typer.Argument(help="Texts; by default the lines of stdin.")]
LONGEST_SHOWN = 60
MOST_COMPARED = 12


def embed(
    model: ModelArgument,
    texts: Texts = None,
    *,
    threads: ThreadsOption = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Turn texts into vectors. They have length 1; human shows how similar they are."""
    from tritium.engine.llm import LLM

    given = texts or [line for line in read_standard_input("one text per line").splitlines() if line.strip()]
    with LLM(model, threads=threads) as llm:
        vectors = llm.embed(given)
    if output_format is OutputFormat.JSON:
        write_json({"dimensions": int(vectors.shape[1]), "embeddings": vectors.tolist()})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(" ".join(map(repr, row)) + "\n" for row in vectors.tolist()))
    else:
        _write_similarities(given, vectors)


def _write_similarities(texts: list[str], vectors: NDArray[np.float32]) -> None:
    shown = min(len(texts), MOST_COMPARED)
    similarities = vectors @ vectors[:shown].T
    rows = [
        [f"{index + 1}  {_shortened(text)}", *(f"{value:.3f}" for value in similarities[index])]
        for index, text in enumerate(texts)
    ]
    title = f"Cosine similarity of {len(texts)} vectors of {vectors.shape[1]} dimensions"
    write_table(title, ["text", *(str(index + 1) for index in range(shown))], rows)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SHOWN else line[: LONGEST_SHOWN - 3] + "..."
