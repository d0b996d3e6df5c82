"""Calls of tools, by the official client, with a template that knows tools."""

from __future__ import annotations

import json

import openai
import pytest

from tritium.protocol.app import create_app

MESSAGES = [{"role": "user", "content": "Who was the first king?"}]
ARGUMENTS = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}, "year": {"type": "integer", "maximum": 999}},
    "required": ["name", "year"],
    "additionalProperties": False,
}
KING = {"type": "function", "function": {"name": "king", "description": "A king", "parameters": ARGUMENTS}}
PROPHET = {"type": "function", "function": {"name": "prophet"}}
DIALECTS = {
    "tagged": "<tool_call>",
    "listed": "[TOOL_CALLS]",
    "bare": "Answer with a JSON object of name and parameters.",
}


@pytest.fixture(scope="module")
def app(scripture_llama_with_tools):
    """A server of its own."""
    return create_app(scripture_llama_with_tools, served_name="scripture", threads=1)


@pytest.fixture(scope="module")
def tools_client(app, serving):
    """The official client of that server."""
    with serving(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as made:
        yield made


@pytest.fixture
def ask(tools_client):
    """Ask for a chat completion with two tools."""

    def chat(**changes):
        settings = {"model": "scripture", "messages": MESSAGES, "max_tokens": 80, "temperature": 0}
        return tools_client.chat.completions.create(**settings | {"tools": [KING, PROPHET]} | changes)

    return chat


def of_calls(calls) -> list[tuple[str, dict]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls or []]


@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 1.2, "seed": 4}, {"n": 2, "temperature": 1.0, "seed": 9}]
)
def test_a_call_that_is_required_is_made_whole_and_in_a_stream(tools_client, ask, changes):
    named = {"type": "function", "function": {"name": "king"}}
    whole = ask(tool_choice=named, **changes)
    chunks = list(ask(tool_choice=named, stream=True, stream_options={"include_usage": True}, **changes))
    for choice in whole.choices:
        ((name, arguments),) = of_calls(choice.message.tool_calls)
        assert (name, choice.finish_reason, choice.message.content) == ("king", "tool_calls", None)
        assert arguments.keys() == ARGUMENTS["properties"].keys()
        pieces = [each for chunk in chunks for each in chunk.choices if each.index == choice.index]
        streamed = [call for piece in pieces for call in piece.delta.tool_calls or []]
        assert of_calls(streamed) == [(name, arguments)]
        assert [call.index for call in streamed] == [0]
        assert not any(piece.delta.content for piece in pieces)
        assert pieces[-1].finish_reason == "tool_calls"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


def test_any_of_the_tools_may_be_the_required_one(ask):
    ((name, arguments),) = of_calls(ask(tool_choice="required", max_tokens=300).choices[0].message.tool_calls)
    assert name in {"king", "prophet"}
    assert isinstance(arguments, dict)


def test_the_client_librarys_own_stream_helper_gathers_the_call(tools_client):
    with tools_client.chat.completions.stream(
        model="scripture", messages=MESSAGES, temperature=0, tools=[KING], tool_choice="required"
    ) as stream:
        for _ in stream:
            pass
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert json.loads(call.function.arguments).keys() == ARGUMENTS["properties"].keys()


def test_who_may_call_may_answer_and_a_call_among_words_is_found(ask):
    free = ask().choices[0]
    assert (free.message.tool_calls, free.finish_reason) == (None, "length")
    assert free.message.content
    written = 'I ask. <tool_call>{"name": "king", "arguments": {"name": "Saul", "year": 1}}</tool_call>'
    said = ask(extra_body={"structured_outputs": {"choice": [written]}}).choices[0]
    assert said.message.content == "I ask. "
    assert of_calls(said.message.tool_calls) == [("king", {"name": "Saul", "year": 1})]
    unseen = ask(extra_body={"structured_outputs": {"choice": [written]}}, tool_choice="none").choices[0]
    assert (unseen.message.content, unseen.finish_reason) == (written, "stop")


def test_tools_calls_and_results_are_shown_to_the_model(ask, tools_client):
    without = ask(tool_choice="none", max_tokens=1).usage.prompt_tokens
    assert ask(max_tokens=1).usage.prompt_tokens > without + 20
    message = ask(tool_choice="required", tools=[KING]).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Saul was the first."}
    longer = ask(messages=[*MESSAGES, message, result], tool_choice="none", max_tokens=1).usage.prompt_tokens
    assert longer > without + 10


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_written_and_read(app, ask, dialect, monkeypatch):
    tokenizer = app.state.backend._loaded.tokenizer
    template = "{{ tools | tojson }}{{ messages[0].content }}" + DIALECTS[dialect]
    monkeypatch.setattr(tokenizer, "_template_source", template)
    monkeypatch.setattr(tokenizer, "_template", None)
    choice = ask(tool_choice="required", tools=[KING]).choices[0]
    ((name, arguments),) = of_calls(choice.message.tool_calls)
    assert (name, choice.finish_reason) == ("king", "tool_calls")
    assert arguments.keys() == ARGUMENTS["properties"].keys()


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [KING] * 129}, "tools"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "x", "parameters": {"type": "strin"}}}],
                "tool_choice": "required",
            },
            "tools",
        ),
        ({"messages": [*MESSAGES, {"role": "tool", "content": "x"}]}, "messages"),
    ],
)
def test_what_cannot_be_called_is_refused_by_name(ask, changes, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(**changes)
    assert caught.value.param == param


def test_a_template_that_knows_no_tools_is_told_of(client):
    with pytest.raises(openai.BadRequestError, match="knows no tools") as caught:
        client.chat.completions.create(model="scripture", messages=MESSAGES, tools=[KING])
    assert caught.value.param == "tools"
