"""kill -9 of the gateway in the middle of a batch: it goes on, no line is lost, answered or billed twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import httpx2
import openai
import psutil
import pytest

PATIENCE = 120
NUM_LINES = 40
KILLS = 2


class Program:
    """`tritiumd serve` on one data directory."""

    def __init__(self, data_dir, *, models):
        self.data_dir = data_dir
        self._models = models
        self.process = None
        self.url = ""
        self.admin_key = ""

    def start(self):
        command = [sys.executable, "-m", "tritium_platform.cli", "serve", "--data-dir", self.data_dir]
        command += ["--model-root", self._models, "--port", "0", "--format", "json"]
        environment = {**os.environ, "TRITIUM_THREADS_PER_ENGINE": "1", "TRITIUM_RESERVATION_SECONDS": "3"}
        with (self.data_dir / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
        facts = json.loads(self.process.stdout.readline())
        self.url = facts["url"]
        self.admin_key = facts.get("admin_key", self.admin_key)

    def stop(self, number=signal.SIGTERM):
        """Send a signal and wait for the end of the program and of all its children."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)
        self.process.wait(60)
        self.process.stdout.close()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive

    def http(self, key):
        return httpx2.Client(base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=30)

    def openai(self, key):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture
def program(tmp_path, scripture_llama):
    made = Program(tmp_path, models=scripture_llama.parent)
    made.start()
    yield made
    if made.process.poll() is None:
        made.stop()


def open_shop(program, model_path):
    with program.http(program.admin_key) as admin:
        wish = {"organization_name": "Acme", "tier": "business"}
        tenant_id = admin.post("/api/v1/tenants", json=wish).raise_for_status().json()["id"]
        key = admin.post(f"/api/v1/tenants/{tenant_id}/keys", json={"name": "k"}).raise_for_status().json()
    with program.http(key["key"]) as http:
        http.post("/api/v1/models", json={"name": "m", "path": str(model_path)}).raise_for_status()
        http.post("/api/v1/deployments", json={"model": "m"}).raise_for_status()
    return key["key"]


def follow(program, key, batch_id, *, until):
    deadline = time.monotonic() + PATIENCE
    with program.openai(key) as client:
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
    with program.openai(key) as client:
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
        with program.openai(key) as client:
            after = client.batches.retrieve(made.id)
        assert after.request_counts.completed >= batch.request_counts.completed
        seen = after.request_counts.completed

    batch = follow(program, key, made.id, until=lambda each: each.status == "completed")
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (NUM_LINES, NUM_LINES, 0)
    with program.openai(key) as client:
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
