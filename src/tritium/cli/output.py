"""Results on stdout in three formats; progress on stderr."""

# ruff: noqa: PLC0415 - what writes is imported when there is something to write, so that --help stays fast

from __future__ import annotations

import contextlib
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

WIDTH_OF_A_PIPE = 160
FIRST_COLUMN = 18
KIBI = 1024


class OutputFormat(StrEnum):
    """How a command writes its result."""

    HUMAN = "human"
    JSON = "json"
    QUIET = "quiet"


FormatOption = Annotated[
    OutputFormat, typer.Option("--format", help="How the result is written; quiet is the bare value.")
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A model directory, a .safetensors or .gguf file, or a hub name (organisation/model)."
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, max=1024, help="Processor threads; by default all, or fewer that ran faster."
    ),
]


def write_json(data: Mapping[str, Any]) -> None:
    """Write one JSON object as a line on stdout, at once: who reads a server's line does so while it runs."""
    import json

    sys.stdout.write(json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def write_text(text: str) -> None:
    """Write text of a model or a user to stdout at once, without what could steer a terminal."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def write_note(text: str) -> None:
    """Write a line beside the result, on stderr."""
    sys.stderr.write(printable(text) + "\n")


def printable(text: str) -> str:
    """Return the text with control characters other than newline and tab made visible."""
    return "".join(
        character if character in "\n\t" or character.isprintable() or character.isspace() else "\ufffd"
        for character in text
        if character != "\r"
    )


def write_facts(title: str, facts: Iterable[tuple[str, str]]) -> None:
    """Write a title and aligned lines of name and value to stdout; what is empty is left out."""
    rows = [(name, value) for name, value in facts if value]
    write_text("".join(f"{line}\n" for line in [title, *_aligned(rows)] if line))


def write_columns(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a title and, if there are rows, lines under named columns aligned to the left, to stdout."""
    write_text("".join(f"{line}\n" for line in [title, *(_aligned([columns, *rows]) if rows else [])]))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    widths[:1] = [max(FIRST_COLUMN, width) for width in widths[:1]]  # blocks one below the other line up
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [f"  {line}".rstrip() for line in lines]


def write_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table to stdout; columns after the first are aligned to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE)
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)


@contextlib.contextmanager
def progress_bar(output_format: OutputFormat) -> Iterator[Callable[[str, int, int], None]]:
    """Give a function (what, completed, total) that moves a bar on stderr; quiet shows none."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True), disable=output_format is OutputFormat.QUIET)
    task = progress.add_task("", total=None)

    def move(what: str, completed: int, total: int) -> None:
        progress.start()  # only now: work that is refused at once shows no empty bar
        progress.update(task, description=printable(what), completed=completed, total=total)

    try:
        yield move
    finally:
        progress.stop()


def readable_bytes(count: float) -> str:
    """Return a size in the unit a human would use."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < KIBI:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= KIBI
    return f"{count:.2f} TiB"
