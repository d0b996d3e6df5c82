"""Engines that die, and what their callers see."""

from __future__ import annotations

import os
import signal

import openai
import pytest


def test_a_killed_engine_fails_its_streams_clearly_and_the_next_request_works(
    running, harness, scripture_llama_without_end
):
    _, key = running.tenant()
    model = running.deploy(key, path=scripture_llama_without_end)
    client = running.openai(key)
    stream = client.completions.create(
        model=model, prompt="In the", max_tokens=60_000, stream=True, extra_body={"ignore_eos": True}
    )
    for count, _ in enumerate(stream):
        if count == 3:
            break
    (process_id,) = harness.replica_process_ids(running)
    os.kill(process_id, signal.SIGKILL)
    with pytest.raises(openai.APIError) as failure:
        list(stream)
    assert failure.value.body["recovery"] == "retry_after"
    assert "again" in failure.value.message

    running.wait_ready(key, model)
    answer = client.completions.create(model=model, prompt="In the", max_tokens=4)
    assert answer.usage.completion_tokens >= 1
    with running.http(key) as http:
        deployment = http.get(f"/api/v1/deployments/{model}").json()
        assert deployment["replicas"][0]["restarts"] == 1
        records = http.get("/api/v1/usage").json()["records"]
        assert [record["outcome"] for record in records] == ["success", "failed", "success"]
        assert records[1]["quantities"]["output_tokens"] >= 3
        assert http.get("/api/v1/account").json()["requests_this_month"]["held"] == 0


def test_while_an_engine_restarts_requests_get_503_and_a_time_to_retry(running, harness):
    _, key = running.tenant()
    model = running.deploy(key)
    with running.http(key) as http:
        deployment = http.get(f"/api/v1/deployments/{model}").json()
    replica = next(
        status
        for status in running.platform.deployments.all_statuses()
        if status.name == deployment["replicas"][0]["name"]
    )
    os.kill(replica.process_id, signal.SIGKILL)

    def is_down() -> bool:
        with running.http(key) as http:
            return http.get(f"/api/v1/deployments/{model}").json()["state"] != "ready"

    harness.wait_until(is_down)
    with pytest.raises(openai.InternalServerError) as refusal:
        running.openai(key).completions.create(model=model, prompt="a", max_tokens=1)
    assert refusal.value.status_code == 503
    assert refusal.value.response.headers["retry-after"] == "1"
    running.wait_ready(key, model)


def test_a_broken_checkpoint_is_refused_when_it_is_registered(running, harness, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    _, key = running.tenant()
    with running.http(key) as http:
        answer = http.post("/api/v1/models", json={"name": "broken", "path": str(broken)})
    # The folder is outside the allowed roots: the refusal does not tell that it exists.
    assert answer.status_code == 422
    assert "allowed root" in answer.json()["detail"]


def test_an_engine_that_cannot_load_its_model_fails_the_deployment_with_the_reason(tmp_path, harness):
    roots = tmp_path / "roots"
    model = roots / "model"
    model.mkdir(parents=True)
    source = harness.EXAMPLE_MODELS / "scripture-llama-6m"
    for file in source.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    platform, stop = harness.serve(harness.platform_config(tmp_path / "data", model_roots=(roots,)))
    try:
        _, key = platform.tenant()
        with platform.http(key) as http:
            http.post("/api/v1/models", json={"name": "m", "path": str(model)}).raise_for_status()
            (model / "tokenizer.json").unlink()
            http.post("/api/v1/deployments", json={"model": "m"}).raise_for_status()
            harness.wait_until(lambda: http.get("/api/v1/deployments/m").json()["state"] == "failed")
            replica = http.get("/api/v1/deployments/m").json()["replicas"][0]
        assert "tokenizer" in replica["last_error"]
        assert replica["restarts"] == 0
    finally:
        stop()


def test_no_engine_outlives_a_platform(tmp_path, harness):
    platform, stop = harness.serve(harness.platform_config(tmp_path))
    _, key = platform.tenant()
    platform.deploy(key)
    process_ids = harness.replica_process_ids(platform)
    stop()
    for process_id in process_ids:
        with pytest.raises(ProcessLookupError):
            os.kill(process_id, 0)
