"""A text to teach an encoder on that every machine has: scripture, and what Python says about itself."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path
from pydoc_data import topics
from typing import TYPE_CHECKING

from tritium.model.pretrained import load_model
from tritium.quantize.generate import written_windows

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
WRITTEN_TOKENS = 131_072
SHORTEST = 80  # characters of a docstring
NOT_OF_THE_LIBRARY = {"site-packages", "test", "tests", "idlelib", "lib2to3"}


def encoder_text() -> str:
    """Return the calibration text, text that scripture-llama-6m writes, and the library's documentation."""
    calibration = (EXAMPLES / "text" / "calibration.txt").read_text(encoding="utf-8")
    return "\n\n".join([calibration, *_written(), *_docstrings(), *topics.topics.values()])


def _written() -> Iterator[str]:
    writer = load_model(EXAMPLES / "models" / "scripture-llama-6m")
    for window in written_windows(writer, tokens=WRITTEN_TOKENS, window=256, seed=1):
        yield writer.tokenizer.decode(window.tolist())


def _docstrings() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if NOT_OF_THE_LIBRARY.isdisjoint(path.relative_to(library).parts):
            yield from _docstrings_of(path)


def _docstrings_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if len(text) > SHORTEST:
                yield text
