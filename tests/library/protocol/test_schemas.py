from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.engine.prompt import split_prompts
from tritium.errors import ValidationError
from tritium.protocol.chat import chat_calls
from tritium.protocol.completions import completion_calls
from tritium.protocol.embeddings import embedding_call
from tritium.protocol.schemas import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    UnknownParameterError,
    UnsupportedParameterError,
    parse_body,
)

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted(
    {*ChatCompletionRequest.model_fields, *CompletionRequest.model_fields, "tools", "logit_bias", "x"}
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=5).map(
    lambda body: {
        "model": "m",
        "messages": [{"role": "user", "content": "c"}],
        "prompt": "p",
        "input": "i",
        **body,
    }
)


def read(schema, body: bytes) -> object:
    parsed = parse_body(schema, body)
    if isinstance(parsed, EmbeddingRequest):
        return embedding_call(parsed, request_id="r", principal=None)
    make = chat_calls if isinstance(parsed, ChatCompletionRequest) else completion_calls
    return make(parsed, request_id="r", principal=None)


@given(BODIES)
def test_any_json_is_understood_or_refused_and_nothing_else_happens(body):
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    for schema in (ChatCompletionRequest, CompletionRequest, EmbeddingRequest):
        with contextlib.suppress(ValidationError):
            assert read(schema, content)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_and_nothing_else_happens(content):
    for schema in (ChatCompletionRequest, CompletionRequest, EmbeddingRequest):
        with pytest.raises(ValidationError):
            read(schema, content)


def chat(**changes) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "c"}]} | changes).encode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("echo", 0),  # zero is not "no" where a boolean belongs
        ("functions", [1]),
        ("audio", {"voice": "x"}),
    ],
)
def test_what_would_change_the_answer_is_refused(name, value):
    with pytest.raises(UnsupportedParameterError) as caught:
        parse_body(ChatCompletionRequest, chat(**{name: value}))
    assert caught.value.details["param"] == name


def test_an_unknown_parameter_is_named_but_not_at_any_length():
    with pytest.raises(UnknownParameterError) as caught:
        parse_body(ChatCompletionRequest, chat(**{"x" * 5000: 1}))
    assert len(caught.value.message) < 200


def test_choices_get_ids_and_seeds_of_their_own():
    calls = read(ChatCompletionRequest, chat(n=3, seed=7, stop="x", stream=True))
    assert [call.request_id for call in calls] == ["r", "r-1", "r-2"]
    assert [call.sampling.seed for call in calls] == [7, 8, 9]
    assert all(call.is_stream and call.sampling.stop == ("x",) for call in calls)


def test_a_completion_without_a_limit_has_the_wires_own():
    (call,) = read(CompletionRequest, b'{"model": "m", "prompt": "p"}')
    assert call.sampling.max_tokens == 16
    (call,) = read(ChatCompletionRequest, chat())
    assert call.sampling.max_tokens is None


@pytest.mark.parametrize(
    ("wire", "prompts"),
    [("a", ("a",)), ([1, 2], ((1, 2),)), (["a", "b"], ("a", "b")), ([[1], [2, 3]], ((1,), (2, 3)))],
)
def test_the_four_forms_of_a_prompt(wire, prompts):
    assert split_prompts(wire) == prompts


@pytest.mark.parametrize(
    ("schema", "changes", "sentence"),
    [
        (CompletionRequest, {"prompt": []}, "prompt: must be a text, a list of token ids"),
        (CompletionRequest, {"prompt": {"a": 1}}, "prompt: must be a text, a list of token ids"),
        (CompletionRequest, {"prompt": ["a"] * 65}, "at most 64"),
        (EmbeddingRequest, {"input": [1, "a"]}, "input: must be a text, a list of token ids"),
        (CompletionRequest, {"prompt": "p", "stop": 5}, "stop: must be a text or a list of texts"),
        (
            ChatCompletionRequest,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content: must be a text",
        ),
        (
            ChatCompletionRequest,
            {"messages": [{"role": "assistant", "content": None}]},
            "messages.0.content: must be a text",
        ),
    ],
)
def test_a_field_of_several_forms_says_all_of_them(schema, changes, sentence):
    with pytest.raises(ValidationError) as caught:
        parse_body(schema, json.dumps({"model": "m", **changes}).encode())
    assert sentence in caught.value.message
    assert caught.value.details["param"] == list(changes)[-1]
