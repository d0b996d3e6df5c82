"""Every field of the official client is understood, harmless, or refused by its name."""

from __future__ import annotations

import json
from typing import get_type_hints

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params

from tritium.errors import ValidationError
from tritium.protocol.schemas import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    UnknownParameterError,
    UnsupportedParameterError,
    parse_body,
)

BODIES = {
    ChatCompletionRequest: (
        chat_create_params.CompletionCreateParamsStreaming,
        {"model": "m", "messages": [{"role": "user", "content": "a"}]},
    ),
    CompletionRequest: (
        completion_create_params.CompletionCreateParamsStreaming,
        {"model": "m", "prompt": "a"},
    ),
    EmbeddingRequest: (embedding_create_params.EmbeddingCreateParams, {"model": "m", "input": "a"}),
}
FIELDS = [(schema, name) for schema, (params, _) in BODIES.items() for name in get_type_hints(params)]
# What each of these would change cannot be done: they must never be passed over.
REFUSED = {
    ChatCompletionRequest: {
        "audio": {"voice": "ash", "format": "wav"},
        "function_call": "auto",
        "functions": [{"name": "f"}],
        "modalities": ["text", "audio"],
        "moderation": {"model": "m"},
        "prediction": {"type": "content", "content": "a"},
        "reasoning_effort": "high",
        "verbosity": "low",
        "web_search_options": {},
    },
    CompletionRequest: {"suffix": " the end", "best_of": 2},
    EmbeddingRequest: {},
}


@pytest.mark.parametrize(("schema", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_no_field_of_the_client_is_unknown(schema, name):
    body = BODIES[schema][1]
    try:
        parse_body(schema, json.dumps(body | {name: {"surprise": 1}}).encode())
    except ValidationError as error:
        assert not isinstance(error, UnknownParameterError)  # noqa: PT017 - harmless ones raise nothing
        assert error.details["param"] == name  # noqa: PT017


@pytest.mark.parametrize(
    ("schema", "name", "value"),
    [(schema, name, value) for schema, fields in REFUSED.items() for name, value in fields.items()],
)
def test_what_cannot_be_done_is_refused_by_name(schema, name, value):
    body = BODIES[schema][1]
    with pytest.raises(UnsupportedParameterError) as refusal:
        parse_body(schema, json.dumps(body | {name: value}).encode())
    assert refusal.value.details["param"] == name


def test_a_suffix_is_refused_by_the_server_too(client):
    import openai  # noqa: PLC0415 - absent where these tests are not collected

    with pytest.raises(openai.BadRequestError) as refusal:
        client.completions.create(model="scripture", prompt="In the", suffix=" the end")
    assert (refusal.value.param, refusal.value.code) == ("suffix", "unsupported_parameter")
