"""Answers of a form, by the official client."""

from __future__ import annotations

import json
import re

import openai
import pydantic
import pytest

MESSAGES = [{"role": "user", "content": "Who was the first king?"}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "maximum": 999}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


class King(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=10)
    age: int = pydantic.Field(le=999)


def chat(client, **changes):
    settings = {"model": "scripture", "messages": MESSAGES, "max_tokens": 80, "temperature": 0} | changes
    return client.chat.completions.create(**settings)


def schema_format(schema=SCHEMA, **more):
    return {"type": "json_schema", "json_schema": {"name": "king", "schema": schema, **more}}


@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 1.2, "seed": 5}, {"n": 3, "temperature": 1.0, "seed": 2}]
)
def test_a_schema_is_kept_to_whole_and_in_a_stream(client, changes):
    asked = {"response_format": schema_format(strict=True)} | changes
    whole = chat(client, **asked)
    chunks = list(chat(client, **asked, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        king = King.model_validate_json(choice.message.content)
        assert choice.finish_reason == "stop"
        assert king.model_dump().keys() == SCHEMA["properties"].keys()
        streamed = "".join(
            each.delta.content or ""
            for chunk in chunks
            for each in chunk.choices
            if each.index == choice.index
        )
        assert streamed == choice.message.content
    assert chunks[-1].usage == whole.usage


def test_the_client_library_parses_the_answer_into_its_own_model(client):
    parsed = client.chat.completions.parse(
        model="scripture", messages=MESSAGES, max_tokens=80, temperature=0, response_format=King
    )
    assert isinstance(parsed.choices[0].message.parsed, King)


def test_any_json_object_is_one(client):
    settings = {"response_format": {"type": "json_object"}, "temperature": 1.5, "max_tokens": 200}
    choices = [chat(client, seed=seed, **settings).choices[0] for seed in range(6)]
    finished = [choice for choice in choices if choice.finish_reason == "stop"]
    assert finished
    assert all(isinstance(json.loads(choice.message.content), dict) for choice in finished)
    assert all(choice.message.content.startswith("{") for choice in choices)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"structured_outputs": {"regex": "[A-Z][a-z]{3,9}"}}, r"[A-Z][a-z]{3,9}"),
        ({"structured_outputs": {"choice": ["Saul", "David"]}}, "Saul|David"),
        ({"structured_outputs": {"grammar": 'start: ("a"|"b") "c"'}}, "[ab]c"),
        ({"structured_outputs": {"json": {"enum": ["Saul", 7]}}}, '"Saul"|7'),
        ({"structured_outputs": {"json": '{"enum": ["Saul", 7]}'}}, '"Saul"|7'),
        ({"grammar": 'root ::= "Saul" | "Da" "vid"'}, "Saul|David"),
        ({"json_schema": {"enum": ["Saul", 7]}}, '"Saul"|7'),
        ({"response_format": {"type": "json_object", "schema": {"enum": ["Saul", 7]}}}, '"Saul"|7'),
    ],
)
def test_the_names_of_other_servers_are_understood(client, body, expected):
    assert re.fullmatch(expected, chat(client, extra_body=body).choices[0].message.content)
    completed = client.completions.create(model="scripture", prompt="King", max_tokens=80, extra_body=body)
    assert re.fullmatch(expected, completed.choices[0].text)


def test_a_stop_text_and_the_limit_cut_a_form(client):
    body = {"structured_outputs": {"choice": ["first second third"]}}
    stopped = chat(client, extra_body=body, stop="second").choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("first ", "stop")
    short = chat(client, extra_body=body, max_tokens=1)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "schema", [{"type": "strin"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "("}, {"not": {}}]
)
def test_a_bad_schema_is_refused_with_the_reason_and_the_engine_goes_on(client, schema, stream):
    with pytest.raises(openai.BadRequestError, match="cannot be used: ") as caught:
        chat(client, response_format=schema_format(schema), stream=stream)
    assert caught.value.param == "response_format"
    assert chat(client, max_tokens=2).usage.completion_tokens == 2
