"""Real engines of one deployment: one queue, late binding, deaths, cancellations, swaps and drains."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

PROMPT = "And God said unto"
ENDLESS = 60_000
WITHOUT_END = "scripture-llama-without-end"


@pytest.fixture(scope="module")
def running(tmp_path_factory, harness, scripture_llama_without_end):
    """A platform whose engines have one place each."""
    roots = (harness.EXAMPLE_MODELS, scripture_llama_without_end)
    config = harness.platform_config(
        tmp_path_factory.mktemp("platform"), model_roots=roots, engine_max_running=1
    )
    platform, stop = harness.serve(config)
    yield platform
    stop()


@pytest.fixture
def shop(running, scripture_llama_without_end):
    """A tenant of its own with two engines of a model that writes as long as it is let: its key."""
    limits = {"requests_per_minute": 10**6, "tokens_per_minute": 10**8, "max_concurrent_requests": 100}
    _, key = running.tenant(**limits)
    running.deploy(key, path=scripture_llama_without_end, replicas=2)
    yield key
    with running.http(key) as http:
        http.delete(f"/api/v1/deployments/{WITHOUT_END}").raise_for_status()


def ask(client, *, tokens=8):
    answer = client.completions.create(
        model=WITHOUT_END,
        prompt=PROMPT,
        max_tokens=tokens,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    return answer.choices[0].text


def begin(client):
    """Begin a text without end; return its stream when the first token is there."""
    stream = client.completions.create(
        model=WITHOUT_END, prompt=PROMPT, max_tokens=ENDLESS, stream=True, extra_body={"ignore_eos": True}
    )
    next(stream)
    return stream


def num_waiting(running, model=WITHOUT_END):
    text = httpx2.get(f"{running.url}/metrics").raise_for_status().text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "tritium_num_requests_waiting" and sample.labels["model"] == model
    )


def replicas(running, key):
    with running.http(key) as http:
        return http.get(f"/api/v1/deployments/{WITHOUT_END}").raise_for_status().json()["replicas"]


def process_of(running, name):
    statuses = running.platform.deployments.all_statuses()
    return next(status.process_id for status in statuses if status.name == name)


def test_no_request_waits_behind_a_long_one_while_another_engine_has_a_place(running, shop):
    client = running.openai(shop)
    with begin(client), ThreadPoolExecutor(6) as pool:
        texts = list(pool.map(lambda _: ask(client), range(12)))  # half of them would wait for minutes
        assert [replica["in_flight"] for replica in replicas(running, shop)] == [1, 0]
    assert len(set(texts)) == 1


def test_what_waits_is_shown_and_one_that_leaves_the_queue_never_reaches_an_engine(running, shop, harness):
    client = running.openai(shop)
    with begin(client), begin(client) as second, ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(ask, client)
        harness.wait_until(lambda: num_waiting(running) == 1)
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.5).completions.create(
                model=WITHOUT_END, prompt=PROMPT, max_tokens=ENDLESS, extra_body={"ignore_eos": True}
            )
        harness.wait_until(lambda: num_waiting(running) == 1)
        assert not waiting.done()
        second.close()
        assert waiting.result(60)
    harness.wait_until(lambda: all(each["in_flight"] == 0 for each in replicas(running, shop)))
    with running.http(shop) as http:
        assert http.get("/api/v1/account").json()["requests_this_month"]["held"] == 0


def test_of_an_engine_that_is_killed_under_load_only_what_it_ran_fails(running, shop, harness):
    client = running.openai(shop)
    alone = ask(client)
    with begin(client) as lost, begin(client) as kept, ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(ask, client) for _ in range(5)]
        harness.wait_until(lambda: num_waiting(running) == 5)
        first, second = replicas(running, shop)
        os.kill(process_of(running, first["name"]), signal.SIGKILL)
        # The one that ran there may be either stream: both are read, one fails and one goes on.
        ends = [_read(stream, seconds=1.0) for stream in (lost, kept)]
        assert sorted(end is None for end in ends) == [False, True]
        failure = next(end for end in ends if end is not None)
        assert failure.body["recovery"] == "retry_after"
        # Those who waited are taken by the engine that comes back, while the other one still writes.
        assert [each.result(60) for each in waiting] == [alone] * 5
        now = {each["name"]: each for each in replicas(running, shop)}
        assert (now[first["name"]]["restarts"], now[second["name"]]["restarts"]) == (1, 0)
        assert now[second["name"]]["in_flight"] == 1
    with running.http(shop) as http:
        outcomes = [record["outcome"] for record in http.get("/api/v1/usage").json()["records"]]
    assert outcomes.count("failed") == 1


def _read(stream, *, seconds):
    """Read a stream for so long; return how it failed, None if it did not."""
    deadline = time.monotonic() + seconds
    try:
        for _ in stream:
            if time.monotonic() > deadline:
                return None
    except openai.APIError as error:
        return error
    raise AssertionError("the text ended")


def test_a_swap_while_requests_wait_finishes_all_of_them_with_the_old_model(running, shop, harness):
    client = running.openai(shop)
    alone = ask(client)
    with running.http(shop) as http, ThreadPoolExecutor(4) as pool:
        other = harness.EXAMPLE_MODELS / "scripture-bitnet-6m-bitlinear"
        http.post("/api/v1/models", json={"name": "other", "path": str(other)}).raise_for_status()
        with begin(client), begin(client) as second:
            waiting = [pool.submit(ask, client) for _ in range(4)]
            harness.wait_until(lambda: num_waiting(running) == 4)
            swap = http.patch(f"/api/v1/deployments/{WITHOUT_END}", json={"model": "other"})
            swap.raise_for_status()
            assert ask(client) != alone
            second.close()
            assert [each.result(60) for each in waiting] == [alone] * 4
    harness.wait_until(lambda: len(harness.replica_process_ids(running)) == 2)


def test_when_the_platform_ends_those_who_wait_are_answered_too(
    tmp_path, harness, scripture_llama_without_end
):
    config = harness.platform_config(
        tmp_path, model_roots=(scripture_llama_without_end,), engine_max_running=1, drain_seconds=60.0
    )
    platform, stop = harness.serve(config)
    _, key = platform.tenant(max_concurrent_requests=100)
    platform.deploy(key, path=scripture_llama_without_end, replicas=2)
    client = platform.openai(key)
    with ThreadPoolExecutor(9) as pool:
        asked = [pool.submit(ask, client, tokens=200) for _ in range(8)]
        harness.wait_until(lambda: num_waiting(platform) >= 4)
        stopping = threading.Thread(target=lambda: platform.run(platform.platform.deployments.shut_down()))
        stopping.start()
        texts = [each.result(60) for each in asked]
        stopping.join()
    assert len(set(texts)) == 1
    stop()


def test_more_replicas_than_memory_allows_are_refused_with_what_can_be_had(tmp_path, harness):
    config = harness.platform_config(tmp_path, models_memory_bytes=400 * 10**6)
    platform, stop = harness.serve(config)
    try:
        _, key = platform.tenant()
        model = harness.EXAMPLE_MODELS / "scripture-bitnet-6m-bitlinear"
        with platform.http(key) as http:
            http.post("/api/v1/models", json={"name": "m", "path": str(model)}).raise_for_status()
            refusal = http.post("/api/v1/deployments", json={"model": "m", "replicas": 8})
            assert (refusal.status_code, refusal.json()["available"]) == (503, 400 * 10**6)
            assert http.get("/api/v1/deployments").json() == []
            http.post("/api/v1/deployments", json={"model": "m", "replicas": 2}).raise_for_status()
            platform.wait_ready(key, "m")
        assert 0 < platform.platform.residency.charged_bytes <= 400 * 10**6
    finally:
        stop()
