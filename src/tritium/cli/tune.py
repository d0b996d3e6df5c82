"""`tritium tune`: what a trace of an engine speaks for, and what other limits would have done to it."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritium.cli.output import FormatOption, OutputFormat, write_facts, write_json, write_text
from tritium.errors import ValidationError

if TYPE_CHECKING:
    from tritium.engine.bottleneck import Bottleneck
    from tritium.engine.evidence import Evidence
    from tritium.engine.recommendations import Recommendation
    from tritium.engine.what_if import Effect

TraceArgument = Annotated[Path, typer.Argument(help="A file that tritium serve --trace has written.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="What if: a limit and its new value, as max_running=64; several are set together. "
        "max_running, max_batched_tokens, kv_cache_bytes, max_waiting.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the draws behind the intervals.")]
SETTINGS = ("max_running", "max_batched_tokens", "kv_cache_bytes", "max_waiting")
_FIGURES = {
    "first_token_seconds": "first token (median)",
    "end_seconds": "whole answer (median)",
    "tokens_per_second": "tokens per second",
}


def tune(
    trace: TraceArgument,
    *,
    settings: Settings = None,
    seed: Seed = 0,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Recommend settings from a trace. Nothing is changed; with --set only that change is played."""
    from tritium.engine.analysis import Analysis, analyse
    from tritium.engine.bottleneck import find_bottleneck
    from tritium.engine.evidence import evidence_of
    from tritium.engine.trace import read_trace
    from tritium.engine.what_if import what_if

    changes = _changes(settings or [])
    recorded = read_trace(trace)
    if changes:
        evidence = evidence_of(recorded)
        found = Analysis(evidence=evidence, bottleneck=find_bottleneck(evidence), recommendations=())
        effects = what_if(recorded, changes, seed=seed)
    else:
        found, effects = analyse(recorded, seed=seed), ()
    if output_format is OutputFormat.JSON:
        played = {"change": changes, "expected": [asdict(each) for each in effects]}
        write_json(asdict(found) | {"what_if": played})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{each.id}\n" for each in found.recommendations))
    else:
        _show(found.evidence, found.bottleneck)
        if changes:
            _show_what_if(changes, effects)
        else:
            _show_recommendations(found.recommendations, is_thin=found.evidence.is_thin)


def _changes(settings: list[str]) -> dict[str, int]:
    changes = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in SETTINGS or not (value.isascii() and value.isdigit()):
            raise ValidationError(
                f"--set takes NAME=NUMBER with one of {', '.join(SETTINGS)}, not {setting!r}."
            )
        changes[name] = int(value)
    return changes


def _show(evidence: Evidence, bottleneck: Bottleneck) -> None:
    write_facts(
        f"{evidence.engine.model}: {evidence.requests} requests and {evidence.steps} steps in "
        f"{evidence.seconds:.1f} s",
        [
            ("bound by", f"{bottleneck.kind}: {bottleneck.reason}"),
            ("engine at work", f"{evidence.busy:.0%} of the time"),
            ("first token", f"{1000 * evidence.first_seconds:.1f} ms (median)"),
            ("waiting", f"{evidence.queue_wait:.0%} of the requests' time"),
            ("places", f"{evidence.fill:.0%} of {evidence.engine.max_running} in use"),
            ("cache", f"{evidence.kv_used:.0%} in use, full in {evidence.kv_full:.0%} of the steps"),
            ("prompts", f"{evidence.prefill:.0%} of the steps' time, {evidence.prefix_hits:.0%} found again"),
            ("a step", _cost(evidence)),
            ("memory", f"pressure {evidence.pressure:.2f} at the most"),
            ("taken by others", f"{evidence.stolen:.0%} stolen, {evidence.throttled:.0%} throttled"),
        ],
    )


def _cost(evidence: Evidence) -> str:
    cost = evidence.cost
    return (
        f"{1000 * cost.fixed:.3f} ms + {1000 * cost.per_row:.3f} for each row that writes "
        f"+ {1000 * cost.per_prompt_token:.3f} for each token of a prompt"
    )


def _show_what_if(changes: dict[str, int], effects: tuple[Effect, ...]) -> None:
    what = ", ".join(f"{name}={value}" for name, value in changes.items())
    write_facts(f"\nWhat if {what}", _lines(effects))


def _show_recommendations(found: tuple[Recommendation, ...], *, is_thin: bool) -> None:
    if not found:
        why = "Too little was recorded to recommend anything." if is_thin else "Nothing to recommend."
        write_text(f"\n{why}\n")
    for each in found:
        changes = [(name, f"{_plain(a)} -> {_plain(b)}") for name, (a, b) in each.change.items()]
        facts = [*changes, *_lines(each.expected), ("risk", each.risk), ("undo", each.undo)]
        write_facts(f"\n{each.id}: {each.summary}", facts)


def _lines(effects: tuple[Effect, ...]) -> list[tuple[str, str]]:
    return [(_FIGURES[each.figure], _effect(each)) for each in effects]


def _effect(effect: Effect) -> str:
    factor, unit = (1.0, "") if effect.figure == "tokens_per_second" else (1000.0, " ms")
    low, high, before = (f"{factor * value:.1f}" for value in (effect.low, effect.high, effect.before))
    expected = low if low == high else f"{low} to {high}"
    return f"{expected}{unit} expected, {before}{unit} recorded"


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
