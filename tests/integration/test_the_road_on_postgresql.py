"""The core of the road on PostgreSQL: the same answers, the same books."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tritium_platform.audit.verify import verify_log

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def running(tmp_path_factory, harness, postgresql_url, scripture_llama_without_end):
    """A platform on PostgreSQL."""
    roots = (harness.EXAMPLE_MODELS, scripture_llama_without_end)
    config = harness.platform_config(
        tmp_path_factory.mktemp("platform"), database_url=postgresql_url, model_roots=roots
    )
    platform, stop = harness.serve(config)
    yield platform
    stop()


def test_chats_streamed_and_whole_are_metered_priced_and_logged(running, harness):
    tenant_id, key = running.tenant(tier="business")
    model = running.deploy(key)
    client = running.openai(key)
    messages = [{"role": "user", "content": "In the beginning"}]
    whole = client.chat.completions.create(model=model, messages=messages, max_tokens=6, temperature=0)
    stream = client.chat.completions.create(
        model=model, messages=messages, max_tokens=6, temperature=0, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole.choices[0].message.content
    with running.http(key) as http:
        usage = http.get("/api/v1/usage").json()
        totals = {total["meter"]: total["quantity"] for total in usage["totals"]}
        assert totals["output_tokens"] == 12
        assert totals["input_tokens"] == 2 * whole.usage.prompt_tokens
        assert [record["outcome"] for record in usage["records"]] == ["success"] * 3
        assert http.get("/api/v1/invoices/preview").json()["tenant_id"] == tenant_id
        harness.wait_until(lambda: http.get("/api/v1/audit/checkpoint").json().get("size", 0) >= 6)
    report = verify_log(running.platform.config.audit_dir, running.platform.verifier_key)
    assert report.is_intact


def test_a_quota_is_never_overdrawn_by_requests_at_the_same_time(running):
    _, key = running.tenant(monthly_quota=6, max_concurrent_requests=50)
    model = running.deploy(key)  # the first of the six
    client = running.openai(key)

    def ask(_):
        try:
            return client.completions.create(model=model, prompt="a", max_tokens=2).usage.completion_tokens
        except openai.RateLimitError as error:
            assert error.code == "insufficient_quota"  # noqa: PT017 - both ends are expected here
            return 0

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(12)))
    assert sum(1 for tokens in answers if tokens) == 5
    with running.http(key) as http:
        quota = http.get("/api/v1/account").json()["requests_this_month"]
    assert (quota["used"], quota["held"]) == (6, 0)


def test_a_client_that_leaves_is_metered(running, harness, scripture_llama_without_end):
    _, key = running.tenant()
    model = running.deploy(key, path=scripture_llama_without_end)
    stream = running.openai(key).completions.create(
        model=model, prompt="In the", max_tokens=60_000, stream=True, extra_body={"ignore_eos": True}
    )
    next(stream)
    stream.close()
    with running.http(key) as http:

        def outcomes():
            return [record["outcome"] for record in http.get("/api/v1/usage").json()["records"]]

        harness.wait_until(lambda: outcomes() == ["success", "cancelled"])


def test_a_batch_is_answered_and_billed_once(running, harness):
    _, key = running.tenant(name="Batcher")
    model = running.deploy(key)
    client = running.openai(key)
    body = {"model": model, "prompt": "In the", "max_tokens": 3, "ignore_eos": True}
    lines = [
        {"custom_id": f"ü\u0000{number}", "method": "POST", "url": "/v1/completions", "body": body}
        for number in range(12)
    ]
    lines[5] = {**lines[5], "body": {**body, "max_tokens": 0}}
    content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    file = client.files.create(file=("input.jsonl", content), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/completions",
        completion_window="24h",
        metadata={"naïve": "\u0000"},
    )
    harness.wait_until(lambda: client.batches.retrieve(made.id).status == "completed")
    batch = client.batches.retrieve(made.id)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (11, 1)
    assert batch.metadata == {"naïve": "\u0000"}
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == [
        line["custom_id"] for number, line in enumerate(lines) if number != 5
    ]
    with running.http(key) as http:
        totals = {total["meter"]: total["quantity"] for total in http.get("/api/v1/usage").json()["totals"]}
        assert totals["output_tokens"] == 3 * 11
        storage = http.get("/api/v1/account").json()["storage"]
        for file_id in (file.id, batch.output_file_id, batch.error_file_id):
            client.files.delete(file_id)
        assert storage["used"] > 0
        assert http.get("/api/v1/account").json()["storage"]["used"] == 0
