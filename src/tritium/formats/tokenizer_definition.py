"""Parts of a tokenizer.json that more than one format's tokenizer is written with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# Kinds of tokens: SentencePiece's numbers, which GGUF took over.
NORMAL: Final = 1
UNKNOWN: Final = 2
CONTROL: Final = 3
USER_DEFINED: Final = 4
UNUSED: Final = 5
BYTE: Final = 6


def parts_without_choice() -> dict[str, Any]:
    """Return what every definition has and none of ours uses."""
    return {"version": "1.0", "truncation": None, "padding": None}


def added_token(index: int, text: str, *, is_special: bool) -> dict[str, Any]:
    """Describe a token that is found in a text before anything else is done to it."""
    claims = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": text, **claims, "special": is_special}


def around_text(first: str | None, last: str | None, *, ids: Mapping[str, int]) -> dict[str, Any] | None:
    """Describe the tokens that begin and end every text; None if there are none.

    Raises:
        KeyError: such a token has no id.
    """
    if first is None and last is None:
        return None

    def one(name: str, number: int) -> list[dict[str, Any]]:
        begin, end = (
            [] if text is None else [_piece("SpecialToken", text, number)] for text in (first, last)
        )
        return [*begin, _piece("Sequence", name, number), *end]

    single = one("A", 0)
    names = {text for text in (first, last) if text is not None}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *one("B", 1)],
        "special_tokens": {
            text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in sorted(names)
        },
    }


def encoded(content: Mapping[str, Any]) -> bytes:
    """Return a definition as the bytes of its file."""
    return json.dumps(content, ensure_ascii=False).encode("utf-8") + b"\n"  # indented, it takes seconds


def _piece(kind: str, name: str, number: int) -> dict[str, Any]:
    return {kind: {"id": name, "type_id": number}}
