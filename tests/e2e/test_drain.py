"""The platform is stopped while it streams: readiness says no first, and nothing in flight is lost."""

from __future__ import annotations

import json
import os
import signal
import time

import httpx2
import openai
import pytest
import tritium_test_programs as programs

# Longer than the notice before the port closes, shorter than what runs may take to finish.
STREAM_SECONDS = 5
# A machine under load stands still at times, and a start takes a minute.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def up(tmp_path, scripture_llama_without_end):
    """`tritiumd serve` on a fresh directory: (process, what it printed)."""
    command = ["tritiumd", "serve", "--data-dir", tmp_path / "data"]
    command += ["--port", "0", "--model-root", scripture_llama_without_end, "--format", "json"]
    environment = {**os.environ, "TRITIUM_THREADS_PER_ENGINE": "1"}
    process = programs.start(*command, log=tmp_path / "log", environment=environment)
    yield process, json.loads(process.stdout.readline())
    process.kill()
    process.wait(60)
    process.stdout.close()


def tenant_key(facts):
    headers = {"authorization": f"Bearer {facts['admin_key']}"}
    with httpx2.Client(base_url=facts["url"], headers=headers, timeout=60) as admin:
        body = {"organization_name": "Acme", "tier": "business"}
        tenant = admin.post("/api/v1/tenants", json=body).raise_for_status().json()["id"]
        made = admin.post(f"/api/v1/tenants/{tenant}/keys", json={"name": "k"}).raise_for_status().json()
    return tenant, made["key"]


def deploy(facts, key, path, harness):
    headers = {"authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=facts["url"], headers=headers, timeout=60) as http:
        http.post("/api/v1/models", json={"name": "m", "path": str(path)}).raise_for_status()
        http.post("/api/v1/deployments", json={"model": "m"}).raise_for_status()
        harness.wait_until(lambda: http.get("/api/v1/deployments/m").json()["state"] == "ready")


def test_streams_and_answers_that_run_at_sigterm_are_finished_and_booked(
    up, harness, scripture_llama_without_end, tmp_path
):
    process, facts = up
    tenant, key = tenant_key(facts)
    deploy(facts, key, scripture_llama_without_end, harness)
    options = {"model": "m", "prompt": "In the", "extra_body": {"ignore_eos": True}}
    with openai.OpenAI(base_url=f"{facts['url']}/v1", api_key=key, max_retries=0, timeout=120) as client:
        before = time.monotonic()
        client.completions.create(**options, max_tokens=200)
        tokens = round(200 / (time.monotonic() - before) * STREAM_SECONDS)
        options |= {"max_tokens": tokens, "stream": True, "stream_options": {"include_usage": True}}
        streams = [client.completions.create(**options) for _ in range(2)]
        for stream in streams:
            next(stream)
        with httpx2.Client(base_url=facts["url"], timeout=30) as probe:  # connected before the port closes
            assert probe.get("/health/ready").status_code == 200
            process.send_signal(signal.SIGTERM)
            harness.wait_until(lambda: probe.get("/health/ready").status_code == 503)
        for stream in streams:
            assert list(stream)[-1].usage.completion_tokens == tokens
    assert process.wait(60) == 0
    done = programs.run("tritiumd", "usage", tenant, "--format", "json", "--data-dir", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    totals = {each["meter"]: each["quantity"] for each in json.loads(done.stdout)["totals"]}
    assert totals["output_tokens"] == 200 + 2 * tokens
