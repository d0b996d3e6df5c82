"""A vocabulary of pieces with scores, as SentencePiece trains it by byte-pair encoding, as a tokenizer.json.

SentencePiece joins, again and again, the two neighbours whose joined piece has the highest score, the
leftmost of equals (Kudo and Richardson, arXiv 1808.06226); the merges of a tokenizer.json are pairs in an
order. They say the same where scores differ: merges in the order of the joined piece's score. Where they do
not, the vocabulary is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tritium.formats.refusal import quoted, refusal
from tritium.formats.tokenizer_definition import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    added_token,
    around_text,
    parts_without_choice,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

SPACE: Final = "\u2581"  # how pieces write a space
BYTE_PIECES: Final = tuple(f"<0x{byte:02X}>" for byte in range(256))
Merge = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Pieces by id, each with its score and its kind (the numbers of SentencePiece, which GGUF uses too).

    Attributes:
        has_leading_space: whether a space is put before every text.
    """

    texts: Sequence[str]
    scores: Sequence[float]
    kinds: Sequence[int]
    has_leading_space: bool


def pieces_definition(
    pieces: Pieces, *, first: str | None, last: str | None, more: Sequence[Mapping[str, Any]] = (), file: Path
) -> dict[str, Any]:
    """Return the content of the tokenizer.json that gives the tokens of these pieces.

    Args:
        pieces: the vocabulary.
        first: the token that begins every text, if one does.
        last: the token that ends every text, if one does.
        more: tokens after those of the vocabulary, as the list `added_tokens` describes them.
        file: what messages name.

    Raises:
        ValidationError: merges cannot say the same; the message says why.
    """
    ids = _ids(pieces, file=file)
    unknown = [text for text, kind in zip(pieces.texts, pieces.kinds, strict=True) if kind == UNKNOWN]
    if len(unknown) != 1:
        raise refusal(f"one piece must stand for what is unknown, not {len(unknown)}", file=file)
    special = [
        added_token(ids[text], text, is_special=kind != USER_DEFINED)
        for text, kind in zip(pieces.texts, pieces.kinds, strict=True)
        if kind in {CONTROL, UNKNOWN, USER_DEFINED}
    ]
    known = ids | {str(token["content"]): int(token["id"]) for token in more}
    return {
        **parts_without_choice(),
        "added_tokens": [*special, *more],
        "normalizer": _normalizer(has_leading_space=pieces.has_leading_space),
        "pre_tokenizer": None,
        "post_processor": around_text(first, last, ids=known),
        "decoder": _decoder(has_leading_space=pieces.has_leading_space),
        "model": {
            **dict.fromkeys(("dropout", "continuing_subword_prefix", "end_of_word_suffix")),
            "type": "BPE",
            "unk_token": unknown[0],
            "fuse_unk": True,
            "byte_fallback": _has_bytes(pieces, file=file),
            "ignore_merges": False,
            "vocab": ids,
            "merges": [list(merge) for merge in _merges(pieces, file=file)],
        },
    }


def merges_of(scores: Mapping[str, float]) -> list[Merge]:
    """Return all pairs of pieces that join to a piece, those of the highest score first.

    Args:
        scores: of every piece that takes part.
    """
    pairs = [
        (score, left, right) for piece, score in scores.items() for left, right in _halves(piece, scores)
    ]
    # The order among the pairs of one piece is that of transformers: its files stay what they are.
    pairs.sort(key=lambda pair: (-pair[0], len(pair[1]), len(pair[2])))
    return [(left, right) for _, left, right in pairs]


def _merges(pieces: Pieces, *, file: Path) -> list[Merge]:
    scored = zip(pieces.texts, pieces.scores, pieces.kinds, strict=True)
    scores = {text: score for text, score, kind in scored if kind == NORMAL}
    for text, kind in zip(pieces.texts, pieces.kinds, strict=True):
        if kind == UNUSED and any(_halves(text, scores)):
            raise refusal(f"the unused piece {quoted(text)} would be put together and split again", file=file)
    merges = merges_of(scores)
    of_score: dict[float, str] = {}
    for left, right in merges:
        piece = left + right
        other = of_score.setdefault(scores[piece], piece)
        if other != piece:
            raise refusal(
                f"the pieces {quoted(other)} and {quoted(piece)} have one score: none comes first",
                file=file,
            )
    return merges


def _halves(piece: str, known: Mapping[str, float]) -> Iterator[Merge]:
    for cut in range(1, len(piece)):
        left, right = piece[:cut], piece[cut:]
        if left in known and right in known:
            yield left, right


def _ids(pieces: Pieces, *, file: Path) -> dict[str, int]:
    ids: dict[str, int] = {}
    for index, text in enumerate(pieces.texts):
        if not text:
            raise refusal(f"the piece {index} is empty", file=file)
        if text in ids:
            raise refusal(f"the piece {quoted(text)} has two ids, {ids[text]} and {index}", file=file)
        ids[text] = index
    return ids


def _has_bytes(pieces: Pieces, *, file: Path) -> bool:
    found = [text for text, kind in zip(pieces.texts, pieces.kinds, strict=True) if kind == BYTE]
    if found and sorted(found) != sorted(BYTE_PIECES):
        raise refusal(f"of the 256 pieces for single bytes there are {len(set(found))}", file=file)
    return bool(found)


def _normalizer(*, has_leading_space: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"type": "Prepend", "prepend": SPACE}] if has_leading_space else []
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    return {"type": "Sequence", "normalizers": steps}


def _decoder(*, has_leading_space: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if has_leading_space:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}
