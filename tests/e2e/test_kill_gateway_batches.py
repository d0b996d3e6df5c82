"""kill -9 of the gateway in the middle of a batch: it goes on, no line is lost, answered or billed twice."""

from __future__ import annotations

import json
import signal
import time

import openai
import pytest

PATIENCE = 600
NUM_LINES = 40
KILLS = 2
# A machine under load stands still at times, and a start takes a minute.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def program(run_program):
    return run_program("serve", TRITIUM_THREADS_PER_ENGINE="1", TRITIUM_RESERVATION_SECONDS="3")


def official(program, key):
    return openai.OpenAI(base_url=f"{program.url}/v1", api_key=key, max_retries=0, timeout=60)


def open_shop(program, model_path):
    key = program.open_account()
    with program.http(key) as http:
        http.post("/api/v1/models", json={"name": "m", "path": str(model_path)}).raise_for_status()
        http.post("/api/v1/deployments", json={"model": "m"}).raise_for_status()
    return key


def follow(program, key, batch_id, *, until):
    deadline = time.monotonic() + PATIENCE
    with official(program, key) as client:
        while time.monotonic() < deadline:
            batch = client.batches.retrieve(batch_id)
            if until(batch):
                return batch
            time.sleep(0.02)
    raise AssertionError(batch)


def test_a_batch_goes_on_where_it_was_however_often_the_gateway_is_killed(program, scripture_llama):
    key = open_shop(program, scripture_llama)
    names = [f"line-{number}" for number in range(NUM_LINES)]
    lines = [
        {
            "custom_id": name,
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": "m", "prompt": "In the", "max_tokens": 30, "ignore_eos": True},
        }
        for name in names
    ]
    content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    with official(program, key) as client:
        file = client.files.create(file=("input.jsonl", content), purpose="batch")
        made = client.batches.create(
            input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
        )
    seen = 0
    for kill in range(KILLS):
        wanted = max(seen, NUM_LINES * kill // (KILLS + 1)) + 1
        batch = follow(
            program,
            key,
            made.id,
            until=lambda each, at_least=wanted: each.request_counts.completed >= at_least,
        )
        program.stop(signal.SIGKILL)
        program.start()
        with official(program, key) as client:
            after = client.batches.retrieve(made.id)
        assert after.request_counts.completed >= batch.request_counts.completed
        seen = after.request_counts.completed

    batch = follow(program, key, made.id, until=lambda each: each.status == "completed")
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (NUM_LINES, NUM_LINES, 0)
    with official(program, key) as client:
        answers = [json.loads(each) for each in client.files.content(batch.output_file_id).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == names
    told = sum(answer["response"]["body"]["usage"]["completion_tokens"] for answer in answers)
    with program.http(key) as http:
        records = http.get("/api/v1/usage?limit=1000").raise_for_status().json()["records"]
        texts = [r for r in records if (r["operation"], r["outcome"]) == ("completion", "success")]
        assert len(texts) == NUM_LINES
        # Billed is what was answered, to the token: attempts that died cost nothing.
        assert sum(record["quantities"]["output_tokens"] for record in texts) == told == 30 * NUM_LINES
        totals = {t["meter"]: t["quantity"] for t in http.get("/api/v1/usage").json()["totals"]}
        assert totals["output_tokens"] == told
        for _ in range(300):
            quota = http.get("/api/v1/account").json()["requests_this_month"]
            if quota["held"] == 0:
                break
            time.sleep(0.1)
    assert (quota["used"], quota["held"]) == (1 + NUM_LINES, 0)
