"""The Responses API with the official client: whole and streamed, with tools, and without a memory."""

from __future__ import annotations

import json

import openai
import pytest
from openai.types.responses import Response

from tritium.engine.request import TokenOutput
from tritium.engine.tools import Tool, ToolUse
from tritium.protocol.responses import ResponsesAnswer
from tritium.protocol.responses_request import ResponsesRequest
from tritium.protocol.schemas import parse_body
from tritium.protocol.usage import FinishedChoice

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}},
    "required": ["name"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "name": "king", "description": "Tell", "parameters": SCHEMA, "strict": True}


def ask(client, **options):
    settings = {"model": "scripture", "input": "In the beginning", "max_output_tokens": 12, "temperature": 0}
    return client.responses.create(**(settings | options))


def test_an_answer_says_what_a_chat_says_and_counts_the_same(client):
    answer = ask(client)
    chat = client.chat.completions.create(
        model="scripture",
        messages=[{"role": "user", "content": "In the beginning"}],
        max_tokens=12,
        temperature=0,
    )
    assert answer.output_text == chat.choices[0].message.content
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.usage.input_tokens == chat.usage.prompt_tokens
    assert answer.usage.output_tokens == chat.usage.completion_tokens == 12
    assert answer.usage.total_tokens == chat.usage.total_tokens
    assert answer.id.startswith("resp_")
    assert (answer.store, answer.previous_response_id, answer.error) == (False, None, None)


def test_an_answer_has_every_field_the_official_type_requires(client):
    raw = client.responses.with_raw_response.create(
        model="scripture", input="In the", max_output_tokens=2, metadata={"order": "7"}
    )
    body = json.loads(raw.content)
    strict = Response.model_validate(body, strict=True)
    assert strict.metadata == {"order": "7"}
    assert raw.headers["x-request-id"] in body["id"]


def test_a_stream_builds_up_the_answer_and_its_last_event_holds_all_of_it(client):
    whole = ask(client)
    with client.responses.stream(
        model="scripture", input="In the beginning", max_output_tokens=12, temperature=0
    ) as stream:
        kinds = [event.type for event in stream]
    events = list(ask(client, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert [event.type for event in events[-4:]] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    last = events[-1].response
    assert "".join(deltas) == last.output_text == whole.output_text
    assert last.usage == whole.usage
    # How many deltas there are depends on how fast the reader is.
    assert list(dict.fromkeys(kinds)) == list(dict.fromkeys(event.type for event in events))


def test_the_wire_has_named_events_and_no_done_line(base_url):
    import httpx2  # noqa: PLC0415 - beside the client

    answer = httpx2.post(
        f"{base_url}/v1/responses",
        json={"model": "scripture", "input": "In the", "max_output_tokens": 2, "stream": True},
        headers={"authorization": "Bearer sk-local-test"},
        timeout=60,
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.strip().split("\n\n")
    assert "[DONE]" not in answer.text
    for event in events:
        name, data = event.split("\n")
        assert name.removeprefix("event: ") == json.loads(data.removeprefix("data: "))["type"]


def test_earlier_turns_come_as_input(client):
    said = [
        {"role": "developer", "content": "Answer in verses."},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "In the "}, {"type": "input_text", "text": "x"}],
        },
    ]
    first = ask(client, input=said)
    again = ask(
        client,
        input=[
            *said,
            *(item.model_dump(exclude_unset=True) for item in first.output),
            {"role": "user", "content": "?"},
        ],
    )
    assert again.usage.input_tokens > first.usage.input_tokens
    with_instructions = ask(client, instructions="Answer in verses.", input=said[1:])
    assert with_instructions.output_text == first.output_text
    assert with_instructions.instructions == "Answer in verses."


def test_a_form_of_text_is_kept_to(client):
    text = {"format": {"type": "json_schema", "name": "king", "schema": SCHEMA, "strict": True}}
    answer = ask(client, text=text, max_output_tokens=80)
    assert answer.status == "completed"
    assert json.loads(answer.output_text).keys() == {"name"}
    assert answer.text.format.type == "json_schema"


def test_log_probabilities_come_where_they_are_asked_for(client):
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    entries = ask(client, **asked).output[0].content[0].logprobs
    assert len(entries) == 12
    assert all(len(entry.top_logprobs) == 2 for entry in entries)
    streamed = [
        each for event in ask(client, **asked, stream=True)
        if event.type == "response.output_text.delta" for each in event.logprobs
    ]  # fmt: skip
    assert [each.token for each in streamed] == [each.token for each in entries]
    assert ask(client).output[0].content[0].logprobs == []


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_tool_calls": 1}, "max_tool_calls"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": {"type": "function", "name": "nobody"}}, "tool_choice"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "x"}}}}, "text"),
        ({"extra_body": {"surprise": 1}}, "surprise"),
        ({"model": "other"}, "model"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client, changes, param):
    for stream in (False, True):
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refusal:
            ask(client, **changes, stream=stream)
        assert refusal.value.param == param


def test_what_changes_nothing_is_taken(client):
    harmless = {
        "store": False,
        "truncation": "disabled",
        "background": False,
        "user": "u",
        "service_tier": "auto",
    }
    assert ask(client, **harmless, stream_options=None).output_text


def a_body(**changes) -> ResponsesRequest:
    return parse_body(ResponsesRequest, json.dumps({"model": "m", "input": "a"} | changes).encode())


def test_calls_and_their_results_become_the_turns_of_a_chat():
    body = a_body(
        input=[
            {"role": "user", "content": "who?"},
            {"type": "function_call", "call_id": "c1", "name": "king", "arguments": "{}", "id": "fc_1"},
            {"type": "function_call", "call_id": "c2", "name": "king", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "David"},
            {
                "type": "function_call_output",
                "call_id": "c2",
                "output": [{"type": "input_text", "text": "Saul"}],
            },
        ],
        tools=[TOOL],
        tool_choice={"type": "function", "name": "king"},
    )
    chat = body.as_chat()
    assert [message.role for message in chat.messages] == ["user", "assistant", "tool", "tool"]
    assert [call.id for call in chat.messages[1].tool_calls] == ["c1", "c2"]
    assert [(each.tool_call_id, each.text) for each in chat.messages[2:]] == [("c1", "David"), ("c2", "Saul")]
    assert chat.tool_use.must_call


def test_calls_are_items_whole_and_in_a_stream():
    written = '{"name": "king", "arguments": {"name": "David"}}'
    tool_use = ToolUse(
        tools=(Tool(name="king", description="", parameters={}),), must_call=False, is_single=False
    )

    def answer():
        return ResponsesAnswer(a_body(tools=[TOOL]), request_id="r", created=7, tool_use=tool_use)

    choice = FinishedChoice(text=written, finish_reason="stop", completion_tokens=9)
    numbers = {"prompt_tokens": 3, "cached_tokens": 1}
    whole = answer().whole([choice], **numbers)
    form = answer()
    events = [*form.opening(0)]
    for place, piece in enumerate((written[:11], written[11:30], written[30:])):
        events += form.piece(0, an_output(piece, finish_reason="stop" if place == 2 else None))
    events += form.closing([choice], **numbers)
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    (call,) = events[-1]["response"]["output"]
    assert (call["type"], call["name"], json.loads(call["arguments"])) == (
        "function_call",
        "king",
        {"name": "David"},
    )
    ids = {"id": "", "call_id": ""}
    assert call | ids == whole["output"][0] | ids
    assert whole["usage"]["input_tokens_details"]["cached_tokens"] == 1
    assert Response.model_validate(whole).tools[0].name == "king"


def test_a_stream_that_fails_says_so_in_its_last_event():
    form = ResponsesAnswer(a_body(), request_id="r", created=7, tool_use=None)
    form.opening(0)
    form.piece(0, an_output("In", finish_reason=None))
    (event,) = form.failed({"code": "processing", "message": "it broke"})
    assert (event["type"], event["response"]["status"]) == ("response.failed", "failed")
    assert event["response"]["error"] == {"code": "processing", "message": "it broke"}


def an_output(text: str, *, finish_reason: str | None) -> TokenOutput:
    return TokenOutput(
        request_id="r",
        text=text,
        token_ids=(1,),
        finish_reason=finish_reason,
        prompt_tokens=3,
        completion_tokens=1,
        compute_seconds=0.0,
        queue_seconds=0.0,
        peak_kv_bytes=0,
    )
