"""`tritium eval`: how well a model predicts a text, alone or next to another model."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
from tritium.cli.report import comparison, interval
from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritium.quantize.report import ValidationReport

TextOption = Annotated[
    Path, typer.Option("--text", metavar="FILE", help="UTF-8 text; blank lines separate documents.")
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
    text: TextOption,
    against: Against = None,
    window: Window = 256,
    max_tokens: MostTokens = None,
    threads: ThreadsOption = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Measure a model's perplexity on a text, or compare it with the model it came from."""
    if against is None:
        _alone(model, text, window, max_tokens, threads=threads, output_format=output_format)
        return
    with progress_bar(output_format) as move:
        report = _compare(
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
        write_facts(f"{against} -> {model}", comparison(content))


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
            ("perplexity", interval(content["perplexity"])),
            ("top token right", interval(content["top1_accuracy"])),
            ("measured on", f"{result.tokens:,} tokens in {result.windows:,} windows of {result.window}"),
            ("time", f"{result.seconds:.2f} s, {result.tokens_per_second:.1f} tokens/s"),
        ]
        write_facts(model, figures)


def _compare(
    source: str,
    quantized: str,
    *,
    text: Path,
    window: int,
    max_tokens: int | None,
    threads: int | None,
    progress: Callable[[int, int], None],
) -> ValidationReport:
    """Run both models over the same text, one after the other."""
    from tritium.model.pretrained import load_model
    from tritium.quantize.evaluate import (
        encoder_passages,
        generator_windows,
        run_encoder,
        run_generator,
        sha256_of,
    )
    from tritium.quantize.text import read_text
    from tritium.quantize.validate import compare_encoders, compare_generators

    content = read_text(text)
    sha256 = sha256_of(content)
    first = load_model(source, threads=threads)
    second = load_model(quantized, threads=threads)
    if first.config.is_encoder != second.config.is_encoder:
        raise ValidationError("One model generates text and the other encodes it: they cannot be compared.")
    if first.config.is_encoder:
        passages = encoder_passages(content)
        encoded = [run_encoder(each, passages, progress=progress) for each in (first, second)]
        return compare_encoders(encoded[0], encoded[1], text_sha256=sha256)
    if first.config.vocab_size != second.config.vocab_size:
        raise ValidationError("The two models have different vocabularies: they cannot be compared.")
    windows = generator_windows(first, content, window=window, limit=max_tokens)
    runs = [run_generator(each, windows, progress=progress) for each in (first, second)]
    return compare_generators(runs[0], runs[1], text_sha256=sha256)
