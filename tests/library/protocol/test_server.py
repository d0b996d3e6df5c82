from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx2
import openai
import pytest

from tritium.engine.config import EngineConfig
from tritium.errors import ValidationError
from tritium.protocol.app import create_app

KEY = {"authorization": "Bearer sk-local-test"}
CHAT = {"model": "scripture", "messages": [{"role": "user", "content": "In the beginning"}], "temperature": 0}
LONG = CHAT | {"max_tokens": 900, "ignore_eos": True}


@pytest.fixture
def http(base_url):
    with httpx2.Client(base_url=base_url, headers=KEY, timeout=60) as made:
        yield made


def error_of(response) -> dict[str, object]:
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def until(condition, *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe{}",
        b'{"model": "\xc3("}',
        b'{"model": "\\ud800"}',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_json_object_in_utf8_is_refused(http, body):
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings"):
        response = http.post(path, content=body)
        assert response.status_code == 400
        assert error_of(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": "hello"},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"model": 7},
        {"max_tokens": "10"},
        {"max_tokens": 1.5},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"seed": "x"},
        {"stop": [1]},
        {"stream_options": {"include": True}},
    ],
)
def test_a_wrong_type_is_refused_by_name(http, changes):
    response = http.post("/v1/chat/completions", content=json.dumps(CHAT | changes))
    assert response.status_code == 400
    assert error_of(response)["param"] == next(iter(changes))


def test_a_refusal_does_not_repeat_the_prompt(http):
    secret = "the prompt is nobody's business"
    response = http.post(
        "/v1/chat/completions", json=CHAT | {"messages": [{"role": secret, "content": secret}]}
    )
    assert response.status_code == 400
    assert secret not in response.text


def test_a_body_beyond_any_request_is_refused_before_it_is_read_to_the_end(http):
    response = http.post("/v1/completions", content=b"x" * (9 * 2**20))
    assert response.status_code == 413
    assert error_of(response)["code"] == "request_too_large"


def test_unknown_routes_and_methods_get_the_envelope_too(http):
    assert error_of(http.get("/v1/nothing"))["code"] == "not_found"
    response = http.get("/v1/chat/completions")
    assert response.status_code == 405
    assert error_of(response)["code"] == "method_not_allowed"
    assert "POST" in response.headers["allow"]


def test_every_answer_has_an_id_of_its_own(http, base_url):
    answers = [
        http.get(path)
        for path in ("/health", "/v1/models", "/v1/models/scripture", "/v1/nothing", "/docs", "/openapi.json")
    ]
    answers += [
        http.post("/health"),
        http.post("/v1/completions", json={"model": "scripture", "prompt": "a", "max_tokens": 1}),
        http.post("/v1/completions", json={"model": "other", "prompt": "a"}),
        http.post("/v1/completions", content=b"{", headers={"x-request-id": "mine"}),
        http.post("/v1/completions", content=b"", headers={"content-encoding": "br"}),
        httpx2.get(f"{base_url}/v1/models"),
    ]
    ids = [answer.headers.get_list("x-request-id") for answer in answers]
    assert all(len(each) == 1 and each[0] for each in ids)
    assert len({each[0] for each in ids}) == len(answers)


def test_strangers_learn_nothing_about_their_body(base_url):
    for headers in (
        {},
        {"authorization": "Basic x"},
        {"authorization": "Bearer"},
        {"authorization": "sk-local-test"},
    ):
        response = httpx2.post(f"{base_url}/v1/chat/completions", content=b"{", headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert error_of(response)["code"] == "invalid_api_key"
    assert httpx2.get(f"{base_url}/v1/models").status_code == 401


def test_the_stream_is_server_sent_events_that_end_with_done(http):
    with http.stream(
        "POST", "/v1/chat/completions", json=CHAT | {"max_tokens": 3, "stream": True}
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-request-id"]
        events = response.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") for event in events[:-2])


def test_health_needs_no_key(base_url):
    response = httpx2.get(f"{base_url}/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def aborted(engine_thread) -> int:
    return engine_thread.metrics.finished.get("abort", 0)


def is_empty(engine_thread) -> bool:
    metrics = engine_thread.metrics
    return metrics.running == metrics.waiting == metrics.kv_blocks_used == 0


def send_and_leave(base_url, body, *, when) -> None:
    """Speak HTTP over a bare socket and hang up in the middle."""
    where = urlsplit(base_url)
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY['authorization']}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((where.hostname, where.port)) as connection:
        connection.sendall(head.encode() + content)
        if body["stream"]:
            received = b""
            while b"data: " not in received:
                received += connection.recv(4096)
        until(when)


@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_ends_its_generation(base_url, engine_thread, is_stream, choices):
    until(lambda: is_empty(engine_thread))
    before = aborted(engine_thread)
    body = LONG | {"stream": is_stream, "n": choices}
    send_and_leave(base_url, body, when=lambda: engine_thread.metrics.running == choices)
    until(lambda: aborted(engine_thread) == before + choices)
    until(lambda: is_empty(engine_thread))


def test_a_client_that_leaves_does_not_disturb_the_others(base_url, engine_thread, client):
    expected = client.chat.completions.create(**CHAT, max_tokens=150).choices[0].message.content
    stream = client.chat.completions.create(**CHAT, max_tokens=150, stream=True)
    pieces = [next(stream).choices[0].delta.content or ""]
    for _ in range(3):
        send_and_leave(base_url, LONG | {"stream": True}, when=lambda: True)
    pieces += [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == expected
    until(lambda: is_empty(engine_thread))


async def test_closing_the_clients_stream_ends_the_generation(async_client, engine_thread):
    until(lambda: is_empty(engine_thread))
    before = aborted(engine_thread)
    stream = await async_client.chat.completions.create(
        model="scripture",
        messages=CHAT["messages"],
        max_tokens=900,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    async for _ in stream:
        break
    await stream.close()
    await asyncio.to_thread(until, lambda: aborted(engine_thread) == before + 1)


def test_a_full_queue_is_a_rate_limit_with_a_time_to_wait(scripture_llama, serving):
    config = EngineConfig(max_running=1, max_waiting=1)
    app = create_app(scripture_llama, served_name="scripture", threads=1, config=config, drain_seconds=0)
    with (
        serving(app) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client,
    ):
        first = client.chat.completions.create(
            **CHAT, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
        )
        next(first)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**CHAT, max_tokens=5, n=3)
        assert caught.value.code == "queue_full"
        assert caught.value.response.headers["retry-after"] == "1"
        first.close()
        until(lambda: is_empty(app.state.backend.thread))


def test_a_server_that_stops_finishes_what_it_has_begun(scripture_llama, serving):
    app = create_app(scripture_llama, served_name="scripture", threads=1)
    with serving(app) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0)
        stream = client.chat.completions.create(**CHAT, max_tokens=60, stream=True)
        next(stream)
        # The server is told to stop when this block ends; the answer goes on being written.
        chunks: list[object] = []
        reader = threading.Thread(target=lambda: chunks.extend(stream))
        reader.start()
    reader.join()
    assert chunks[-1].choices[0].finish_reason == "length"
    assert not app.state.backend.thread.is_alive
    client.close()


def test_an_empty_key_is_refused(scripture_llama):
    with pytest.raises(ValidationError, match="empty"):
        create_app(scripture_llama, api_key=" ")
