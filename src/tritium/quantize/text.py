"""Text for calibration and validation: read with care, cut into windows of tokens or into passages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tritium.model.tokenizer import Tokenizer

Item = TypeVar("Item")

LARGEST_TEXT = 64 << 20
PASSAGE_CHARACTERS = 400
BLANK_LINES = re.compile(r"\n\s*\n")
SENTENCE_END = re.compile(r"(?<=[.!?;:])\s+")


def read_text(text: str | Path) -> str:
    """Return the text itself, or the content of a UTF-8 file.

    Raises:
        ValidationError: no such file, more than 64 MiB, not UTF-8, or nothing in it.
    """
    name = "The text"
    if isinstance(text, Path):
        name, text = text.name, _read_file(text)
    if len(text) > LARGEST_TEXT:
        raise ValidationError(f"{name} has {len(text)} characters; {LARGEST_TEXT} are the limit.")
    if not text.strip():
        raise ValidationError(f"{name} is empty.")
    return text


def _read_file(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise ValidationError(
                f"{path.name} is larger than the limit of {LARGEST_TEXT} bytes.", file=path.name
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValidationError(f"{path} cannot be read: {error.strerror}.", file=path.name) from error
    except UnicodeDecodeError as error:
        raise ValidationError(f"{path.name} is not UTF-8 text.", file=path.name) from error


def documents(text: str) -> list[str]:
    """Return the documents of a text: what blank lines separate."""
    return [document for document in BLANK_LINES.split(text.strip("\n")) if document.strip()]


def token_windows(
    tokenizer: Tokenizer, text: str, *, window: int, limit: int | None, first_token: int | None
) -> list[NDArray[np.int32]]:
    """Return the text as windows of at most `window` tokens, side by side without overlap.

    Args:
        tokenizer: of the model.
        text: documents, separated by blank lines.
        window: tokens per window; the last one may be shorter.
        limit: if more tokens than this, whole windows are taken, evenly spread over the text.
        first_token: put before each document (the model's beginning of text), if it has one.
    """
    opening = [] if first_token is None else [first_token]
    ids: list[int] = []
    for document in documents(text):
        ids += opening + tokenizer.encode(document, add_special=False)
    tokens = np.array(ids, dtype=np.int32)
    windows = [tokens[start : start + window] for start in range(0, len(tokens), window)]
    windows = [piece for piece in windows if len(piece) > 1]  # one token alone predicts nothing
    if limit is None or len(tokens) <= limit:
        return windows
    return spread(windows, count=max(1, limit // window))


def passages(text: str) -> list[str]:
    """Return the text cut at ends of sentences into passages of a few sentences."""
    found: list[str] = []
    for document in documents(text):
        current = ""
        for sentence in SENTENCE_END.split(document):
            if current and len(current) + len(sentence) > PASSAGE_CHARACTERS:
                found.append(current)
                current = ""
            current = f"{current} {sentence}".strip()
        if current:
            found.append(current)
    return found


def spread(items: Sequence[Item], *, count: int) -> list[Item]:
    """Return `count` items evenly spread over the sequence, or all of them if there are fewer."""
    if count >= len(items):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]
