"""The options that say how the next token is chosen, and the way generated text reaches the reader."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritium.cli.output import OutputFormat, write_note, write_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tritium.engine.request import SamplingParams, TokenOutput

MaxTokens = Annotated[int, typer.Option("--max-tokens", help="At most so many new tokens.")]
Temperature = Annotated[float, typer.Option(help="0 takes the most likely token.")]
TopP = Annotated[float, typer.Option(help="Keep the most likely tokens up to this probability.")]
TopK = Annotated[int, typer.Option(help="Keep so many of the most likely tokens; 0 = all.")]
MinP = Annotated[float, typer.Option(help="Drop tokens below this share of the most likely one.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same text.")]
Stop = Annotated[list[str] | None, typer.Option(help="A text that ends the answer; may be repeated.")]


def sampling_params(**values: Any) -> SamplingParams:
    """Return SamplingParams of the options' values.

    Raises:
        ValidationError: a value is out of range.
    """
    from tritium.engine.request import SamplingParams

    return SamplingParams(**{**values, "stop": tuple(values.get("stop") or ())})


def write_stream(outputs: Iterable[TokenOutput], *, output_format: OutputFormat) -> dict[str, Any]:
    """Write text as it is generated (not for JSON) and return the text with its figures."""
    pieces: list[str] = []
    last = None
    for last in outputs:
        pieces.append(last.text)
        if output_format is not OutputFormat.JSON:
            write_text(last.text)
    if output_format is not OutputFormat.JSON:
        write_text("\n")
    result: dict[str, Any] = {"text": "".join(pieces)}
    if last is not None:
        result |= {
            "finish_reason": last.finish_reason,
            "prompt_tokens": last.prompt_tokens,
            "completion_tokens": last.completion_tokens,
            "compute_seconds": last.compute_seconds,
        }
    return result


def write_figures(result: dict[str, Any], *, output_format: OutputFormat) -> None:
    """Write what a human wants to know about a finished answer to stderr."""
    if output_format is not OutputFormat.HUMAN or "finish_reason" not in result:
        return
    tokens, seconds = result["completion_tokens"], result["compute_seconds"]
    speed = f", {tokens / seconds:.1f} tokens/s" if seconds > 0 else ""
    write_note(
        f"[{result['prompt_tokens']} + {tokens} tokens{speed}, prompt included; {result['finish_reason']}]"
    )
