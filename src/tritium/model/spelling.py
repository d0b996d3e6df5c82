"""The bytes of single tokens: a token may be half a character, which no text can show."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_METASPACE = "\u2581"


class Spelling:
    """What each token of a vocabulary adds to a text, in UTF-8.

    Joined over the tokens of a text they are its bytes, but for a space that some decoders leave out at the
    beginning.

    Args:
        definition: the tokenizer as its file describes it (`Tokenizer.definition`).
        token_of: the token of an id as the vocabulary writes it; None for an id that is not in use.
    """

    def __init__(self, definition: Mapping[str, Any], *, token_of: Callable[[int], str | None]) -> None:
        self._token_of = token_of
        added = definition.get("added_tokens") or []
        self._literal = frozenset(token["id"] for token in added)
        self._special = frozenset(token["id"] for token in added if token["special"])
        decoders = list(_decoders(definition.get("decoder")))
        self._is_byte_level = any(decoder["type"] == "ByteLevel" for decoder in decoders)
        self._has_fallback = any(decoder["type"] == "ByteFallback" for decoder in decoders)
        self._spaces = tuple(found for decoder in decoders if (found := _written_space(decoder)))

    def is_special(self, token_id: int) -> bool:
        """Tell whether a token steers the model and never appears in a text."""
        return token_id in self._special

    def token(self, token_id: int) -> str:
        """Return a token as the vocabulary writes it; empty for an id that is not in use."""
        return self._token_of(token_id) or ""

    def bytes_of(self, token_id: int) -> bytes:
        """Return what a token adds to a text; nothing for a special token."""
        if token_id in self._special:
            return b""
        token = self.token(token_id)
        if token_id in self._literal:
            return token.encode()
        if self._is_byte_level and all(character in _BYTE_OF for character in token):
            return bytes(_BYTE_OF[character] for character in token)
        byte = _BYTE.fullmatch(token) if self._has_fallback else None
        if byte:
            return bytes([int(byte[1], 16)])
        for space in self._spaces:
            token = token.replace(space, " ")
        return token.encode()


def _decoders(decoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if decoder is None:
        return
    if decoder["type"] != "Sequence":
        yield decoder
    for part in decoder.get("decoders", ()):
        yield from _decoders(part)


def _written_space(decoder: Mapping[str, Any]) -> str | None:
    if decoder["type"] == "Metaspace":
        return str(decoder.get("replacement") or _METASPACE)
    pattern = decoder.get("pattern") if decoder["type"] == "Replace" else None
    if isinstance(pattern, dict) and decoder.get("content") == " ":
        return pattern.get("String")
    return None


def _byte_level_alphabet() -> dict[str, int]:
    """Return the byte of each character of byte-level vocabularies.

    Printable characters of Latin-1 stand for themselves, the others for those from U+0100 on, in order
    (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019).
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(others)}


_BYTE_OF = _byte_level_alphabet()
