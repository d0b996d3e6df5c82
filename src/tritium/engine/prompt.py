"""From what a caller writes to the tokens a model reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, get_args

from tritium.engine.request import ContextLengthExceededError
from tritium.engine.tools import shown_tools
from tritium.errors import ValidationError

if TYPE_CHECKING:
    from tritium.engine.tools import ToolUse
    from tritium.model.tokenizer import Tokenizer


Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class CalledTool:
    """A call that the model made in an earlier turn; `arguments` is JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation; `tool_call_id` says which call the result of a tool answers."""

    role: Role
    content: str
    tool_calls: tuple[CalledTool, ...] = ()
    tool_call_id: str | None = None


_ROLES = frozenset(get_args(Role)) - {"tool"}  # what the library's own chat takes
_LONGEST_TOKEN = 256  # characters; vocabularies have no longer ones
Prompt = str | tuple[int, ...] | tuple[ChatMessage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedPrompt:
    """The tokens a model reads for a prompt.

    Attributes:
        tokens: each as the vocabulary writes it.
        context_limit: how many the model takes at most, the answer included.
    """

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    context_limit: int


def split_prompts(value: object, *, param: str = "prompt") -> tuple[str | tuple[int, ...], ...]:
    """Return the prompts of a text, a list of token ids (one prompt), or a list of these.

    Raises:
        ValidationError: anything else.
    """
    if isinstance(value, str):
        return (value,)
    if _is_list(value) and value and all(_is_token_id(item) for item in value):
        return (tuple(value),)
    if not _is_list(value) or not all(_is_prompt(item) for item in value):
        raise ValidationError(
            "A prompt is a text or a list of token ids; give one, or a list of them.", param=param
        )
    return tuple(item if isinstance(item, str) else tuple(item) for item in value)


def embedding_inputs(value: object) -> tuple[str | tuple[int, ...], ...]:
    """Return the inputs of a text, a list of token ids (one input), or a list of these; none may be empty.

    Raises:
        ValidationError: anything else.
    """
    inputs = split_prompts(value, param="input")
    if not inputs or not all(inputs):
        raise ValidationError("An input is empty: every input needs at least one character.", param="input")
    return inputs


def chat_messages(value: object) -> tuple[ChatMessage, ...]:
    """Return the turns of a list of {"role": ..., "content": ...}.

    Raises:
        ValidationError: there is none, or one is something else.
    """
    if not _is_list(value) or not value:
        raise ValidationError("A chat is a list of at least one message.", param="messages")
    return tuple(_chat_message(item) for item in value)


def encode_prompt(
    tokenizer: Tokenizer,
    prompt: Prompt,
    *,
    context_limit: int | None = None,
    param: str = "prompt",
    tool_use: ToolUse | None = None,
) -> tuple[int, ...]:
    """Turn text, token ids or chat messages into token ids.

    Args:
        tokenizer: the model's.
        prompt: what the caller wrote.
        context_limit: the tokens a model reads at most; a text that is far too long is refused before it is
            encoded (that would take a while), every other one by its exact number of tokens by the engine.
        param: the name of the field in an error's details.
        tool_use: the tools that a chat's template shows to the model.

    Raises:
        ContextLengthExceededError: far too long.
        ValidationError: empty, an id outside the vocabulary, or messages which the model's template refuses.
    """
    if isinstance(prompt, str):
        _require_short(prompt, context_limit, param)
        token_ids = tuple(tokenizer.encode(prompt, add_special=True))
    elif prompt and isinstance(prompt[0], ChatMessage):
        text = _render(tokenizer, prompt, tool_use)
        _require_short(text, context_limit, "messages")
        # The template writes the special tokens itself.
        token_ids = tuple(tokenizer.encode(text, add_special=False))
    else:
        token_ids = tuple(_require_token_id(tokenizer, item, param) for item in prompt)
    if not token_ids:
        raise ValidationError("The prompt is empty: give at least one token.", param=param)
    return token_ids


def tokenized(tokenizer: Tokenizer, token_ids: Sequence[int], *, context_limit: int) -> TokenizedPrompt:
    """Return token ids with what the vocabulary calls them."""
    return TokenizedPrompt(
        token_ids=tuple(token_ids),
        tokens=tuple(tokenizer.spelling.token(token_id) for token_id in token_ids),
        context_limit=context_limit,
    )


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _is_token_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_prompt(value: object) -> bool:
    return isinstance(value, str) or (_is_list(value) and all(_is_token_id(item) for item in value))


def _chat_message(value: object) -> ChatMessage:
    role, content = (value.get("role"), value.get("content")) if isinstance(value, Mapping) else (None, None)
    if not isinstance(content, str) or not isinstance(role, str) or role not in _ROLES:
        raise ValidationError(
            'A message must be {"role": "system" | "user" | "assistant", "content": text}.', param="messages"
        )
    return ChatMessage(role, content)  # type: ignore[arg-type]  # the role was checked above


def _render(tokenizer: Tokenizer, messages: tuple[object, ...], tool_use: ToolUse | None) -> str:
    turns = [_turn(message) for message in messages if isinstance(message, ChatMessage)]
    tools = None if tool_use is None else shown_tools(tool_use, tokenizer=tokenizer)
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, tools=tools)


def _turn(message: ChatMessage) -> dict[str, Any]:
    """Return a message as templates take it: the arguments of calls are values, not JSON."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _parsed(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _require_short(text: str, context_limit: int | None, param: str) -> None:
    if context_limit is not None and len(text) > context_limit * _LONGEST_TOKEN:
        raise ContextLengthExceededError(
            f"The context limit is {context_limit} tokens; {len(text)} characters cannot fit: shorten it.",
            param=param,
            limit=context_limit,
        )


def _require_token_id(tokenizer: Tokenizer, item: object, param: str) -> int:
    if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < tokenizer.vocab_size:
        raise ValidationError(
            f"A prompt of token ids holds {item!r}; ids run from 0 to {tokenizer.vocab_size - 1}.",
            param=param,
            limit=tokenizer.vocab_size - 1,
        )
    return item
