"""Writes the reference pages from the code they describe; `--check` fails when a page is out of date."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.testing import CliRunner

from tritium.cli.app import app as library_app
from tritium.errors import BitNetServiceError
from tritium_platform import errors as platform_errors
from tritium_platform.adapters.metrics import Metrics
from tritium_platform.api.app import create_app
from tritium_platform.api.problems import RULES
from tritium_platform.cli.app import app as platform_app
from tritium_platform.compose import initialize_platform
from tritium_platform.config import PlatformConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

REFERENCE = Path(__file__).resolve().parent / "reference"
NOTE = "<!-- Written by docs/generate.py (make docs); do not edit. -->\n\n"
# Help texts wrap at the terminal's width; a page has one width everywhere.
ENVIRONMENT = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}


def command_line() -> str:
    """Show the help of every command of both programs."""
    runner, parts = CliRunner(), ["# Command line\n"]
    for program, app in (("tritium", library_app), ("tritiumd", platform_app)):
        for words in _commands(typer.main.get_command(app), [program]):
            shown = runner.invoke(app, [*words[1:], "--help"], prog_name=program, env=ENVIRONMENT)
            parts.append(f"## {' '.join(words)}\n\n```\n{shown.output.strip()}\n```\n")
    return "\n".join(parts)


def _commands(command: Any, words: list[str]) -> Iterator[list[str]]:
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, [*words, name])


def configuration() -> str:
    """Show every setting with its environment variable, type, default and meaning."""
    rows = [
        "# Configuration\n",
        "A flag comes before the environment, the environment before the TOML file.\n",
    ]
    rows += ["| TOML | environment | type | default | meaning |", "|---|---|---|---|---|"]
    for name, field in PlatformConfig.model_fields.items():
        kind = str(field.annotation).replace("typing.", "").replace("pathlib.", "").replace("|", "\\|")
        kind = (
            kind.removeprefix("<class '").removesuffix("'>").rpartition(".")[2] if "<class" in kind else kind
        )
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name}` | `TRITIUM_{name.upper()}` | {kind} | `{field.default!r}` | {meaning} |")
    return "\n".join(rows) + "\n"


def errors() -> str:
    """Show the tree of errors with its HTTP status codes."""
    rows = ["# Errors\n", "```", (platform_errors.__doc__ or "").partition("\n\n")[2].rstrip(), "```\n"]
    rows.append(
        "Under `/v1` a wrong request is 400, as OpenAI answers; elsewhere it is 422, and 400 if its JSON "
        "cannot be read, or a header is missing or malformed.\n"
    )
    rows += ["| error | status under /v1 | code | category | recovery |", "|---|---|---|---|---|"]
    for kind, rule in sorted(RULES.items(), key=lambda item: (item[1].status, item[0].__name__)):
        if issubclass(kind, BitNetServiceError):
            code = rule.code or "the error's own"
            row = (kind.__name__, rule.status, code, kind.category.value, kind.default_recovery.value)
            rows.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(rows) + "\n"


def metrics() -> str:
    """Show every metric that /metrics exposes."""
    rows = ["# Metrics\n", "`GET /metrics`, in Prometheus's text form. No label names a tenant.\n"]
    rows += ["| metric | type | meaning |", "|---|---|---|"]
    rows += [
        f"| `{metric.name}` | {metric.type} | {metric.documentation} |"
        for metric in Metrics().registry.collect()
    ]
    return "\n".join(rows) + "\n"


def openapi() -> str:
    """Return the OpenAPI document of the platform."""

    async def read() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as directory:
            platform = await initialize_platform(PlatformConfig(data_dir=Path(directory)))
            try:
                return create_app(platform).openapi()
            finally:
                await platform.stop()

    return json.dumps(asyncio.run(read()), indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write the pages, or compare them with what would be written."""
    os.environ |= ENVIRONMENT
    pages = {
        "command_line.md": NOTE + command_line(),
        "configuration.md": NOTE + configuration(),
        "errors.md": NOTE + errors(),
        "metrics.md": NOTE + metrics(),
        "openapi.json": openapi(),
    }
    if "--check" in sys.argv:
        stale = [
            name
            for name, text in pages.items()
            if not (REFERENCE / name).is_file() or (REFERENCE / name).read_text(encoding="utf-8") != text
        ]
        if stale:
            sys.exit(f"Out of date: {', '.join(stale)} in docs/reference. Run: make docs")
        return
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages.items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
