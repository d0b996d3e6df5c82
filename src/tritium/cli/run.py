"""`tritium run`: continue a text."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tritium.cli.output import (
    FormatOption,
    ModelArgument,
    OutputFormat,
    ThreadsOption,
    write_json,
    write_text,
)
from tritium.cli.sampling import (
    MaxTokens,
    MinP,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
    sampling_params,
    write_figures,
    write_stream,
)
from tritium.cli.standard_input import read_standard_input

Prompt = Annotated[str | None, typer.Argument(help="The text to continue; by default what stdin holds.")]


def run(
    model: ModelArgument,
    prompt: Prompt = None,
    *,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.8,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    seed: Seed = None,
    stop: Stop = None,
    threads: ThreadsOption = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Continue a text, written as it is generated."""
    from tritium.engine.llm import LLM

    sampling = sampling_params(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        stop=stop,
    )
    text = read_standard_input("the text to continue") if prompt is None else prompt
    with LLM(model, threads=threads) as llm:
        if output_format is OutputFormat.HUMAN and sys.stdout.isatty():
            write_text(text)
        result = write_stream(llm.stream(text, sampling=sampling), output_format=output_format)
    if output_format is OutputFormat.JSON:
        write_json(result)
    write_figures(result, output_format=output_format)
