"""Pieces with scores as the metadata of a GGUF file: the tokenizer that llama.cpp calls "llama"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from tritium.formats.pieces import BYTE_PIECES, SPACE, Pieces, merges_of
from tritium.formats.refusal import quoted, refusal
from tritium.formats.tokenizer_definition import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tritium.formats.gguf import Value

Scalar = TypeVar("Scalar", str, int, float)
PIECES: Final = "llama"
FILE: Final = "tokenizer.json"
_REPLACE: Final = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
# Gemma's tokenizer.json has it: it finds nothing where the normalizer has written all spaces out.
_SPLIT_AT_SPACES: Final = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}
_PREPEND: Final = {"type": "Prepend", "prepend": SPACE}


def pieces_of(given: Mapping[str, Any], *, file: Path) -> Pieces:
    """Return the pieces that the keys of a GGUF file describe, given without `tokenizer.ggml.`.

    Raises:
        ValidationError: tokens, scores and kinds are not lists of one length.
    """
    texts, kinds = list_of(given.get("tokens"), str), list_of(given.get("token_type"), int)
    scores, has_space = list_of(given.get("scores"), float), given.get("add_space_prefix", True)
    if texts is None or scores is None or kinds is None or not len(texts) == len(scores) == len(kinds):
        raise refusal("tokens, scores and token_type of the tokenizer must be lists of one length", file=file)
    if not isinstance(has_space, bool):
        raise refusal(f"add_space_prefix must be true or false, not {quoted(has_space)}", file=file)
    return Pieces(texts=texts, scores=scores, kinds=kinds, has_leading_space=has_space)


def is_of_pieces(tokenizer: Mapping[str, Any]) -> bool:
    """Tell whether a tokenizer.json cuts text as pieces with scores do: no split, spaces written out."""
    has_space = _has_leading_space(tokenizer)
    return has_space is not None and tokenizer.get("pre_tokenizer") in (None, _SPLIT_AT_SPACES)


def pieces_metadata(tokenizer: Mapping[str, Any], *, vocab_size: int) -> dict[str, Value]:
    """Return the keys `tokenizer.ggml.*` of a tokenizer.json for which `is_of_pieces` holds.

    Raises:
        ValidationError: scores cannot say what its merges say, or an id is beyond the vocabulary.
    """
    model = tokenizer["model"]
    for option in ("dropout", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise refusal(f"a BPE tokenizer with {option} cannot be written to GGUF", file=FILE)
    if not model.get("fuse_unk") or model.get("unk_token") not in model["vocab"]:
        raise refusal("a tokenizer of pieces needs one piece for what is unknown", file=FILE)
    texts = [f"[unused{index}]" for index in range(vocab_size)]
    kinds = [UNUSED] * vocab_size
    for text, (index, kind) in _kinds(tokenizer).items():
        if not 0 <= index < vocab_size:
            raise refusal(f"the token {quoted(text)} has id {index}; the model has {vocab_size}", file=FILE)
        texts[index], kinds[index] = text, kind
    normal = [text for text, kind in zip(texts, kinds, strict=True) if kind == NORMAL]
    scores = _scores(
        normal, [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    )
    return {
        "tokenizer.ggml.model": PIECES,
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": [scores.get(text, 0.0) for text in texts],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.unknown_token_id": model["vocab"][model["unk_token"]],
        "tokenizer.ggml.add_space_prefix": bool(_has_leading_space(tokenizer)),
    }


def list_of(values: Any, kind: type[Scalar]) -> list[Scalar] | None:
    """Return a list of nothing but values of one type as what it is; None for anything else."""
    is_list = isinstance(values, list) and all(type(value) is kind for value in values)
    return values if is_list else None


def _has_leading_space(tokenizer: Mapping[str, Any]) -> bool | None:
    """Return whether a space is put before a text; None if text is changed in another way."""
    match tokenizer.get("normalizer"):
        case {"type": "Sequence", "normalizers": [first, second]} if (first, second) == (_PREPEND, _REPLACE):
            return True
        case {"type": "Sequence", "normalizers": [only]} if only == _REPLACE:
            return False
        case only if only == _REPLACE:
            return False
    return None


def _kinds(tokenizer: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return id and kind of every token by its text."""
    model = tokenizer["model"]
    bytes_found = set(BYTE_PIECES) if model.get("byte_fallback") else set()
    found = {text: (index, BYTE if text in bytes_found else NORMAL) for text, index in model["vocab"].items()}
    for added in tokenizer.get("added_tokens") or []:
        found[added["content"]] = added["id"], CONTROL if added.get("special") else USER_DEFINED
    unknown = model["unk_token"]
    return found | {unknown: (model["vocab"][unknown], UNKNOWN)}


def _scores(normal: list[str], merges: list[list[str]]) -> dict[str, float]:
    """Return scores under which pieces are joined in the order of these merges."""
    joined = dict.fromkeys("".join(merge) for merge in merges)
    order = [*joined, *(text for text in normal if text not in joined)]
    scores = {text: -float(place) for place, text in enumerate(order)}
    if not joined.keys() <= set(normal) or merges_of(scores) != [tuple(merge) for merge in merges]:
        raise refusal("scores of pieces cannot say what the merges of this tokenizer say", file=FILE)
    return scores
