"""Log-probabilities as the wire writes them: a list of tokens in chats, columns in plain completions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.engine.request import ScoredToken, TokenLogprob


def chat_logprobs(tokens: Sequence[ScoredToken] | None) -> dict[str, object] | None:
    """Return `logprobs` of a chat's choice; None if they were not asked for."""
    return None if tokens is None else {"content": logprob_entries(tokens), "refusal": None}


def logprob_entries(tokens: Sequence[ScoredToken]) -> list[dict[str, object]]:
    """Return one entry per token, each with its alternatives."""
    return [
        {**_entry(token.chosen), "top_logprobs": [_entry(other) for other in token.top]} for token in tokens
    ]


class TextOffsets:
    """Counts, piece by piece, at which character of a choice's text its tokens begin."""

    def __init__(self) -> None:
        self._characters = 0  # begun so far

    def columns(self, tokens: Sequence[ScoredToken] | None) -> dict[str, object] | None:
        """Return `logprobs` of the next piece of a plain completion; None if they were not asked for."""
        if tokens is None:
            return None
        return {
            "tokens": [_column_name(token.chosen) for token in tokens],
            "token_logprobs": [token.chosen.logprob for token in tokens],
            "top_logprobs": [
                None
                if token.chosen.logprob is None  # the first token of an echoed prompt
                else {_column_name(each): each.logprob for each in (*token.top, token.chosen)}
                for token in tokens
            ],
            "text_offset": [self._next(token.chosen.spelling or b"") for token in tokens],
        }

    def _next(self, spelling: bytes) -> int:
        offset = self._characters - (1 if spelling and _is_inside_character(spelling[0]) else 0)
        self._characters += sum(not _is_inside_character(byte) for byte in spelling)
        return max(0, offset)


def _entry(token: TokenLogprob) -> dict[str, object]:
    spelling = token.spelling
    return {
        "token": token.token if spelling is None else _shown(spelling) or _escaped(spelling),
        "logprob": token.logprob,
        "bytes": None if spelling is None else list(spelling),
    }


def _column_name(token: TokenLogprob) -> str:
    if token.spelling is None:
        return token.token
    return _shown(token.spelling) or f"bytes:{_escaped(token.spelling)}"


def _shown(spelling: bytes) -> str | None:
    """Return bytes as text; None for half a character."""
    try:
        return spelling.decode()
    except UnicodeDecodeError:
        return None


def _escaped(spelling: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in spelling)


def _is_inside_character(byte: int) -> bool:
    return byte & 0xC0 == 0x80  # noqa: PLR2004 - the mark of UTF-8's continuation bytes
