"""A deployment gets another model while it is used: no request fails, and none has two models."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

PROMPT = "And God said unto"
OLD, NEW = "scripture-bitnet-6m-offline", "scripture-llama-6m"
CLIENTS = 4


def ask(client, model, **options):
    return client.completions.create(model=model, prompt=PROMPT, max_tokens=8, temperature=0, **options)


@pytest.fixture(scope="module")
def shop(running, harness, scripture_llama_without_end):
    """A tenant with two registered models and one that cannot be loaded: its key, and their texts."""
    limits = {"requests_per_minute": 10**6, "tokens_per_minute": 10**8, "max_concurrent_requests": 100}
    _, key = running.tenant(**limits)
    texts = {}
    for name in (OLD, NEW):
        running.deploy(key, path=harness.EXAMPLE_MODELS / name)
        texts[name] = ask(running.openai(key), name).choices[0].text
    with running.http(key) as http:
        path = str(scripture_llama_without_end)
        http.post("/api/v1/models", json={"name": "long", "path": path}).raise_for_status()
    assert len(set(texts.values())) == 2
    return key, texts


def deploy(running, key, name, *, model=OLD, replicas=1):
    with running.http(key) as http:
        body = {"model": model, "name": name, "replicas": replicas}
        http.post("/api/v1/deployments", json=body).raise_for_status()
    running.wait_ready(key, name)


def test_a_swap_under_load_fails_nothing_and_mixes_nothing(running, shop, harness):
    key, texts = shop
    deploy(running, key, "chat", replicas=2)
    client = running.openai(key)
    is_over = threading.Event()

    def ask_until_over():
        seen = []
        while not is_over.is_set():
            whole = ask(client, "chat", n=2)
            assert len({choice.text for choice in whole.choices}) == 1  # both choices are of one version
            seen.append(whole.choices[0].text)
            seen.append("".join(chunk.choices[0].text for chunk in ask(client, "chat", stream=True)))
        return seen

    with ThreadPoolExecutor(CLIENTS) as pool, running.http(key) as http:
        loads = [pool.submit(ask_until_over) for _ in range(CLIENTS)]
        try:
            for model in (NEW, OLD, NEW):
                before = harness.replica_process_ids(running)
                http.patch("/api/v1/deployments/chat", json={"model": model}).raise_for_status()
                assert ask(client, "chat").choices[0].text == texts[model]
                harness.wait_until(lambda b=before: len(harness.replica_process_ids(running)) <= len(b))
        finally:
            is_over.set()
        seen = [text for load in loads for text in load.result()]
    assert set(seen) == set(texts.values())
    with running.http(key) as http:
        records = http.get("/api/v1/usage?limit=1000").json()["records"]
    assert {record["outcome"] for record in records} == {"success"}
    assert b"deployment.swap" in b"".join(
        path.read_bytes() for path in running.platform.config.audit_dir.rglob("*") if path.is_file()
    )


def test_a_stream_that_began_before_a_swap_is_finished_by_its_own_model(running, shop):
    key, texts = shop
    deploy(running, key, "slow", model="long")
    client = running.openai(key)

    def long_text(**options):
        return client.completions.create(
            model="slow",
            prompt=PROMPT,
            max_tokens=1500,
            temperature=0,
            extra_body={"ignore_eos": True},
            **options,
        )

    expected = long_text().choices[0].text
    stream = long_text(stream=True)
    begun = [next(stream).choices[0].text for _ in range(3)]
    with running.http(key) as http:
        http.patch("/api/v1/deployments/slow", json={"model": OLD}).raise_for_status()
    assert ask(client, "slow").choices[0].text == texts[OLD]
    assert "".join(begun) + "".join(chunk.choices[0].text for chunk in stream) == expected


def test_what_is_not_there_or_of_another_kind_is_refused(running, shop):
    key, texts = shop
    deploy(running, key, "steady")
    with running.http(key) as http:
        before = http.get("/api/v1/deployments/steady").json()
        assert http.patch("/api/v1/deployments/steady", json={"model": "nothing"}).status_code == 404
        assert http.patch("/api/v1/deployments/nothing", json={"model": NEW}).status_code == 404
        assert http.get("/api/v1/deployments/steady").json()["model_id"] == before["model_id"]
    assert ask(running.openai(key), "steady").choices[0].text == texts[OLD]


def test_a_model_that_breaks_while_it_loads_leaves_the_old_one_in_place(tmp_path, harness):
    roots = tmp_path / "roots"
    for name, source in (("one", OLD), ("two", NEW)):
        (roots / name).mkdir(parents=True)
        for file in (harness.EXAMPLE_MODELS / source).iterdir():
            (roots / name / file.name).write_bytes(file.read_bytes())
    platform, stop = harness.serve(harness.platform_config(tmp_path / "data", model_roots=(roots,)))
    try:
        _, key = platform.tenant()
        platform.deploy(key, path=roots / "one")
        client = platform.openai(key)
        text = ask(client, "one").choices[0].text
        with platform.http(key) as http:
            made = http.post("/api/v1/models", json={"name": "two", "path": str(roots / "two")})
            made.raise_for_status()
            (roots / "two" / "tokenizer.json").unlink()
            refusal = http.patch("/api/v1/deployments/one", json={"model": "two"})
            assert (refusal.status_code, "tokenizer" in refusal.json()["detail"]) == (503, True)
            (deployment,) = http.get("/api/v1/deployments").json()
            assert deployment["model_id"] != made.json()["id"]
            assert ask(client, "one").choices[0].text == text
            harness.wait_until(lambda: len(harness.replica_process_ids(platform)) == 1)
            # What was tried and failed is forgotten: it can be tried again, and works when it is mended.
            good = (harness.EXAMPLE_MODELS / NEW / "tokenizer.json").read_bytes()
            (roots / "two" / "tokenizer.json").write_bytes(good)
            changed = http.patch("/api/v1/deployments/one", json={"model": "two"}).raise_for_status().json()
            assert changed["model_id"] == made.json()["id"]
            assert ask(client, "one").choices[0].text != text
    finally:
        stop()
    again, stop = harness.serve(harness.platform_config(tmp_path / "data", model_roots=(roots,)))
    try:
        again.wait_ready(key, "one")  # and a restart remembers which model it is
        assert ask(again.openai(key), "one").choices[0].text != text
    finally:
        stop()
