"""The program as a user runs it: a process of its own, on a real trained model."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import tritium_test_programs as programs

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

PROGRAM = [sys.executable, "-c", "from tritium.cli import main; main()"]


class RunTritium(Protocol):
    """How a test runs the program."""

    def __call__(
        self, *arguments: str | Path, stdin: str | bytes = "", cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]: ...


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRITIUM_")}
    return kept | {"COLUMNS": "100", "NO_COLOR": "1"}


@pytest.fixture(scope="session")
def tritium_program() -> list[str]:
    """The words that start the program."""
    return PROGRAM


@pytest.fixture(scope="session")
def run_tritium() -> RunTritium:
    """Run the program to its end and return what it wrote."""

    def run(
        *arguments: str | Path, stdin: str | bytes = "", cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        content = stdin if isinstance(stdin, bytes) else stdin.encode()
        return programs.run(
            "tritium", *arguments, environment=environment(), stdin=content, cwd=cwd, timeout=120
        )

    return run


@pytest.fixture(scope="session")
def quantized_by_the_program(
    run_tritium: RunTritium, scripture_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The trained Llama, quantized by `tritium quantize`, and the JSON it wrote."""
    folder = tmp_path_factory.mktemp("quantized")
    text = folder / "text.txt"
    text.write_text(
        "In the beginning God created the heaven and the earth.\n\nAnd the earth was void.\n" * 20
    )
    out = folder / "model"
    done = run_tritium("quantize", scripture_llama, "--out", out, "--validation", text, "--format", "json")
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)
