"""What a use has on the wire: the bytes in its record are those that a client sent and received."""

from __future__ import annotations

import gzip
import json

import httpx2
import openai
import pytest

PROMPT = [{"role": "user", "content": "In the beginning"}]


class CountingTransport(httpx2.HTTPTransport):
    """Counts bodies where they cross the wire: compressed, and without heads and chunks."""

    def __init__(self):
        super().__init__()
        self.requests = []
        self.answers = []

    def handle_request(self, request):
        self.requests.append(len(request.read()))
        self.answers.append(super().handle_request(request))
        return self.answers[-1]

    @property
    def passed(self):
        return sum(self.requests) + sum(answer.num_bytes_downloaded for answer in self.answers)


@pytest.fixture(scope="module")
def shop(running):
    """A tenant with a deployed model: (key, model name)."""
    _, key = running.tenant()
    return key, running.deploy(key)


@pytest.fixture
def wire():
    """What counts the bytes of one test."""
    return CountingTransport()


@pytest.fixture
def client(running, shop, wire):
    """The official client, whose bytes are counted."""
    key, _ = shop
    with openai.OpenAI(
        base_url=f"{running.url}/v1",
        api_key=key,
        max_retries=0,
        http_client=httpx2.Client(transport=wire),
    ) as counted:
        yield counted


@pytest.fixture
def http(running, shop, wire):
    """A plain client, whose bytes are counted."""
    headers = {"authorization": f"Bearer {shop[0]}", "content-type": "application/json"}
    with httpx2.Client(base_url=running.url, headers=headers, transport=wire, timeout=60) as counted:
        yield counted


@pytest.fixture
def new_records(running, shop):
    """Return the records since the test began."""
    before = len(records_of(running, shop[0]))
    return lambda: records_of(running, shop[0])[before:]


def records_of(running, key):
    with running.http(key) as http:
        return http.get("/api/v1/usage?limit=1000").raise_for_status().json()["records"]


def network(records):
    return [record["resources"]["network_bytes_transferred"] for record in records]


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("endpoint", ["chat", "completions", "responses"])
def test_a_use_has_the_bytes_that_its_client_sent_and_received(
    client, shop, wire, new_records, *, endpoint, is_stream
):
    asked = {"model": shop[1], "stream": is_stream, "temperature": 0}
    if endpoint == "chat":
        answer = client.chat.completions.create(**asked, messages=PROMPT, max_tokens=200)
    elif endpoint == "completions":
        answer = client.completions.create(**asked, prompt="In the", max_tokens=200)
    else:
        answer = client.responses.create(**asked, input="In the", max_output_tokens=200)
    if is_stream:
        assert len(list(answer)) > 2
    (record,) = new_records()
    assert record["outcome"] == "success"
    assert network([record]) == [wire.passed]
    assert wire.passed > wire.requests[0] > 0


@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
@pytest.mark.parametrize("key", ["", "kept"])
def test_compressed_bodies_count_as_they_cross(http, shop, wire, new_records, *, coding, key):
    body = {"model": shop[1], "prompt": "In the", "max_tokens": 40, "logprobs": 5, "ignore_eos": True}
    headers = {"accept-encoding": coding, "content-encoding": "gzip"}
    if key:
        headers["idempotency-key"] = f"{key}-{coding}"
    content = gzip.compress(json.dumps(body).encode())
    answer = http.post("/v1/completions", content=content, headers=headers)
    assert answer.headers.get("content-encoding", "identity") == coding
    (record,) = new_records()
    assert network([record]) == [wire.passed] == [len(content) + int(answer.headers["content-length"])]
    assert coding == "identity" or wire.passed < len(answer.content)
    if key:  # what is given again is no use, and changes none
        again = http.post("/v1/completions", content=content, headers=headers)
        assert again.headers["idempotency-replayed"] == "true"
        assert new_records() == [record]


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_texts_of_a_request_have_its_bytes_together(client, shop, wire, new_records, is_stream):
    answer = client.completions.create(
        model=shop[1], prompt=["In the", "And God"], n=2, max_tokens=9, stream=is_stream
    )
    if is_stream:
        list(answer)
    records = new_records()
    assert len(records) == 4
    assert sum(network(records)) == wire.passed


def test_a_client_that_hangs_up_has_what_went_out_until_then(
    running, harness, scripture_llama_without_end, wire
):
    _, key = running.tenant(name="Leaver")
    model = running.deploy(key, path=scripture_llama_without_end)
    before = len(records_of(running, key))
    body = {"model": model, "prompt": "In the", "max_tokens": 60_000, "stream": True, "ignore_eos": True}
    headers = {"authorization": f"Bearer {key}"}
    with (
        httpx2.Client(base_url=running.url, headers=headers, transport=wire, timeout=2) as http,
        http.stream("POST", "/v1/completions", json=body) as answer,
    ):
        pieces = answer.iter_raw()
        for _ in range(5):
            next(pieces)
        # Engines that stand still give nothing more: what has come is what went out.
        with harness.stopped(harness.replica_process_ids(running)):
            with pytest.raises(httpx2.ReadTimeout):
                for _ in pieces:
                    pass
            answer.close()  # before they go on, or they would give more that nobody reads
            harness.wait_until(lambda: len(records_of(running, key)) > before)
    (record,) = records_of(running, key)[before:]
    assert record["outcome"] == "cancelled"
    assert network([record]) == [wire.passed]
    assert record["quantities"]["output_tokens"] >= 5


def test_what_crosses_no_wire_has_no_bytes(http, shop, new_records):
    """A refused request is no use, and counting tokens is none either."""
    assert http.post("/v1/tokenize", json={"model": shop[1], "prompt": "In"}).status_code == 200
    assert http.post("/v1/completions", json={"model": "nobody", "prompt": "In"}).status_code == 404
    assert new_records() == []
