"""A SentencePiece model, tokenizer.model: one message of protocol buffers, read field by field.

The fields are those of sentencepiece_model.proto (Apache-2.0). What says how text becomes tokens is read or
refused by name; how the vocabulary was trained is skipped.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tritium.formats.pieces import SPACE, Pieces
from tritium.formats.refusal import quoted, refusal
from tritium.formats.tokenizer_definition import BYTE, NORMAL, USER_DEFINED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MODEL_PIECES, MODEL_TRAINER, MODEL_NORMALIZER = 1, 2, 3
PIECE_TEXT, PIECE_SCORE, PIECE_KIND = 1, 2, 3
TRAINER_KIND, TRAINER_SUFFIX = 3, 24
TRAINER_BOS, TRAINER_EOS = 41, 42
NORMALIZER_CHARACTERS, NORMALIZER_PREFIX, NORMALIZER_SQUEEZE, NORMALIZER_ESCAPE = 2, 3, 4, 5
KINDS: Final[Mapping[int, str]] = {1: "unigram", 2: "BPE", 3: "word", 4: "character"}
BPE: Final = 2
_LONGEST_NUMBER = 10  # bytes of a varint
_WIDTHS: Final[Mapping[int, int]] = {1: 8, 5: 4}  # bytes of a value by its wire type

Value = int | bytes


@dataclass(frozen=True, kw_only=True)
class SentencePieceModel:
    """The vocabulary of a tokenizer.model and the pieces that begin and end a text, where it names them."""

    pieces: Pieces
    bos: str | None
    eos: str | None


def read_sentencepiece(content: bytes, *, file: Path) -> SentencePieceModel:
    """Read the content of a tokenizer.model.

    Raises:
        ValidationError: it is none, it is not byte-pair encoding, or text is changed before it is cut
            in a way that cannot be followed exactly.
    """
    texts: list[str] = []
    scores: list[float] = []
    kinds: list[int] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    for number, value in _fields(content, file=file):
        if number == MODEL_PIECES:
            text, score, kind = _piece(value, file=file)
            texts.append(text)
            scores.append(score)
            kinds.append(kind)
        elif number == MODEL_TRAINER:
            trainer.update(_fields(value, file=file))
        elif number == MODEL_NORMALIZER:
            normalizer.update(_fields(value, file=file))
    _check(trainer, normalizer, file=file)
    pieces = Pieces(
        texts=texts,
        scores=scores,
        kinds=kinds,
        has_leading_space=bool(normalizer.get(NORMALIZER_PREFIX, True)),
    )
    _check_user_defined(pieces, file=file)
    bos, eos = _named(trainer.get(TRAINER_BOS, 1), texts), _named(trainer.get(TRAINER_EOS, 2), texts)
    return SentencePieceModel(pieces=pieces, bos=bos, eos=eos)


def _piece(value: Value, *, file: Path) -> tuple[str, float, int]:
    fields = dict(_fields(value, file=file))
    text, score, kind = (
        fields.get(PIECE_TEXT),
        fields.get(PIECE_SCORE, bytes(4)),
        fields.get(PIECE_KIND, NORMAL),
    )
    if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4:  # noqa: PLR2004 - float
        raise refusal("a piece without a text or with a score that is no number", file=file)
    if not isinstance(kind, int) or not NORMAL <= kind <= BYTE:
        raise refusal(f"a piece of the unknown kind {quoted(kind)}", file=file)
    try:
        return text.decode("utf-8"), struct.unpack("<f", score)[0], kind
    except UnicodeDecodeError:
        raise refusal("a piece that is not valid UTF-8", file=file) from None


def _check(trainer: Mapping[int, Value], normalizer: Mapping[int, Value], *, file: Path) -> None:
    kind = trainer.get(TRAINER_KIND, 1)
    if kind != BPE:
        name = KINDS.get(kind, kind) if isinstance(kind, int) else kind
        raise refusal(f"a SentencePiece model of the kind {quoted(name)}; only BPE is read", file=file)
    refused = {
        "characters are replaced by a table": normalizer.get(NORMALIZER_CHARACTERS),
        "spaces in a row are made one": normalizer.get(NORMALIZER_SQUEEZE, True),
        "spaces are not written as pieces": not normalizer.get(NORMALIZER_ESCAPE, True),
        "spaces stand at the end of pieces": trainer.get(TRAINER_SUFFIX),
    }
    for what, holds in refused.items():
        if holds:
            raise refusal(f"before text is cut {what}, which cannot be followed exactly", file=file)


def _check_user_defined(pieces: Pieces, *, file: Path) -> None:
    """Refuse pieces that are found in a text first, where a space before the text would move."""
    for text, kind in zip(pieces.texts, pieces.kinds, strict=True):
        if kind == USER_DEFINED and (pieces.has_leading_space or SPACE in text):
            raise refusal(
                f"the user-defined piece {quoted(text)} and spaces cannot be followed exactly", file=file
            )


def _named(index: Value, texts: list[str]) -> str | None:
    """Return the piece of an id; -1, a large number on the wire, stands for none."""
    return texts[index] if isinstance(index, int) and index < len(texts) else None


def _fields(content: Value, *, file: Path) -> Iterator[tuple[int, Value]]:
    """Yield the number and the value of each field: bytes, but for whole numbers."""
    if isinstance(content, int):
        raise refusal("a number where a message of protocol buffers belongs", file=file)
    position = 0
    while position < len(content):
        key, position = _number(content, position, file=file)
        wire = key & 7
        if wire == 0:
            value, position = _number(content, position, file=file)
            yield key >> 3, value
            continue
        if wire == 2:  # noqa: PLR2004 - a length and so many bytes
            length, position = _number(content, position, file=file)
        elif wire in _WIDTHS:
            length = _WIDTHS[wire]
        else:
            raise refusal(f"no SentencePiece model: wire type {wire}", file=file)
        if length > len(content) - position:
            raise refusal("no SentencePiece model, or cut short", file=file)
        yield key >> 3, content[position : position + length]
        position += length


def _number(content: bytes, position: int, *, file: Path) -> tuple[int, int]:
    """Read a varint; return it and where the next byte stands."""
    number = 0
    for count, byte in enumerate(content[position : position + _LONGEST_NUMBER]):
        number |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:  # noqa: PLR2004 - the highest bit says that more follow
            return number, position + count + 1
    raise refusal("no SentencePiece model, or cut short", file=file)
