"""Requests with an Idempotency-Key through the whole platform, with the official client."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import openai
import pytest

PROMPT = [{"role": "user", "content": "In the beginning"}]


@pytest.fixture(scope="module")
def shop(running):
    """A tenant with a deployed model: (tenant id, key, model name)."""
    tenant_id, key = running.tenant()
    return tenant_id, key, running.deploy(key)


@pytest.fixture
def ask(running, shop):
    """Ask for a chat completion under a key; text that would not come out twice by itself."""
    _, key, model = shop
    client = running.openai(key)

    def chat(name, **options):
        asked = {"model": model, "messages": PROMPT, "max_tokens": 12, "temperature": 2.0} | options
        with_raw = client.chat.completions.with_raw_response
        return with_raw.create(**asked, extra_headers={"Idempotency-Key": name})

    return chat


def records(running, key):
    with running.http(key) as http:
        return http.get("/api/v1/usage?limit=1000").raise_for_status().json()["records"]


def test_the_same_request_gets_the_same_answer_and_is_billed_once(running, shop, ask):
    _, key, _ = shop
    first = ask('"once-1"')
    before = records(running, key)
    for again in (ask('"once-1"'), ask("once-1")):
        assert again.status_code == 200
        assert again.content == first.content
        assert again.headers["content-type"] == first.headers["content-type"]
        assert again.headers["idempotency-replayed"] == "true"
        assert again.headers["original-request"] == first.headers["x-request-id"]
        assert again.headers["x-request-id"] != first.headers["x-request-id"]
        assert "x-ratelimit-remaining-requests" not in again.headers
    assert "idempotency-replayed" not in first.headers
    assert records(running, key) == before
    assert ask("once-2").content != first.content


def test_a_stream_is_given_again_as_it_was(running, shop, ask):
    _, key, _ = shop
    options = {"stream": True, "stream_options": {"include_usage": True}}
    first = [chunk.to_dict() for chunk in ask("stream-1", **options).parse()]
    before = records(running, key)
    again = ask("stream-1", **options)
    assert again.headers["content-type"].startswith("text/event-stream")
    assert [chunk.to_dict() for chunk in again.parse()] == first
    assert first[-1]["usage"]["completion_tokens"] > 0
    assert records(running, key) == before


def test_completions_with_several_choices_are_kept_too(running, shop):
    _, key, model = shop
    body = {"model": model, "prompt": ["And God", "In the"], "n": 2, "max_tokens": 3, "temperature": 2.0}
    with running.http(key) as http:
        first, again = (
            http.post("/v1/completions", json=body, headers={"idempotency-key": "many"}) for _ in range(2)
        )
    assert first.json() == again.json()
    assert len(first.json()["choices"]) == 4


def test_a_key_of_another_request_is_refused(ask):
    ask("reused")
    with pytest.raises(openai.UnprocessableEntityError) as refusal:
        ask("reused", max_tokens=3)
    assert refusal.value.code == "idempotency_key_reused"
    assert refusal.value.param == "Idempotency-Key"
    with pytest.raises(openai.UnprocessableEntityError):
        ask("reused", stream=True)


@pytest.mark.parametrize("name", ["", "two words", '"open', "a,b", "x" * 256])
def test_a_malformed_key_is_refused_by_name(ask, name):
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(name)
    assert (refusal.value.param, refusal.value.code) == ("Idempotency-Key", "idempotency_key_malformed")
    assert refusal.value.response.headers["x-request-id"]


def test_what_is_refused_frees_its_key(running, shop, ask):
    with pytest.raises(openai.BadRequestError):
        ask("refused", logit_bias={"4096": 1})
    assert ask("refused").status_code == 200


def test_strangers_and_other_keys_do_not_get_the_answer(running, shop, ask):
    tenant_id, _, model = shop
    first = ask("mine")
    with running.admin() as admin:
        path = f"/api/v1/tenants/{tenant_id}/keys"
        second = admin.post(path, json={"name": "second"}).raise_for_status().json()["key"]
        powerless = admin.post(path, json={"name": "third", "scopes": ["usage"]}).raise_for_status().json()
    body = {"model": model, "messages": PROMPT, "max_tokens": 12, "temperature": 2.0}
    for key, status in ((second, 200), (powerless["key"], 403), ("btn_live_nobody", 401)):
        with running.http(key) as http:
            answer = http.post("/v1/chat/completions", json=body, headers={"idempotency-key": "mine"})
        assert answer.status_code == status
        assert "idempotency-replayed" not in answer.headers
        assert answer.content != first.content


def test_at_the_same_time_one_runs_and_the_official_client_waits_for_its_answer(running, shop):
    _, key, model = shop
    client = running.openai(key).with_options(max_retries=8)
    before = len(records(running, key))

    def chat(_):
        return client.chat.completions.create(
            model=model,
            messages=PROMPT,
            max_tokens=200,
            temperature=2.0,
            extra_headers={"Idempotency-Key": "together"},
        ).choices[0]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(chat, range(4)))
    assert len({answer.message.content for answer in answers}) == 1
    assert len(records(running, key)) == before + 1


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_finds_its_answer_when_it_comes_back(running, shop, harness, is_stream):
    _, key, model = shop
    name = f"left-{is_stream}"
    body = {
        "model": model,
        "messages": PROMPT,
        "max_tokens": 60,
        "temperature": 2.0,
        "stream": is_stream,
        "ignore_eos": True,
    }
    before = len(records(running, key))
    send_and_leave(running.url, key, name, body)
    harness.wait_until(lambda: len(records(running, key)) > before)
    with running.http(key) as http:
        headers = {"idempotency-key": name, "content-type": "application/json"}
        answer = http.post("/v1/chat/completions", content=json.dumps(body), headers=headers)
        for _ in range(20):
            if answer.status_code != 409:
                break
            time.sleep(0.2)
            answer = http.post("/v1/chat/completions", content=json.dumps(body), headers=headers)
    assert answer.headers["idempotency-replayed"] == "true"
    (record,) = records(running, key)[before:]
    assert (record["outcome"], record["quantities"]["output_tokens"]) == ("success", 60)
    # The work went on: its answer went out, though nobody was there.
    passed = len(json.dumps(body)) + len(answer.content)
    assert record["resources"]["network_bytes_transferred"] == passed


def send_and_leave(url, key, name, body):
    """Send a request, and close the connection without reading the answer."""
    content = json.dumps(body).encode()
    host = urlsplit(url)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host.netloc}\r\nauthorization: Bearer {key}\r\n"
        f"idempotency-key: {name}\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((host.hostname, host.port)) as connection:
        connection.sendall(head.encode() + content)
        time.sleep(0.2)


def test_a_running_request_of_a_dead_owner_is_taken_over_and_billed_once(running, shop, ask):
    """The owner dies after the use was counted and before the answer was kept: the worst moment."""
    _, key, _ = shop
    service = running.platform.idempotency
    finish, died = service.finish, threading.Event()

    async def die(request, answer):
        died.set()
        return await service.abandon(request)  # what a lease that runs out does, without the wait

    service.finish = die
    try:
        first = ask("crashed")
    finally:
        service.finish = finish
    assert died.is_set()
    counted = records(running, key)
    second = ask("crashed")
    assert second.status_code == 200
    assert second.content != first.content
    assert "idempotency-replayed" not in second.headers
    assert records(running, key) == counted
    assert ask("crashed").content == second.content
    with running.http(key) as http:
        account = http.get("/api/v1/account").raise_for_status().json()["requests_this_month"]
    assert account["held"] == 0
    assert account["used"] == len(counted)


def test_neither_prompt_nor_answer_nor_key_lies_in_the_database(running, shop, ask):
    answer = ask("secret-key-name", messages=[{"role": "user", "content": "a prompt to be looked for"}])
    text = answer.parse().choices[0].message.content
    files = [path for path in running.platform.config.data_dir.glob("tritium.sqlite3*") if path.is_file()]
    content = b"".join(path.read_bytes() for path in files)
    assert b"idempotency_keys" in content
    for secret in (b"secret-key-name", b"a prompt to be looked for", text.encode()):
        assert secret not in content
