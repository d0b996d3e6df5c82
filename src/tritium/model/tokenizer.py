"""Text to token ids and back, chat messages to text, and text that grows while tokens arrive."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from tritium.errors import ValidationError
from tritium.formats.checkpoint import contained_file
from tritium.formats.strict_json import LARGEST_JSON, parse_json_object
from tritium.formats.weight_file import read_small_file
from tritium.model.chat_template import LARGEST_TEMPLATE, ChatTemplate
from tritium.model.companions import SETTINGS_FILE, TOKENIZER_FILE
from tritium.model.config import ModelConfig, parse_token_ids
from tritium.model.spelling import Spelling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEMPLATE_FILE = "chat_template.jinja"
LARGEST_TOKENIZER = 1 << 28  # bytes
LARGEST_INPUT = 1 << 24  # characters of one text
_REPLACEMENT = "\ufffd"  # what stands for bytes that are no UTF-8 yet
_LONGEST_SEQUENCE = 3  # replacements that a character cut short can leave (one per byte in some decoders)
_MOST_PENDING = 64  # tokens held back before text that stays broken is let go


class Tokenizer:
    """The tokenizer of a checkpoint directory: tokenizer.json, its special tokens and its chat template.

    Args:
        path: the directory, or a file in it.
        files: content by name, in place of the files of the directory.

    Raises:
        ValidationError: the file is missing or not a tokenizer, at construction.
    """

    def __init__(self, path: str | Path, *, files: Mapping[str, bytes] | None = None) -> None:
        path = Path(path)
        self.path = path if path.is_dir() else path.parent
        self._files = files
        content = self._read(TOKENIZER_FILE, limit=LARGEST_TOKENIZER)
        self._tokenizer = _load(content)
        self.sha256 = hashlib.sha256(content or b"").hexdigest()
        # A file may ask for cutting or padding of every text; both are the caller's decision.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        settings = self._read_json(SETTINGS_FILE)
        self._special = _special_tokens(settings, self._read_json("special_tokens_map.json"))
        self.vocab_size: int = self._largest_id() + 1
        self.bos_token_id = self._id_of("bos_token")
        self.eos_token_ids = self._eos_token_ids()
        self._template_source = _template_source(
            self._read(TEMPLATE_FILE, limit=4 * LARGEST_TEMPLATE), settings
        )
        self._template: ChatTemplate | None = None

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Return the token ids of a text, with the special tokens the model expects around it if asked.

        Raises:
            ValidationError: the text is longer than can be encoded, or not valid Unicode.
        """
        if len(text) > LARGEST_INPUT:
            raise ValidationError(f"A text of {len(text)} characters is too long; at most {LARGEST_INPUT}.")
        try:
            encoding = self._tokenizer.encode(text, add_special_tokens=add_special)
        except (UnicodeEncodeError, TypeError):  # the library calls half a surrogate pair "not a str"
            raise ValidationError(
                "The text is not valid Unicode: it holds half of a surrogate pair."
            ) from None
        return list(encoding.ids)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of token ids; special tokens are left out unless asked for."""
        try:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special))
        except (OverflowError, TypeError):
            raise ValidationError("A token id is not a whole number that fits 32 bits.") from None

    @cached_property
    def spelling(self) -> Spelling:
        """The bytes of single tokens."""
        return Spelling(self.definition, token_of=self._tokenizer.id_to_token)

    @property
    def definition(self) -> dict[str, Any]:
        """The tokenizer as its file describes it, parsed and completed by the tokenizers library."""
        definition: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return definition

    @property
    def chat_template_source(self) -> str | None:
        """The chat template as the checkpoint has it, not checked."""
        return self._template_source

    @property
    def has_chat_template(self) -> bool:
        """Tell whether the checkpoint says how messages become text."""
        return self._template_source is not None

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Turn messages of role and content, and tools, into the text the model was trained on.

        Raises:
            ValidationError: there is no template, or it refuses these messages.
        """
        if self._template is None:
            if self._template_source is None:
                raise ValidationError("The model has no chat template: use plain text completion instead.")
            self._template = ChatTemplate(self._template_source)
        return self._template.render(
            messages, add_generation_prompt=add_generation_prompt, tools=tools, **self._special
        )

    def validate_against(self, config: ModelConfig) -> None:
        """Check that this tokenizer can belong to a model.

        Raises:
            ValidationError: a token of the tokenizer has no row in the model, or a special token of the model
                is unknown to the tokenizer.
        """
        if self.vocab_size > config.vocab_size:
            raise ValidationError(
                f"The tokenizer has {self.vocab_size} tokens and the model {config.vocab_size}: "
                "it is not this model's tokenizer.",
                file=TOKENIZER_FILE,
            )
        special = [*config.eos_token_ids, *([] if config.bos_token_id is None else [config.bos_token_id])]
        unknown = [token for token in special if self._tokenizer.id_to_token(token) is None]
        if unknown:
            raise ValidationError(
                f"The model's special token {unknown[0]} is not in the tokenizer: it is another model's.",
                file=TOKENIZER_FILE,
            )

    def incremental_decoder(self) -> IncrementalDecoder:
        """Return a decoder for one stream of tokens."""
        return IncrementalDecoder(self)

    def _read(self, name: str, *, limit: int) -> bytes | None:
        """Read a file that truly lies in the checkpoint; None if there is none."""
        if self._files is not None:
            return self._files.get(name)
        path = contained_file(self.path, name)
        return None if path is None else read_small_file(path, limit=limit)

    def _read_json(self, name: str) -> dict[str, Any]:
        content = self._read(name, limit=LARGEST_JSON)
        return {} if content is None else parse_json_object(content, file=name)

    def _largest_id(self) -> int:
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    def _id_of(self, name: str) -> int | None:
        token = self._special.get(name)
        identifier = self._tokenizer.token_to_id(token) if token else None
        return None if identifier is None else int(identifier)

    def _eos_token_ids(self) -> tuple[int, ...]:
        """generation_config.json says when to stop; then the config, then the tokenizer's own end token."""
        for file in ("generation_config.json", "config.json"):
            found = parse_token_ids(self._read_json(file).get("eos_token_id"), name="eos_token_id")
            if found:
                return found
        own = self._id_of("eos_token")
        return () if own is None else (own,)


class IncrementalDecoder:
    """Turns a stream of tokens into a stream of text that never ends inside a character.

    What `push` returned so far, joined, is a beginning of the text of all tokens; `flush` returns the rest.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []  # tokens of the last finished piece, then the pending ones
        self._finished = 0  # how many of the window are finished
        self._emitted = 0  # characters of the window's text that are already out

    def push(self, *token_ids: int) -> str:
        """Take the next token (or several) and return the text that is certain now, perhaps none."""
        self._window += token_ids
        text = self._tokenizer.decode(self._window)
        if not text.endswith(_REPLACEMENT) or len(self._window) - self._finished > _MOST_PENDING:
            fresh = text[self._emitted :]
            # Decoders look one token back (a space between words), so the last piece stays as context.
            self._window = self._window[self._finished :]
            self._finished = len(self._window)
            self._emitted = len(self._tokenizer.decode(self._window))
            return fresh
        certain = text[: max(len(text.rstrip(_REPLACEMENT)), len(text) - _LONGEST_SEQUENCE)]
        fresh = certain[self._emitted :]
        self._emitted = max(self._emitted, len(certain))
        return fresh

    def flush(self) -> str:
        """Return what is still held back; broken bytes become U+FFFD."""
        text = self._tokenizer.decode(self._window)
        fresh = text[self._emitted :]
        self._window, self._finished, self._emitted = [], 0, 0
        return fresh


def _load(content: bytes | None) -> tokenizers.Tokenizer:
    if content is None:
        raise ValidationError(
            f"The model has no {TOKENIZER_FILE}: copy it, and tokenizer_config.json, from where the model "
            "comes from into its directory.",
            file=TOKENIZER_FILE,
        )
    try:
        return tokenizers.Tokenizer.from_str(content.decode("utf-8"))
    # The tokenizers library raises a bare Exception for a file it does not understand.
    except Exception as error:  # noqa: BLE001 - see above
        raise ValidationError(
            f"{TOKENIZER_FILE} is not a tokenizer: {str(error)[:200]}.", file=TOKENIZER_FILE
        ) from None


def _special_tokens(*sources: Mapping[str, Any]) -> dict[str, str]:
    """Read bos_token, eos_token and their like; the first source that names one wins."""
    found: dict[str, str] = {}
    for source in sources:
        for name in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token"):
            value = source.get(name)
            if isinstance(value, dict):
                value = value.get("content")
            if isinstance(value, str):
                found.setdefault(name, value)
    return found


def _template_source(content: bytes | None, settings: Mapping[str, Any]) -> str | None:
    if content is not None:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise ValidationError(f"{TEMPLATE_FILE} is not valid UTF-8.", file=TEMPLATE_FILE) from None
    value = settings.get("chat_template")
    if isinstance(value, list):  # several named templates
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None
