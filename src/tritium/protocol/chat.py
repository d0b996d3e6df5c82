"""Chat completions: the wire form becomes calls, outputs become wire objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.engine.prompt import ChatMessage
from tritium.engine.request import SamplingParams
from tritium.errors import ValidationError
from tritium.protocol.calls import GenerationCall
from tritium.protocol.logprobs import chat_logprobs
from tritium.protocol.usage import usage_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.engine.request import TokenOutput
    from tritium.protocol.schemas import ChatCompletionRequest, GenerationBody, Message
    from tritium.protocol.usage import FinishedChoice


def sampling_of(
    body: GenerationBody, *, max_tokens: int | None, choice: int, echo: bool = False
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
        logprobs=body.num_alternatives,
        grammar=body.answer_form,
        echo=echo,
    )


def call_id(request_id: str, index: int) -> str:
    """Return the id of the index-th call of a wire request."""
    return request_id if index == 0 else f"{request_id}-{index}"


def chat_prompt(messages: Sequence[Message]) -> tuple[ChatMessage, ...]:
    """Return the messages as the model's template takes them."""
    return tuple(ChatMessage("system" if m.role == "developer" else m.role, m.text) for m in messages)


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
                body, max_tokens=body.max_completion_tokens or body.max_tokens, choice=choice
            ),
            principal=principal,
            is_stream=bool(body.stream),
        )
        for choice in range(body.n or 1)
    ]


class ChatAnswer:
    """Writes the wire objects of one chat completion."""

    def __init__(self, *, request_id: str, model: str, created: int) -> None:
        self._head = {"id": f"chatcmpl-{request_id}", "created": created, "model": model}

    def opening(self, index: int) -> dict[str, object] | None:
        """Return the chunk that opens a choice."""
        return self._chunk(index, {"role": "assistant", "content": "", "refusal": None})

    def piece(self, index: int, output: TokenOutput) -> dict[str, object]:
        """Return a chunk of new text."""
        delta: dict[str, object] = {"content": output.text} if output.text else {}
        return self._chunk(index, delta, output.finish_reason, chat_logprobs(output.logprobs or None))

    def usage_chunk(
        self, choices: Sequence[FinishedChoice], *, prompt_tokens: int, cached_tokens: int
    ) -> dict[str, object]:
        """Return the last chunk of a stream which asked for usage numbers."""
        usage = usage_object(choices, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens)
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def whole(
        self, choices: Sequence[FinishedChoice], *, prompt_tokens: int, cached_tokens: int
    ) -> dict[str, object]:
        """Return the answer in one piece."""
        items = [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": chat_logprobs(choice.logprobs),
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ]
        usage = usage_object(choices, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens)
        return {**self._head, "object": "chat.completion", "choices": items, "usage": usage}

    def _chunk(
        self,
        index: int,
        delta: dict[str, object],
        finish_reason: str | None = None,
        logprobs: dict[str, object] | None = None,
    ) -> dict[str, object]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
