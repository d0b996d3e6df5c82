"""Chat completions: the wire form becomes calls, outputs become wire objects."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import TYPE_CHECKING

from tritium.engine.prompt import CalledTool, ChatMessage
from tritium.engine.request import SamplingParams
from tritium.errors import ValidationError
from tritium.protocol.calls import GenerationCall
from tritium.protocol.logprobs import chat_logprobs
from tritium.protocol.toolcalls import ToolCallReader, WrittenCall
from tritium.protocol.usage import usage_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.engine.request import TokenOutput
    from tritium.engine.tools import ToolUse
    from tritium.protocol.messages import Message
    from tritium.protocol.schemas import ChatCompletionRequest, GenerationBody
    from tritium.protocol.usage import FinishedChoice


def sampling_of(
    body: GenerationBody,
    *,
    max_tokens: int | None,
    choice: int,
    logprobs: int | None,
    echo: bool = False,
) -> SamplingParams:
    """Return the sampling parameters of one choice; a seed is shifted per choice so that choices differ."""
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
        min_p=body.min_p or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=body.logit_bias or {},
        seed=None if body.seed is None else body.seed + choice,
        stop=body.stop_texts,
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
        grammar=body.answer_form,
        echo=echo,
    )


def call_id(request_id: str, index: int) -> str:
    """Return the id of the index-th call of a wire request."""
    return request_id if index == 0 else f"{request_id}-{index}"


def chat_prompt(messages: Sequence[Message]) -> tuple[ChatMessage, ...]:
    """Return the messages as the model's template takes them."""
    return tuple(
        ChatMessage(
            role="system" if message.role == "developer" else message.role,
            content=message.text,
            tool_calls=tuple(
                CalledTool(id=call.id, name=call.function.name, arguments=call.function.arguments)
                for call in message.tool_calls or ()
            ),
            tool_call_id=message.tool_call_id,
        )
        for message in messages
    )


def chat_calls(body: ChatCompletionRequest, *, request_id: str, principal: object) -> list[GenerationCall]:
    """Return one call per choice."""
    if body.max_tokens and body.max_completion_tokens and body.max_tokens != body.max_completion_tokens:
        raise ValidationError(
            "max_tokens and max_completion_tokens differ: give one of them.", param="max_tokens"
        )
    prompt = chat_prompt(body.messages)
    return [
        GenerationCall(
            request_id=call_id(request_id, choice),
            model=body.model,
            prompt=prompt,
            sampling=sampling_of(
                body,
                max_tokens=body.max_completion_tokens or body.max_tokens,
                choice=choice,
                logprobs=body.num_alternatives,
            ),
            principal=principal,
            is_stream=bool(body.stream),
            priority=body.priority or 0,
            tool_use=body.tool_use,
        )
        for choice in range(body.n or 1)
    ]


class ChatAnswer:
    """Writes the wire objects of one chat completion."""

    ends_with_done = True

    def __init__(
        self,
        *,
        request_id: str,
        model: str,
        created: int,
        tool_use: ToolUse | None = None,
        includes_usage: bool = False,
    ) -> None:
        self._includes_usage = includes_usage
        self._head = {"id": f"chatcmpl-{request_id}", "created": created, "model": model}
        self._tools = frozenset(tool.name for tool in tool_use.tools) if tool_use else frozenset[str]()
        self._is_single = tool_use is not None and tool_use.is_single
        self._readers: dict[int, ToolCallReader] = {}  # of a stream's choices
        self._num_calls: Counter[int] = Counter()

    def opening(self, index: int) -> list[dict[str, object]]:
        """Return the chunk that opens a choice."""
        return [self._chunk(index, {"role": "assistant", "content": "", "refusal": None})]

    def piece(self, index: int, output: TokenOutput) -> list[dict[str, object]]:
        """Return a chunk of new text and calls; none while what is new may be part of a call."""
        text, calls = output.text, list[WrittenCall]()
        if self._tools:
            reader = self._readers.setdefault(index, self._reader())
            text, calls = reader.feed(text, is_last=output.finish_reason is not None)
        delta: dict[str, object] = {"content": text} if text else {}
        if calls:
            first = self._num_calls[index]
            self._num_calls[index] += len(calls)
            delta["tool_calls"] = [
                {"index": first + place, **_call_object(call)} for place, call in enumerate(calls)
            ]
        reason = _finish_reason(output.finish_reason, has_calls=self._num_calls[index] > 0)
        logprobs = chat_logprobs(output.logprobs or None)
        return [self._chunk(index, delta, reason, logprobs)] if delta or reason or logprobs else []

    def closing(
        self, choices: Sequence[FinishedChoice], *, prompt_tokens: int, cached_tokens: int
    ) -> list[dict[str, object]]:
        """Return the last chunk of a stream which asked for usage numbers."""
        if not self._includes_usage:
            return []
        usage = usage_object(choices, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens)
        return [{**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}]

    def failed(self, error: dict[str, object]) -> list[dict[str, object]]:
        """Return the error: the client library raises it."""
        return [{"error": error}]

    def whole(
        self, choices: Sequence[FinishedChoice], *, prompt_tokens: int, cached_tokens: int
    ) -> dict[str, object]:
        """Return the answer in one piece."""
        items = [self._item(index, choice) for index, choice in enumerate(choices)]
        usage = usage_object(choices, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens)
        return {**self._head, "object": "chat.completion", "choices": items, "usage": usage}

    def _reader(self) -> ToolCallReader:
        return ToolCallReader(self._tools, is_single=self._is_single)

    def _item(self, index: int, choice: FinishedChoice) -> dict[str, object]:
        text, calls = choice.text, list[WrittenCall]()
        if self._tools:
            text, calls = self._reader().feed(text, is_last=True)
        message: dict[str, object] = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message |= {"content": text or None, "tool_calls": [_call_object(call) for call in calls]}
        return {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(choice.logprobs),
            "finish_reason": _finish_reason(choice.finish_reason, has_calls=bool(calls)),
        }

    def _chunk(
        self,
        index: int,
        delta: dict[str, object],
        finish_reason: str | None = None,
        logprobs: dict[str, object] | None = None,
    ) -> dict[str, object]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}


def _call_object(call: WrittenCall) -> dict[str, object]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _finish_reason(reason: str | None, *, has_calls: bool) -> str | None:
    return "tool_calls" if has_calls and reason == "stop" else reason
