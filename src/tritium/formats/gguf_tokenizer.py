"""A tokenizer.json as the metadata of a GGUF file: tokens, their kinds, merges, how text is split first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tritium.formats.gguf_pieces import is_of_pieces, pieces_metadata
from tritium.formats.refusal import quoted, refusal
from tritium.formats.tokenizer_definition import CONTROL, NORMAL, UNUSED, USER_DEFINED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium.formats.gguf import Value

FILE = "tokenizer.json"
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# What splits text before the merges -> the name under which llama.cpp knows that pattern.
SPLITS: Final[Mapping[str, str]] = {
    _LETTERS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _LETTERS + r"\p{N}" + _REST: "qwen2",
}
GPT2 = "gpt-2"  # the pattern that a byte-level pre-tokenizer brings along


def tokenizer_metadata(tokenizer: Mapping[str, Any], *, vocab_size: int) -> dict[str, Value]:
    """Return the keys `tokenizer.ggml.*` that describe a BPE tokenizer, byte-level or of SentencePiece.

    Args:
        tokenizer: the parsed tokenizer.json.
        vocab_size: rows of the model's embeddings; ids without a token are marked unused.

    Raises:
        ValidationError: another kind of tokenizer, or a step that a GGUF reader would not take.
    """
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise refusal("only a BPE tokenizer can be written to GGUF", file=FILE)
    if is_of_pieces(tokenizer):
        return pieces_metadata(tokenizer, vocab_size=vocab_size)
    for option in (
        "byte_fallback",
        "unk_token",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "dropout",
    ):
        if model.get(option):
            raise refusal(f"a BPE tokenizer with {option} cannot be written to GGUF", file=FILE)
    if tokenizer.get("normalizer") is not None:
        raise refusal("the normalizer would be lost: GGUF readers do not normalise text", file=FILE)
    tokens, kinds = _vocabulary(tokenizer, vocab_size=vocab_size)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", [])]
    split = _split_name(tokenizer.get("pre_tokenizer"))
    if bool(model.get("ignore_merges")) != (split == "llama-bpe"):
        raise refusal(f"ignore_merges does not fit the split {split!r} of GGUF readers", file=FILE)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": split,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        # A list in GGUF is never empty; one merge of two unused names never applies.
        "tokenizer.ggml.merges": merges or [f"{_unused(0)} {_unused(1)}"],
    }


def numbered_vocabulary(vocab_size: int) -> dict[str, Value]:
    """Return `tokenizer.ggml.*` for a model without a tokenizer: it can be run by token ids, not by text."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": GPT2,
        "tokenizer.ggml.tokens": [_unused(index) for index in range(vocab_size)],
        "tokenizer.ggml.token_type": [NORMAL] * vocab_size,
        "tokenizer.ggml.merges": [f"{_unused(0)} {_unused(1)}"],
        "tokenizer.ggml.add_bos_token": False,
    }


def _unused(index: int) -> str:
    return f"[unused{index}]"


def _vocabulary(tokenizer: Mapping[str, Any], *, vocab_size: int) -> tuple[list[str], list[int]]:
    tokens = [_unused(index) for index in range(vocab_size)]
    kinds = [UNUSED] * vocab_size
    entries = [(index, text, NORMAL) for text, index in tokenizer["model"]["vocab"].items()]
    entries += [
        (added["id"], added["content"], CONTROL if added.get("special") else USER_DEFINED)
        for added in tokenizer.get("added_tokens") or []
    ]
    for index, text, kind in entries:
        if not 0 <= index < vocab_size:
            raise refusal(f"the token {quoted(text)} has id {index}; the model has {vocab_size}", file=FILE)
        tokens[index], kinds[index] = text, kind
    return tokens, kinds


def _split_name(pre_tokenizer: Any) -> str:
    """Name the pattern, or refuse: a wrong split gives other tokens, and nobody would notice."""
    steps = pre_tokenizer or {}
    steps = steps.get("pretokenizers", [steps]) if isinstance(steps, dict) else []
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, **level}] if level.get("use_regex", True):
            return GPT2
        case [
            {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ] if pattern in SPLITS:
            return SPLITS[pattern]
    raise refusal("no name is known to GGUF readers for how this tokenizer splits text", file=FILE)
