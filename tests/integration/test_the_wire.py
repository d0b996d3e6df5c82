"""What the wire offers beside plain text, through gateway and engine process, with the official client."""

from __future__ import annotations

import gzip
import json
import sys
import time

import openai
import pytest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PROMPT = [{"role": "user", "content": "In the beginning"}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "maximum": 999}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def shop(running):
    """A tenant with a deployed model: (key, model name)."""
    _, key = running.tenant()
    return key, running.deploy(key)


@pytest.fixture
def ask(running, shop):
    """Ask for a chat completion."""
    key, model = shop
    client = running.openai(key)

    def chat(**options):
        settings = {"model": model, "messages": PROMPT, "max_tokens": 60, "temperature": 0} | options
        return client.chat.completions.create(**settings)

    return chat


def usage_totals(running, key):
    with running.http(key) as http:
        usage = http.get("/api/v1/usage").raise_for_status().json()
    return {total["meter"]: total["quantity"] for total in usage["totals"]}


def test_log_probabilities_cross_from_the_engine_whole_and_in_a_stream(ask):
    asked = {"logprobs": True, "top_logprobs": 2, "max_tokens": 8, "logit_bias": {"42": 3}}
    choice = ask(**asked).choices[0]
    entries = choice.logprobs.content
    assert bytes(byte for entry in entries for byte in entry.bytes).decode() == choice.message.content
    assert all(len(entry.top_logprobs) == 2 for entry in entries)
    streamed = []
    for chunk in ask(**asked, stream=True):
        for each in chunk.choices:
            streamed += each.logprobs.content if each.logprobs else []
    assert [entry.model_dump() for entry in streamed] == [entry.model_dump() for entry in entries]


def test_a_schema_is_kept_to_and_the_usage_is_what_was_written(running, shop, ask):
    key, _ = shop
    before = usage_totals(running, key)
    answer = ask(response_format={"type": "json_schema", "json_schema": {"name": "king", "schema": SCHEMA}})
    assert json.loads(answer.choices[0].message.content).keys() == SCHEMA["properties"].keys()
    assert answer.choices[0].finish_reason == "stop"
    after = usage_totals(running, key)
    assert after["output_tokens"] - before.get("output_tokens", 0) == answer.usage.completion_tokens


def test_an_echo_is_the_prompt_with_its_log_probabilities_and_costs_nothing_more(running, shop):
    key, model = shop
    client, prompt = running.openai(key), "And God said unto Moses"
    answer = client.completions.create(
        model=model, prompt=prompt, max_tokens=2, temperature=0, echo=True, logprobs=0
    )
    (choice,) = answer.choices
    assert choice.text.startswith(prompt)
    assert "".join(choice.logprobs.tokens) == choice.text
    assert len(choice.logprobs.tokens) == answer.usage.total_tokens
    assert answer.usage.completion_tokens == 2
    assert [place for place, each in enumerate(choice.logprobs.token_logprobs) if each is None] == [0]


def test_counting_tokens_needs_a_key_and_is_no_use(running, shop, ask):
    key, model = shop
    _, stranger = running.tenant(name="Stranger")
    before = usage_totals(running, key)
    with running.http(key) as http:
        counted = (
            http.post("/v1/tokenize", json={"model": model, "messages": PROMPT}).raise_for_status().json()
        )
    assert counted["count"] == len(counted["tokens"])
    assert usage_totals(running, key) == before
    assert ask(max_tokens=1).usage.prompt_tokens == counted["count"]
    for wrong, status in ((stranger, 404), ("btn_live_nobody", 401)):
        with running.http(wrong) as http:
            assert http.post("/v1/tokenize", json={"model": model, "prompt": "a"}).status_code == status


def test_a_tool_that_must_be_called_is_called_and_counted(running, scripture_llama_with_tools):
    _, key = running.tenant()
    model = running.deploy(key, path=scripture_llama_with_tools)
    function = {"name": "king", "description": "Tell of a king", "parameters": SCHEMA}
    asked = {
        "model": model,
        "messages": PROMPT,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "max_tokens": 80,
        "temperature": 0,
    }
    answer = running.openai(key).chat.completions.create(**asked)
    (choice,) = answer.choices
    (call,) = choice.message.tool_calls
    assert (call.function.name, choice.finish_reason) == ("king", "tool_calls")
    assert json.loads(call.function.arguments).keys() == SCHEMA["properties"].keys()
    assert usage_totals(running, key)["output_tokens"] == answer.usage.completion_tokens
    chunks = list(running.openai(key).chat.completions.create(**asked, stream=True))
    calls = [each for chunk in chunks for each in chunk.choices[0].delta.tool_calls or []]
    assert [each.function.arguments for each in calls] == [call.function.arguments]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
            "response_format",
        ),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, "structured_outputs"),
        ({"logit_bias": {"4096": 1}}, "logit_bias"),
        ({"top_logprobs": 1}, "top_logprobs"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name_and_costs_nothing(running, shop, ask, changes, param):
    key, _ = shop
    before = usage_totals(running, key)
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refusal:
            ask(**changes, stream=stream)
        assert refusal.value.param == param
    assert usage_totals(running, key) == before
    with running.http(key) as http:
        account = http.get("/api/v1/account").raise_for_status().json()
    assert account["requests_this_month"]["held"] == 0


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_engines_time_and_the_roads_are_the_time_to_the_answers_head(running, shop, is_stream):
    key, model = shop
    body = {"model": model, "prompt": "In the", "max_tokens": 30, "n": 2, "stream": is_stream}
    with running.http(key) as http:
        http.post("/v1/completions", json=body).raise_for_status()  # the connection is open, all is loaded
        started = time.monotonic()
        with http.stream("POST", "/v1/completions", json=body) as answer:
            whole = (time.monotonic() - started) * 1000
            answer.read()
    engine = float(answer.headers["x-tritium-engine-ms"])
    overhead = float(answer.headers["x-tritium-overhead-ms"])
    assert engine > 0 < overhead
    # The client's time has both ways over the loopback and its own work on top.
    assert engine + overhead <= whole <= engine + overhead + 200


def test_what_no_engine_worked_for_has_no_overhead(running, shop):
    key, _ = shop
    with running.http(key) as http:
        for answer in (
            http.get("/v1/models"),
            http.post("/v1/completions", json={"model": "x", "prompt": "a"}),
        ):
            assert "x-tritium-overhead-ms" not in answer.headers
            assert answer.headers["x-request-id"]


def test_compressed_requests_and_answers_cross_the_gateway(running, shop):
    key, model = shop
    body = json.dumps({"model": model, "prompt": "In the beginning " * 200}).encode()
    with running.http(key) as http:
        for name, encode in (("gzip", gzip.compress), ("zstd", zstd.compress)):
            headers = {"content-encoding": name, "content-type": "application/json", "accept-encoding": name}
            answer = http.post("/v1/tokenize", content=encode(body), headers=headers)
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-encoding"] == name
        bomb = {"content-encoding": "gzip", "content-type": "application/json"}
        answer = http.post("/v1/completions", content=gzip.compress(bytes(2**23)), headers=bomb)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        answer = http.post("/v1/completions", content=b"", headers={"content-encoding": "br"})
        assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, zstd")


def test_a_stored_answer_is_compressed_for_whoever_asks(running, shop):
    key, model = shop
    body = {"model": model, "prompt": "In the", "max_tokens": 2, "echo": True, "logprobs": 5, "n": 4}
    answers = []
    with running.http(key) as http:
        for coding in ("identity", "gzip", "zstd"):
            headers = {"idempotency-key": "codings", "accept-encoding": coding}
            answers.append(http.post("/v1/completions", json=body, headers=headers))
    assert [each.headers.get("content-encoding", "identity") for each in answers] == [
        "identity",
        "gzip",
        "zstd",
    ]
    assert answers[0].content == answers[1].content == answers[2].content


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_response_is_metered_as_a_chat_is(running, shop, is_stream):
    key, model = shop
    before = usage_totals(running, key)
    client = running.openai(key)
    asked = {"model": model, "input": "In the beginning", "max_output_tokens": 7, "temperature": 0}
    if is_stream:
        *_, last = client.responses.create(**asked, stream=True)
        answer = last.response
    else:
        answer = client.responses.create(**asked)
    after = usage_totals(running, key)
    assert answer.usage.output_tokens == 7
    assert after["output_tokens"] - before.get("output_tokens", 0) == 7
    assert after["input_tokens"] - before.get("input_tokens", 0) == answer.usage.input_tokens
    with pytest.raises(openai.BadRequestError) as refusal:
        client.responses.create(**asked, store=True)
    assert refusal.value.param == "store"
    assert usage_totals(running, key) == after
