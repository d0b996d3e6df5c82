"""The metadata of a GGUF file as tokenizer files: the way back from gguf_tokenizer.py.

Only what can be rebuilt exactly is: byte-level BPE with a split of text whose pattern is known, and pieces of
SentencePiece's BPE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tritium.formats.gguf_pieces import PIECES, list_of, pieces_of
from tritium.formats.gguf_tokenizer import GPT2, SPLITS, numbered_vocabulary
from tritium.formats.pieces import pieces_definition
from tritium.formats.refusal import quoted, refusal
from tritium.formats.tokenizer_definition import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    added_token,
    around_text,
    encoded,
    parts_without_choice,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PREFIX = "tokenizer.ggml."
LLAMA_3 = "llama-bpe"
PATTERNS: Final[Mapping[str, str]] = {name: pattern for pattern, name in SPLITS.items()}
SAME_SPLIT: Final[Mapping[str, str]] = {"llama3": LLAMA_3, "llama-v3": LLAMA_3}
# A tokenizer of Llama 3 is known by what its vocabulary says at these ids (files of BitNet name no split).
LLAMA_3_TOKENS: Final[Mapping[int, str]] = {0: "!", 128000: "<|begin_of_text|>", 128009: "<|eot_id|>"}
KEYS_READ = frozenset(
    {"model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "eot_token_id",
     "add_bos_token", "add_eos_token"}
)  # fmt: skip
# Without influence on how text becomes tokens by byte-level BPE: ids that name other roles, and scores.
KEYS_HARMLESS = frozenset(
    {"scores", "token_type_count", "unknown_token_id", "padding_token_id", "separator_token_id",
     "cls_token_id", "mask_token_id", "eom_token_id", "fim_pre_token_id", "fim_suf_token_id",
     "fim_mid_token_id", "fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id"}
)  # fmt: skip
KEYS_FALSE = frozenset({"add_space_prefix", "add_sep_token", "remove_extra_whitespaces"})
KEYS_FALSE_OF_PIECES = KEYS_FALSE - {"add_space_prefix"}


def tokenizer_files(metadata: Mapping[str, Any], *, file: Path) -> dict[str, bytes]:
    """Return tokenizer.json and tokenizer_config.json, by name; none if the model has no tokenizer.

    Raises:
        ValidationError: a tokenizer that cannot be rebuilt exactly; the message says why.
    """
    given = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    has_pieces = given.get("model") == PIECES
    _check_keys(given, KEYS_FALSE_OF_PIECES if has_pieces else KEYS_FALSE, file=file)
    if not given or _is_numbered(given):
        return {}
    pieces = pieces_of(given, file=file) if has_pieces else None
    tokens = _tokens(given, file=file)[0] if pieces is None else pieces.texts
    bos, eos = (_token(given, name, tokens, file=file) for name in ("bos_token_id", "eos_token_id"))
    settings = {"bos_token": bos, "eos_token": eos, "chat_template": _template(metadata, file=file)}
    if pieces is None:
        definition = _byte_level_definition(given, bos, eos, file=file)
    else:
        first, last = _ends(given, bos, eos, adds_bos=True, file=file)
        definition = pieces_definition(pieces, first=first, last=last, file=file)
    return {
        "tokenizer.json": encoded(definition),
        "tokenizer_config.json": encoded({key: text for key, text in settings.items() if text is not None}),
    }


def end_tokens(metadata: Mapping[str, Any]) -> list[Any]:
    """Return the ids that end a text or a turn, as far as the file names them."""
    end, end_of_turn = (metadata.get(f"{PREFIX}{name}_token_id") for name in ("eos", "eot"))
    named = [end] if end_of_turn == end else [end, end_of_turn]
    return [value for value in named if value is not None]


def _byte_level_definition(
    given: Mapping[str, Any], bos: str | None, eos: str | None, *, file: Path
) -> dict[str, Any]:
    tokens, kinds = _tokens(given, file=file)
    split = _split(given, tokens, file=file)
    # A reader of llama.cpp puts the first token of Llama 3 where the file does not say.
    first, last = _ends(given, bos, eos, adds_bos=split == LLAMA_3, file=file)
    vocabulary = _vocabulary(tokens, kinds, file=file)
    return {
        **parts_without_choice(),
        "normalizer": None,
        "added_tokens": [
            added_token(index, token, is_special=kind == CONTROL)
            for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind in {CONTROL, USER_DEFINED}
        ],
        "pre_tokenizer": _pre_tokenizer(split),
        "post_processor": around_text(first, last, ids=vocabulary),
        "decoder": _byte_level(splits=True),
        "model": _model(given, vocabulary, split=split, file=file),
    }


def _ends(
    given: Mapping[str, Any], bos: str | None, eos: str | None, *, adds_bos: bool, file: Path
) -> tuple[str | None, str | None]:
    """Return the tokens that begin and end every text; `adds_bos` is what holds where the file is silent."""
    wanted = given.get("add_bos_token", adds_bos), given.get("add_eos_token", False)
    for name, is_wanted, token in zip(("first", "last"), wanted, (bos, eos), strict=True):
        if not isinstance(is_wanted, bool) or (is_wanted and token is None):
            raise refusal(f"the tokenizer's {name} token is asked for and not named", file=file)
    return bos if wanted[0] else None, eos if wanted[1] else None


def _check_keys(given: Mapping[str, Any], must_be_false: frozenset[str], *, file: Path) -> None:
    for key, value in given.items():
        if key in must_be_false and value is False:
            continue
        if key not in KEYS_READ | KEYS_HARMLESS | (KEYS_FALSE - must_be_false):
            raise refusal(
                f"the metadata {quoted(PREFIX + key)} = {quoted(value)} asks for what BPE here cannot do",
                file=file,
            )


def _is_numbered(given: Mapping[str, Any]) -> bool:
    """Tell whether these are the names that stand for a model without a tokenizer."""
    tokens = given.get("tokens")
    return isinstance(tokens, list) and tokens == numbered_vocabulary(len(tokens))[f"{PREFIX}tokens"]


def _tokens(given: Mapping[str, Any], *, file: Path) -> tuple[list[str], list[int]]:
    if given.get("model") != "gpt2":
        raise refusal(
            f"the tokenizer {quoted(given.get('model'))} cannot be rebuilt exactly, only gpt2 and llama can",
            file=file,
        )
    tokens = list_of(given.get("tokens"), str)
    kinds = list_of(given.get("token_type", [NORMAL] * len(tokens or [])), int)
    if tokens is None or kinds is None or len(tokens) != len(kinds):
        raise refusal("tokens and token_type of the tokenizer must be lists of one length", file=file)
    for token, kind in zip(tokens, kinds, strict=True):
        if kind not in {NORMAL, CONTROL, USER_DEFINED, UNUSED}:
            raise refusal(
                f"the token {quoted(token)} has the type {kind}, which BPE does not have", file=file
            )
    return tokens, kinds


def _split(given: Mapping[str, Any], tokens: list[str], *, file: Path) -> str:
    """Name the pattern, or refuse: a wrong split gives other tokens, and nobody would notice."""
    name = given.get("pre")
    if name is None:
        if all(index < len(tokens) and tokens[index] == text for index, text in LLAMA_3_TOKENS.items()):
            return LLAMA_3
        raise refusal("the tokenizer does not say how text is split (tokenizer.ggml.pre)", file=file)
    split = SAME_SPLIT.get(str(name), str(name))
    if split != GPT2 and split not in PATTERNS:
        known = ", ".join([GPT2, *PATTERNS])
        raise refusal(f"the split {quoted(name)} of the tokenizer is not known; known are {known}", file=file)
    return split


def _token(given: Mapping[str, Any], key: str, tokens: Sequence[str], *, file: Path) -> str | None:
    index = given.get(key)
    if index is None:
        return None
    if type(index) is not int or not 0 <= index < len(tokens):
        raise refusal(f"{key} {quoted(index)} is no token of the tokenizer", file=file)
    return tokens[index]


def _template(metadata: Mapping[str, Any], *, file: Path) -> str | None:
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise refusal("tokenizer.chat_template must be a text", file=file)
    return template


def _vocabulary(tokens: list[str], kinds: list[int], *, file: Path) -> dict[str, int]:
    vocabulary: dict[str, int] = {}
    for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind == UNUSED:
            continue
        if token in vocabulary:
            raise refusal(
                f"the token {quoted(token)} has two ids, {vocabulary[token]} and {index}", file=file
            )
        vocabulary[token] = index
    return vocabulary


def _model(given: Mapping[str, Any], vocabulary: dict[str, int], *, split: str, file: Path) -> dict[str, Any]:
    nothing = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    return {
        **dict.fromkeys(nothing),
        **dict.fromkeys(("fuse_unk", "byte_fallback"), False),
        "type": "BPE",
        "ignore_merges": split == LLAMA_3,
        "vocab": vocabulary,
        "merges": _merges(given, vocabulary, file=file),
    }


def _merges(given: Mapping[str, Any], vocabulary: dict[str, int], *, file: Path) -> list[list[str]]:
    merges = list_of(given.get("merges"), str)
    if merges is None:
        raise refusal("the tokenizer has no list of merges", file=file)
    if merges == numbered_vocabulary(0)[f"{PREFIX}merges"]:
        return []
    pairs = [merge.split(" ") for merge in merges]
    for pair in pairs:
        if len(pair) != 2 or not vocabulary.keys() >= {*pair, "".join(pair)}:  # noqa: PLR2004 - a pair
            raise refusal(f"the merge {quoted(' '.join(pair))} does not join two tokens to one", file=file)
    return pairs


def _pre_tokenizer(split: str) -> dict[str, Any]:
    if split == GPT2:
        return _byte_level(splits=True)
    pattern = {"pattern": {"Regex": PATTERNS[split]}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [{"type": "Split", **pattern}, _byte_level(splits=False)]}


def _byte_level(*, splits: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": splits}
