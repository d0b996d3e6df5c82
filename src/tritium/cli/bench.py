"""`tritium bench`: how fast a model runs on this machine; every figure is timed here and now."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritium.cli.figures import choice, counted
from tritium.cli.output import (
    FormatOption,
    ModelArgument,
    OutputFormat,
    ThreadsOption,
    progress_bar,
    write_facts,
    write_json,
    write_table,
    write_text,
)
from tritium.errors import ValidationError

if TYPE_CHECKING:
    from tritium.engine.llm import LLM

Streams = Annotated[str, typer.Option(help="Numbers of prompts at once, separated by commas.")]
PromptTokens = Annotated[int, typer.Option(min=1, help="Length of each prompt.")]
NewTokens = Annotated[int, typer.Option("--max-tokens", min=2, help="Tokens generated per prompt.")]
Repeat = Annotated[int, typer.Option(min=1, help="Runs of each; the median is shown.")]
MOST_STREAMS = 256
# Real words, so that the tokenizer's work is real; each prompt starts differently.
WORDS = "In the beginning there was a machine that counted by three and wrote down what it had seen "


def bench(
    model: ModelArgument,
    *,
    streams: Streams = "1,8",
    prompt_tokens: PromptTokens = 64,
    max_tokens: NewTokens = 64,
    repeat: Repeat = 3,
    threads: ThreadsOption = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Time the generation of text. Alone and with several prompts at once, on this machine."""
    from tritium.engine.llm import LLM

    counts = _counts(streams)
    started = time.perf_counter()
    with LLM(model, threads=threads) as llm, progress_bar(output_format) as move:
        load_seconds = time.perf_counter() - started
        results = []
        for finished, count in enumerate(counts):
            move(f"{count} at once", finished, len(counts))
            results.append(
                _measure(llm, count, prompt_tokens=prompt_tokens, max_tokens=max_tokens, repeat=repeat)
            )
            move(f"{count} at once", finished + 1, len(counts))
    device = llm.device
    content = {
        "model": model,
        "isa": device.isa,
        "threads": device.threads,
        "candidates": [asdict(candidate) for candidate in device.candidates],
        "load_seconds": load_seconds,
        "results": results,
    }
    _write(content, chosen=choice(device.candidates, device.product), output_format=output_format)


def _counts(streams: str) -> list[int]:
    parts = [part.strip() for part in streams.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= MOST_STREAMS for part in parts):
        raise ValidationError(
            f"--streams must be numbers from 1 to {MOST_STREAMS}, separated by commas, not {streams!r}."
        )
    return [int(part) for part in parts]


def _measure(
    llm: LLM,
    streams: int,
    *,
    prompt_tokens: int,
    max_tokens: int,
    repeat: int,
) -> dict[str, Any]:
    """Generate `repeat` times with so many prompts at once and return the medians."""
    from statistics import median

    from tritium.engine.request import SamplingParams

    sampling = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
    prompts = [_prompt(llm, number, prompt_tokens) for number in range(streams)]
    llm.generate(
        prompts[0], sampling=SamplingParams(max_tokens=2, temperature=0)
    )  # first-touch of the weights
    runs = []
    for _ in range(repeat):
        before = llm.metrics()
        started = time.perf_counter()
        completions = llm.generate(prompts, sampling=sampling)
        seconds = time.perf_counter() - started
        after = llm.metrics()
        first = after.time_to_first_token.sum - before.time_to_first_token.sum
        between = after.inter_token_latency.sum - before.inter_token_latency.sum
        generated = sum(completion.completion_tokens for completion in completions)
        runs.append((generated / seconds, first / streams, between / (generated - streams)))
    return {
        "streams": streams,
        "prompt_tokens": completions[0].prompt_tokens,
        "completion_tokens": completions[0].completion_tokens,
        "repeat": repeat,
        "tokens_per_second": median(speed for speed, _, _ in runs),
        "seconds_to_first_token": median(first for _, first, _ in runs),
        "seconds_between_tokens": median(between for _, _, between in runs),
    }


def _prompt(llm: LLM, number: int, tokens: int) -> str:
    ids = llm.tokenizer.encode(f"{number} {WORDS * tokens}", add_special=False)
    return llm.tokenizer.decode(ids[:tokens])


def _write(content: dict[str, Any], *, chosen: str, output_format: OutputFormat) -> None:
    if output_format is OutputFormat.JSON:
        write_json(content)
        return
    if output_format is OutputFormat.QUIET:
        write_text("".join(f"{result['tokens_per_second']!r}\n" for result in content["results"]))
        return
    rows = [
        [
            str(result["streams"]),
            str(result["prompt_tokens"]),
            str(result["completion_tokens"]),
            f"{result['tokens_per_second']:.1f}",
            f"{1000 * result['seconds_to_first_token']:.1f}",
            f"{1000 * result['seconds_between_tokens']:.2f}",
        ]
        for result in content["results"]
    ]
    title = (
        f"{content['model']}: {content['isa']}, {counted(content['threads'])}, "
        f"loaded in {content['load_seconds']:.2f} s"
    )
    columns = ["streams", "prompt", "new tokens", "tokens/s (all)", "first token ms", "between tokens ms"]
    write_table(title, columns, rows)
    write_facts("", [("chosen by measurement", chosen)])
