"""The files that travel with the weights of a model: configuration, tokenizer, template, pooling."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritium.formats.pieces import pieces_definition
from tritium.formats.refusal import quoted, refusal
from tritium.formats.sentencepiece import read_sentencepiece
from tritium.formats.strict_json import parse_json_object
from tritium.formats.tokenizer_definition import added_token, encoded
from tritium.model.pooling import POOLING_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritium.formats.checkpoint import Checkpoint

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
PIECES_FILE = "tokenizer.model"
ADDED_FILE = "added_tokens.json"
# What travels with the weights when a model is saved.
COMPANION_FILES = (
    "config.json",
    "generation_config.json",
    TOKENIZER_FILE,
    SETTINGS_FILE,
    "special_tokens_map.json",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
    POOLING_FILE,
)
_LARGEST_COMPANION = 1 << 28  # bytes


def companion_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Read the files that travel with the weights of a checkpoint: tokenizer, template, configs."""
    files: dict[str, bytes] = {}
    for name in COMPANION_FILES:
        content = _read(checkpoint, name)
        if content is not None:
            files[name] = content
    return files


def with_tokenizer(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint whose tokenizer is a tokenizer.json, if need be made of a tokenizer.model.

    Raises:
        ValidationError: there is a tokenizer.model whose tokens a tokenizer.json cannot give exactly.
    """
    if checkpoint.has_file(TOKENIZER_FILE):
        return checkpoint
    content = _read(checkpoint, PIECES_FILE)
    if content is None:
        return checkpoint
    return dataclasses.replace(
        checkpoint, embedded=companion_files(checkpoint) | _tokenizer_files(checkpoint, content)
    )


def _tokenizer_files(checkpoint: Checkpoint, content: bytes) -> dict[str, bytes]:
    """Return tokenizer.json and its settings as transformers makes them of the files that are there."""
    path = Path(PIECES_FILE)
    found = read_sentencepiece(content, file=path)
    settings = {"bos_token": found.bos, "eos_token": found.eos} | _read_json(checkpoint, SETTINGS_FILE)
    first, last = _text(settings.get("bos_token")), _text(settings.get("eos_token"))
    definition = pieces_definition(
        found.pieces,
        first=first if settings.get("add_bos_token", True) else None,
        last=last if settings.get("add_eos_token", False) else None,
        more=_added(checkpoint, settings, found.pieces.texts),
        file=path,
    )
    return {TOKENIZER_FILE: encoded(definition), SETTINGS_FILE: encoded(settings)}


def _added(checkpoint: Checkpoint, settings: Mapping[str, Any], texts: Sequence[str]) -> list[dict[str, Any]]:
    """Return the tokens that a model got after its vocabulary was trained, in the order of their ids."""
    described = settings.get("added_tokens_decoder")
    if isinstance(described, dict):
        ids = {_text(token): (int(index), token) for index, token in described.items() if index.isdecimal()}
    else:
        ids = {text: (index, {}) for text, index in _read_json(checkpoint, ADDED_FILE).items()}
    added: list[dict[str, Any]] = []
    for text, (index, token) in sorted(ids.items(), key=lambda item: item[1][0]):
        if index < len(texts):
            if texts[index] != text:
                raise refusal(
                    f"the token {quoted(text)} has the id of the piece {quoted(texts[index])}",
                    file=SETTINGS_FILE,
                )
            continue
        if index != len(texts) + len(added) or not text:
            raise refusal(f"the added token {quoted(text)} leaves out ids before {index}", file=SETTINGS_FILE)
        is_special = bool(token.get("special", text in _special(settings)))
        strips = {side: bool(token.get(side, False)) for side in ("lstrip", "rstrip", "single_word")}
        added.append(added_token(index, text, is_special=is_special) | strips)
    return added


def _special(settings: Mapping[str, Any]) -> set[str | None]:
    """Return the tokens that the settings name for a role."""
    more = settings.get("additional_special_tokens")
    roles = [value for name, value in settings.items() if name.endswith("_token")]
    return {_text(value) for value in [*roles, *(more if isinstance(more, list) else [])]}


def _text(token: Any) -> str | None:
    """Return the text of a token, which settings write as a text or as an object."""
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else None


def _read_json(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    content = _read(checkpoint, name)
    return {} if content is None else parse_json_object(content, file=name)


def _read(checkpoint: Checkpoint, name: str) -> bytes | None:
    return checkpoint.read_file(name, limit=_LARGEST_COMPANION)
