"""Answers of /v1/responses: outputs become items, whole or as a stream of named events."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from tritium.protocol.logprobs import logprob_entries
from tritium.protocol.toolcalls import ToolCallReader, WrittenCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.engine.request import ScoredToken, TokenOutput
    from tritium.engine.tools import ToolUse
    from tritium.protocol.responses_request import ResponsesRequest
    from tritium.protocol.usage import FinishedChoice

_Object = dict[str, Any]


class ResponsesAnswer:
    """Writes one answer: its events build it up, and their last one holds all of it.

    The message is open from its first text to the end; calls get places of their own beside it.
    """

    ends_with_done = False

    def __init__(
        self, body: ResponsesRequest, *, request_id: str, created: int, tool_use: ToolUse | None
    ) -> None:
        self._response = _head(body, request_id=request_id, created=created)
        self._request_id = request_id
        names = frozenset(tool.name for tool in tool_use.tools) if tool_use else frozenset[str]()
        is_single = tool_use is not None and tool_use.is_single
        self._reader = ToolCallReader(names, is_single=is_single) if names else None
        self._output: list[_Object] = []
        self._place: int | None = None  # of the message
        self._text = ""
        self._logprobs: list[object] = []
        self._told_logprobs = 0
        self._sequence = -1

    def opening(self, index: int) -> list[_Object]:  # noqa: ARG002 - there is one text
        """Return the events that begin an answer."""
        response = {**self._response, "status": "in_progress"}
        return [self._event(f"response.{what}", response=response) for what in ("created", "in_progress")]

    def piece(self, index: int, output: TokenOutput) -> list[_Object]:  # noqa: ARG002 - there is one text
        """Return the events of new text and new calls."""
        return self._feed(output.text, output.logprobs, is_last=output.finish_reason is not None)

    def closing(
        self, choices: Sequence[FinishedChoice], *, prompt_tokens: int, cached_tokens: int
    ) -> list[_Object]:
        """Return the events that end an answer; the last one holds all of it."""
        (choice,) = choices
        is_cut = choice.finish_reason == "length"
        status = "incomplete" if is_cut else "completed"
        events = [] if self._output else self._open_message()
        events += self._close_message(status)
        self._response |= {
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": self._output,
            "usage": {
                "input_tokens": prompt_tokens,
                "input_tokens_details": {"cached_tokens": cached_tokens, "cache_write_tokens": 0},
                "output_tokens": choice.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": prompt_tokens + choice.completion_tokens,
            },
        }
        return [*events, self._event(f"response.{status}", response=self._response)]

    def failed(self, error: _Object) -> list[_Object]:
        """Return the event that ends an answer which cannot go on."""
        told = {"code": error["code"], "message": error["message"]}
        response = {**self._response, "status": "failed", "error": told, "output": self._output}
        return [self._event("response.failed", response=response)]

    def whole(self, choices: Sequence[FinishedChoice], *, prompt_tokens: int, cached_tokens: int) -> _Object:
        """Return the answer in one piece: what the last event of its stream would hold."""
        (choice,) = choices
        self._feed(choice.text, choice.logprobs or (), is_last=True)
        self.closing(choices, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens)
        return self._response

    def _feed(self, text: str, scored: Sequence[ScoredToken], *, is_last: bool) -> list[_Object]:
        calls = list[WrittenCall]()
        if self._reader is not None:
            text, calls = self._reader.feed(text, is_last=is_last)
        self._logprobs += logprob_entries(scored)
        events = self._write(text) if text else []
        for call in calls:
            events += self._call(call)
        return events

    def _write(self, text: str) -> list[_Object]:
        events = self._open_message() if self._place is None else []
        self._text += text
        new, self._told_logprobs = self._logprobs[self._told_logprobs :], len(self._logprobs)
        return [*events, self._part_event("response.output_text.delta", delta=text, logprobs=new)]

    def _open_message(self) -> list[_Object]:
        self._place = len(self._output)
        item = {
            "id": f"msg_{self._request_id}",
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        self._output.append(item)
        return [
            self._event("response.output_item.added", output_index=self._place, item=item),
            self._part_event("response.content_part.added", part=_part("", [])),
        ]

    def _close_message(self, status: str) -> list[_Object]:
        if self._place is None:
            return []
        part = _part(self._text, self._logprobs)
        item = {**self._output[self._place], "status": status, "content": [part]}
        self._output[self._place] = item
        return [
            self._part_event("response.output_text.done", text=self._text, logprobs=self._logprobs),
            self._part_event("response.content_part.done", part=part),
            self._event("response.output_item.done", output_index=self._place, item=item),
        ]

    def _call(self, call: WrittenCall) -> list[_Object]:
        place, item_id = len(self._output), f"fc_{uuid.uuid4().hex}"
        item = {
            "id": item_id,
            "type": "function_call",
            "status": "completed",
            "call_id": f"call_{uuid.uuid4().hex[:24]}",
            "name": call.name,
            "arguments": call.arguments,
        }
        self._output.append(item)
        begun = {**item, "status": "in_progress", "arguments": ""}
        where: _Object = {"output_index": place, "item_id": item_id}
        arguments = "response.function_call_arguments"
        return [
            self._event("response.output_item.added", output_index=place, item=begun),
            self._event(f"{arguments}.delta", **where, delta=call.arguments),
            self._event(f"{arguments}.done", **where, name=call.name, arguments=call.arguments),
            self._event("response.output_item.done", output_index=place, item=item),
        ]

    def _part_event(self, kind: str, **fields: object) -> _Object:
        where = {"item_id": f"msg_{self._request_id}", "output_index": self._place, "content_index": 0}
        return self._event(kind, **where, **fields)

    def _event(self, kind: str, **fields: object) -> _Object:
        self._sequence += 1
        return {"type": kind, "sequence_number": self._sequence, **fields}


def _part(text: str, logprobs: list[object]) -> _Object:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _head(body: ResponsesRequest, *, request_id: str, created: int) -> _Object:
    """Return what an answer says of its request; defaults are said as what they are."""
    choice = body.tool_choice or "auto"
    return {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": created,
        "model": body.model,
        "error": None,
        "incomplete_details": None,
        "output": [],
        "usage": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "top_logprobs": body.top_logprobs or 0,
        "text": body.text.model_dump(by_alias=True, exclude_none=True)
        if body.text
        else {"format": {"type": "text"}},
        "tools": [tool.model_dump() for tool in body.tools or ()],
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "metadata": body.metadata or {},
        "previous_response_id": None,
        "background": False,
        "store": False,
        "truncation": "disabled",
    }
