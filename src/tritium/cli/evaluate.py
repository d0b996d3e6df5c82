"""`tritium eval`: how well a model predicts a text, alone or beside another; or its report computed again."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritium.cli.figures import interval, share
from tritium.cli.output import (
    FormatOption,
    ModelArgument,
    OutputFormat,
    ThreadsOption,
    progress_bar,
    write_facts,
    write_json,
    write_text,
)
from tritium.cli.report import warn_if_broken, write_comparison
from tritium.errors import ValidationError

TextOption = Annotated[
    Path | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="UTF-8 text; blank lines separate documents. Without one the report is computed again.",
    ),
]
Against = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Compare with this model, on the same text; the original.")
]
Window = Annotated[int, typer.Option(min=2, help="Tokens of context per window.")]
MostTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=2, help="Take so many tokens, spread over the text.")
]


def evaluate(
    model: ModelArgument,
    *,
    text: TextOption = None,
    against: Against = None,
    window: Window = 256,
    max_tokens: MostTokens = None,
    threads: ThreadsOption = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Measure perplexity on a text. With --against, compare the model with the one it came from.

    Without --text, compute every figure of a quantized model's report again from its run record; exit code 1
    if one differs.
    """
    if text is None:
        _again(model, against, output_format=output_format)
        return
    if against is None:
        _alone(model, text, window, max_tokens, threads=threads, output_format=output_format)
        return
    from tritium.quantize.validate import compare_models

    with progress_bar(output_format) as move:
        report = compare_models(
            against,
            model,
            text=text,
            window=window,
            max_tokens=max_tokens,
            threads=threads,
            progress=lambda completed, total: move("windows", completed, total),
        )
    content = report.to_dict()
    if output_format is OutputFormat.JSON:
        write_json(content)
    elif output_format is OutputFormat.QUIET:
        figure = report.perplexity_ratio or report.cosine_similarity
        write_text("" if figure is None else f"{figure.value!r}\n")
    else:
        write_comparison(f"{against} -> {model}", content)
    warn_if_broken(content)


def _alone(
    model: str,
    text: Path,
    window: int,
    max_tokens: int | None,
    *,
    threads: int | None,
    output_format: OutputFormat,
) -> None:
    from tritium.quantize.evaluate import evaluate as measure

    with progress_bar(output_format) as move:
        result = measure(
            model,
            text=text,
            window=window,
            max_tokens=max_tokens,
            threads=threads,
            progress=lambda completed, total: move("windows", completed, total),
        )
    content = result.to_dict()
    if output_format is OutputFormat.JSON:
        write_json(content)
    elif output_format is OutputFormat.QUIET:
        write_text(f"{result.perplexity.value!r}\n")
    else:
        figures = [
            ("perplexity", interval(content["perplexity"], digits=2)),
            ("top token right", share(content["top1_accuracy"])),
            ("measured on", f"{result.tokens:,} tokens in {result.windows:,} windows of {result.window}"),
            ("time", f"{result.seconds:.2f} s, {result.tokens_per_second:.1f} tokens/s"),
        ]
        write_facts(model, figures)


def _again(model: str, against: str | None, *, output_format: OutputFormat) -> None:
    from tritium.formats.native import is_native
    from tritium.quantize.recompute import recompute_report

    if against is not None:
        raise ValidationError("--against needs --text: two models are compared on a text.", field="text")
    if not is_native(model):
        raise ValidationError(
            f"{model} was not quantized by Tritium, so it has no report to compute again. "
            "Give a text to measure it on: --text FILE.",
            field="text",
        )
    result = recompute_report(model)
    if output_format is OutputFormat.JSON:
        write_json(result.to_dict())
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{difference.figure}\n" for difference in result.differences))
    else:
        differing = [
            (difference.figure, f"{difference.stored!r}, recomputed {difference.recomputed!r}")
            for difference in result.differences
        ]
        count = f"{len(differing)} of " if differing else "all "
        verdict = "differ from what the run record gives:" if differing else "follow from its run record"
        write_facts(f"{model}: {count}{len(result.figures):,} figures of the report {verdict}", differing)
    if result.differences:
        raise typer.Exit(1)
