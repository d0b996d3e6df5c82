"""`tritium chat`: a conversation in the terminal, or one line of standard input after another."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritium.cli.output import (
    FormatOption,
    ModelArgument,
    OutputFormat,
    ThreadsOption,
    write_json,
    write_note,
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
from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritium.engine.llm import LLM
    from tritium.engine.request import SamplingParams

System = Annotated[str | None, typer.Option(help="What the model is told before the conversation.")]


def chat(
    model: ModelArgument,
    *,
    system: System = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.8,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    seed: Seed = None,
    stop: Stop = None,
    threads: ThreadsOption = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Talk with a model. Each line is a turn; the end of the input ends the conversation."""
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
    opening = [{"role": "system", "content": system}] if system else []
    turns: list[dict[str, str]] = []
    with LLM(model, threads=threads) as llm:
        for line in _lines():
            turns.append({"role": "user", "content": line})
            result = _answer(llm, opening, turns, sampling=sampling, output_format=output_format)
            turns.append({"role": "assistant", "content": result["text"]})
            if output_format is OutputFormat.JSON:
                write_json(result)
            write_figures(result, output_format=output_format)


def _lines() -> Iterator[str]:
    """Yield the lines of standard input that hold something; asks for each where a human types them."""
    is_human = sys.stdin.isatty() and sys.stdout.isatty()
    if is_human:
        import readline  # noqa: F401 - its import alone gives line editing and history

        write_note("(Ctrl-D ends the conversation)")
    try:
        while True:
            line = input("> ") if is_human else _next_line()
            if line.strip():
                yield line
    except EOFError:
        return


def _next_line() -> str:
    raw = sys.stdin.buffer.readline()
    if not raw:
        raise EOFError
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValidationError("Standard input is not valid UTF-8 text.") from error


def _answer(
    llm: LLM,
    opening: list[dict[str, str]],
    turns: list[dict[str, str]],
    *,
    sampling: SamplingParams,
    output_format: OutputFormat,
) -> dict[str, Any]:
    """Answer the last turn; the oldest turns are forgotten where the conversation outgrows the model."""
    from tritium.engine.request import ContextLengthExceededError

    while True:
        try:
            outputs = llm.stream_chat([*opening, *turns], sampling=sampling)
            return write_stream(outputs, output_format=output_format)
        except ContextLengthExceededError:
            if len(turns) == 1:
                raise
            del turns[:2]  # a question and its answer
            write_note(
                "(the conversation is longer than the model's context; its oldest turns are forgotten)"
            )
