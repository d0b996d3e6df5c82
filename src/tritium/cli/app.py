"""The commands under one name."""

from __future__ import annotations

from typing import Annotated

import typer

from tritium.cli.bench import bench
from tritium.cli.chat import chat
from tritium.cli.embed import embed
from tritium.cli.env import env
from tritium.cli.evaluate import evaluate
from tritium.cli.export import export
from tritium.cli.quantize import quantize
from tritium.cli.report import report
from tritium.cli.run import run
from tritium.cli.serve import serve
from tritium.cli.show import show
from tritium.cli.tune import tune

app = typer.Typer(
    name="tritium",
    help="Turns language models into 1.58-bit (ternary) models and runs them on ordinary processors.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich would make --help three times as slow
    pretty_exceptions_enable=False,  # its traceback prints local variables, and with them prompts
)


def _print_version(*, value: bool) -> None:
    if value:
        import tritium  # noqa: PLC0415 - asked for rarely

        typer.echo(tritium.__version__)
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 done, 2 bad input, 3 a part is not installed, 4 not enough memory or disk, "
    "5 try again later, 130 interrupted, 1 anything else."
)
def _program(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command()(quantize)
app.command()(run)
app.command()(chat)
app.command()(embed)
app.command(name="eval")(evaluate)
app.command()(show)
app.command()(report)
app.command()(export)
app.command()(bench)
app.command()(tune)
app.command()(env)
app.command()(serve)
