"""Models that come into memory when they are asked for, and go: real engine processes under a real budget."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

PROMPT = "And God said unto"
MODELS = ("scripture-bitnet-6m-offline", "scripture-bitnet-6m-bitlinear", "scripture-llama-6m")
# Each of these may need 160 to 181 MB by what the registry knows of it: two are in memory, a third is not.
BUDGET = 380 * 10**6


def ask(client, model):
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=8, temperature=0)
    return answer.choices[0].text


def resident_bytes(process_id):
    pages = int(Path(f"/proc/{process_id}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def shop(tmp_path, harness):
    """A platform with a budget for two of three deployed models: (platform, tenant id, key)."""
    config = harness.platform_config(tmp_path, models_memory_bytes=BUDGET)
    platform, stop = harness.serve(config)
    tenant_id, key = platform.tenant(max_concurrent_requests=100, requests_per_minute=10**6)
    for name in MODELS:
        platform.deploy(key, path=harness.EXAMPLE_MODELS / name)
    yield platform, tenant_id, key
    stop()


def states(platform, key):
    with platform.http(key) as http:
        return {each["name"]: each["state"] for each in http.get("/api/v1/deployments").json()}


def test_every_model_answers_though_only_two_fit_and_the_budget_is_kept(shop, harness):
    platform, _, key = shop
    client = platform.openai(key)
    assert sorted(states(platform, key).values()) == ["ready", "ready", "unloaded"]
    alone = {name: ask(client, name) for name in MODELS}
    for name in (*MODELS, *reversed(MODELS)):
        assert ask(client, name) == alone[name]  # a model that was away answers as before
        assert states(platform, key)[name] == "ready"
        assert platform.platform.residency.charged_bytes <= BUDGET
        assert sum(map(resident_bytes, harness.replica_process_ids(platform))) <= BUDGET
    with ThreadPoolExecutor(12) as pool:
        wanted = [*MODELS] * 6
        assert list(pool.map(lambda name: ask(client, name), wanted)) == [alone[name] for name in wanted]
    with platform.http(key) as http:
        records = http.get("/api/v1/usage?limit=1000").json()["records"]
    assert {record["outcome"] for record in records} == {"success"}


def test_what_is_pinned_stays_and_a_model_for_which_no_room_is_left_says_so(shop):
    platform, tenant_id, key = shop
    client = platform.openai(key)
    with platform.admin() as admin, platform.http(key) as http:
        for name in MODELS[:2]:
            address = f"/api/v1/tenants/{tenant_id}/deployments/{name}"
            assert admin.patch(address, json={"is_pinned": True}).raise_for_status().json()["is_pinned"]
            platform.wait_ready(key, name)
        address = f"/api/v1/tenants/{tenant_id}/deployments/{MODELS[2]}"
        assert admin.patch(address, json={"is_pinned": True}).status_code == 503
        assert http.patch(address, json={"is_pinned": True}).status_code == 403
        with pytest.raises(openai.InternalServerError) as refusal:
            ask(client, MODELS[2])
        assert (refusal.value.status_code, refusal.value.code) == (503, "insufficient_memory")
        assert "can be had at most" in refusal.value.message
        refused = http.post("/api/v1/deployments", json={"model": MODELS[2], "name": "another"})
        assert (refused.status_code, refused.json()["code"]) == (503, "insufficient_memory")
        address = f"/api/v1/tenants/{tenant_id}/deployments/{MODELS[0]}"
        admin.patch(address, json={"is_pinned": False}).raise_for_status()
        assert ask(client, MODELS[2])
        assert states(platform, key) == dict(zip(MODELS, ("unloaded", "ready", "ready"), strict=True))


def test_a_model_that_nobody_uses_leaves_and_the_next_request_brings_it_back(tmp_path, harness):
    platform, stop = harness.serve(harness.platform_config(tmp_path, model_idle_seconds=2.0))
    try:
        _, key = platform.tenant()
        model = platform.deploy(key)
        text = ask(platform.openai(key), model)
        harness.wait_until(lambda: states(platform, key) == {model: "unloaded"})
        assert harness.replica_process_ids(platform) == []
        assert ask(platform.openai(key), model) == text
    finally:
        stop()
