"""From what a caller writes to the tokens a model reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tritium.engine.request import ContextLengthExceededError
from tritium.errors import ValidationError

if TYPE_CHECKING:
    from tritium.model.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


_LONGEST_TOKEN = 256  # characters; vocabularies have no longer ones
Prompt = str | tuple[int, ...] | tuple[ChatMessage, ...]


def encode_prompt(
    tokenizer: Tokenizer, prompt: Prompt, *, context_limit: int | None = None, param: str = "prompt"
) -> tuple[int, ...]:
    """Turn text, token ids or chat messages into token ids.

    Args:
        tokenizer: the model's.
        prompt: what the caller wrote.
        context_limit: the tokens a model reads at most; a text that is far too long is refused before it is
            encoded (that would take a while), every other one by its exact number of tokens by the engine.
        param: the name of the field in an error's details.

    Raises:
        ContextLengthExceededError: far too long.
        ValidationError: empty, an id outside the vocabulary, or messages which the model's template refuses.
    """
    if isinstance(prompt, str):
        _require_short(prompt, context_limit, param)
        token_ids = tuple(tokenizer.encode(prompt, add_special=True))
    elif prompt and isinstance(prompt[0], ChatMessage):
        text = _render(tokenizer, prompt)
        _require_short(text, context_limit, "messages")
        # The template writes the special tokens itself.
        token_ids = tuple(tokenizer.encode(text, add_special=False))
    else:
        token_ids = tuple(_require_token_id(tokenizer, item, param) for item in prompt)
    if not token_ids:
        raise ValidationError("the prompt is empty: give at least one token.", param=param)
    return token_ids


def _render(tokenizer: Tokenizer, messages: tuple[object, ...]) -> str:
    turns = [{"role": m.role, "content": m.content} for m in messages if isinstance(m, ChatMessage)]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True)


def _require_short(text: str, context_limit: int | None, param: str) -> None:
    if context_limit is not None and len(text) > context_limit * _LONGEST_TOKEN:
        raise ContextLengthExceededError(
            f"the context limit is {context_limit} tokens; {len(text)} characters cannot fit: shorten it.",
            param=param,
            limit=context_limit,
        )


def _require_token_id(tokenizer: Tokenizer, item: object, param: str) -> int:
    if not isinstance(item, int) or not 0 <= item < tokenizer.vocab_size:
        raise ValidationError(
            f"a prompt of token ids holds {item!r}; ids run from 0 to {tokenizer.vocab_size - 1}.",
            param=param,
            limit=tokenizer.vocab_size - 1,
        )
    return item
