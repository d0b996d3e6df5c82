"""Plain completions: the wire form becomes calls, outputs become wire objects."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tritium.engine.prompt import split_prompts
from tritium.errors import ValidationError
from tritium.protocol.calls import GenerationCall
from tritium.protocol.chat import call_id, sampling_of
from tritium.protocol.logprobs import TextOffsets
from tritium.protocol.schemas import MAX_CALLS
from tritium.protocol.usage import usage_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.engine.request import TokenOutput
    from tritium.protocol.schemas import CompletionRequest
    from tritium.protocol.usage import FinishedChoice

DEFAULT_MAX_TOKENS = 16  # the wire format's own default for this route


def completion_calls(body: CompletionRequest, *, request_id: str, principal: object) -> list[GenerationCall]:
    """Return one call per prompt and choice, all choices of the first prompt first."""
    prompts = split_prompts(body.prompt)
    num_calls = len(prompts) * (body.n or 1)
    if num_calls > MAX_CALLS:
        raise ValidationError(
            f"prompts times n make {num_calls} texts; at most {MAX_CALLS} are allowed.",
            param="n",
            limit=MAX_CALLS,
        )
    choices = [(prompt, choice) for prompt in prompts for choice in range(body.n or 1)]
    return [
        GenerationCall(
            request_id=call_id(request_id, index),
            model=body.model,
            prompt=prompt,
            sampling=sampling_of(
                body,
                max_tokens=body.max_tokens or DEFAULT_MAX_TOKENS,
                choice=choice,
                logprobs=body.logprobs,
                echo=bool(body.echo),
            ),
            principal=principal,
            is_stream=bool(body.stream),
            priority=body.priority or 0,
        )
        for index, (prompt, choice) in enumerate(choices)
    ]


class CompletionAnswer:
    """Writes the wire objects of one plain completion."""

    ends_with_done = True

    def __init__(self, *, request_id: str, model: str, created: int, includes_usage: bool = False) -> None:
        self._includes_usage = includes_usage
        self._head = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": created,
            "model": model,
        }
        self._offsets: defaultdict[int, TextOffsets] = defaultdict(TextOffsets)  # of a stream's choices

    def opening(self, index: int) -> list[dict[str, object]]:  # noqa: ARG002 - the form shared with chat
        """Return nothing: a plain completion has no role to announce."""
        return []

    def piece(self, index: int, output: TokenOutput) -> list[dict[str, object]]:
        """Return a chunk of new text."""
        logprobs = self._offsets[index].columns(output.logprobs or None)
        return [{**self._head, "choices": [_choice(index, output.text, output.finish_reason, logprobs)]}]

    def closing(
        self, choices: Sequence[FinishedChoice], *, prompt_tokens: int, cached_tokens: int
    ) -> list[dict[str, object]]:
        """Return the last chunk of a stream which asked for usage numbers."""
        if not self._includes_usage:
            return []
        usage = usage_object(choices, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens)
        return [{**self._head, "choices": [], "usage": usage}]

    def failed(self, error: dict[str, object]) -> list[dict[str, object]]:
        """Return the error: the client library raises it."""
        return [{"error": error}]

    def whole(
        self, choices: Sequence[FinishedChoice], *, prompt_tokens: int, cached_tokens: int
    ) -> dict[str, object]:
        """Return the answer in one piece."""
        items = [
            _choice(index, choice.text, choice.finish_reason, TextOffsets().columns(choice.logprobs))
            for index, choice in enumerate(choices)
        ]
        return {
            **self._head,
            "choices": items,
            "usage": usage_object(choices, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens),
        }


def _choice(
    index: int, text: str, finish_reason: str | None, logprobs: dict[str, object] | None
) -> dict[str, object]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
