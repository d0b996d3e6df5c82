"""From what a caller writes to the tokens a model reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from tritium.model.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | tuple[int, ...] | tuple[ChatMessage, ...]


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt, *, param: str = "prompt") -> tuple[int, ...]:
    """Turn text, token ids or chat messages into token ids.

    Args:
        tokenizer: the model's.
        prompt: what the caller wrote.
        param: the name of the field in an error's details.

    Raises:
        ValidationError: empty, an id outside the vocabulary, or messages which the model's template refuses.
    """
    if isinstance(prompt, str):
        token_ids = tuple(tokenizer.encode(prompt, add_special=True))
    elif prompt and isinstance(prompt[0], ChatMessage):
        token_ids = _encode_messages(tokenizer, prompt)
    else:
        token_ids = tuple(_require_token_id(tokenizer, item, param) for item in prompt)
    if not token_ids:
        raise ValidationError("the prompt is empty: give at least one token.", param=param)
    return token_ids


def _encode_messages(tokenizer: Tokenizer, messages: tuple[object, ...]) -> tuple[int, ...]:
    turns = [{"role": m.role, "content": m.content} for m in messages if isinstance(m, ChatMessage)]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True)
    # The template writes the special tokens itself.
    return tuple(tokenizer.encode(text, add_special=False))


def _require_token_id(tokenizer: Tokenizer, item: object, param: str) -> int:
    if not isinstance(item, int) or not 0 <= item < tokenizer.vocab_size:
        raise ValidationError(
            f"a prompt of token ids holds {item!r}; ids run from 0 to {tokenizer.vocab_size - 1}.",
            param=param,
            limit=tokenizer.vocab_size - 1,
        )
    return item
