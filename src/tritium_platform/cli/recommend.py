"""`tritiumd recommend`: what the operator may change, from a running server."""

from __future__ import annotations

from typing import Any

from tritium.cli.output import FormatOption, OutputFormat, write_facts, write_json, write_text
from tritium_platform.cli.models import LOCAL, Url
from tritium_platform.cli.operator import AdminKey, operator_client


def recommend(
    *,
    key: AdminKey = None,
    url: Url = LOCAL,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Show what limits each engine and what to change; needs the setting engine_traces."""
    engines = operator_client(url, key=key).get("/api/v1/recommendations")
    if output_format is OutputFormat.JSON:
        write_json({"engines": engines})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{each['id']}\n" for engine in engines for each in engine["recommendations"]))
    elif not engines:
        write_text("No engine in memory has written anything down: set engine_traces, and let it work.\n")
    else:
        for engine in engines:
            _show(engine)


def _show(engine: dict[str, Any]) -> None:
    title = (
        f"{engine['deployment']} ({engine['replica']}): {engine['requests']} requests and "
        f"{engine['steps']} steps in {engine['seconds']:.1f} s"
    )
    bottleneck = engine["bottleneck"]
    write_facts(title, [("bound by", f"{bottleneck['kind']}: {bottleneck['reason']}")])
    for each in engine["recommendations"]:
        changes = [(name, f"{before} -> {after}") for name, (before, after) in each["change"].items()]
        expected = [
            (
                effect["figure"],
                f"{effect['low']:.4g} to {effect['high']:.4g}, {effect['before']:.4g} recorded",
            )
            for effect in each["expected"]
        ]
        facts = [*changes, *expected, ("risk", each["risk"]), ("undo", each["undo"])]
        write_facts(f"{each['id']}: {each['summary']}", facts)
