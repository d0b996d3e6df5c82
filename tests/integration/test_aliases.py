"""Aliases over the wire: turned under load, listed, and refused by name."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

PROMPT = "And God said unto"
TURNS = 12
CLIENTS = 4


def greedy(client, model, *, tokens=8):
    return client.completions.create(model=model, prompt=PROMPT, max_tokens=tokens, temperature=0)


@pytest.fixture(scope="module")
def two_models(running, harness):
    """A tenant with two deployments: (tenant id, key, their names)."""
    limits = {"requests_per_minute": 10**6, "tokens_per_minute": 10**8, "max_concurrent_requests": 100}
    tenant_id, key = running.tenant(**limits)
    names = [
        running.deploy(key, path=harness.EXAMPLE_MODELS / name)
        for name in ("scripture-bitnet-6m-offline", "scripture-llama-6m")
    ]
    return tenant_id, key, names


def test_an_alias_is_turned_under_load_and_every_answer_is_of_exactly_one_model(running, two_models):
    _, key, names = two_models
    client = running.openai(key)
    texts = {name: greedy(client, name).choices[0].text for name in names}
    assert len(set(texts.values())) == 2  # else nobody could tell which model answered
    is_over = threading.Event()

    def ask_in_one_piece():
        answer = client.completions.create(
            model="chat", prompt=[PROMPT, PROMPT], n=1, max_tokens=8, temperature=0
        )
        assert [choice.text for choice in answer.choices] == [texts[answer.model]] * 2
        return answer.model

    def ask_for_a_stream():
        chunks = list(
            client.completions.create(model="chat", prompt=PROMPT, max_tokens=8, temperature=0, stream=True)
        )
        (model,) = {chunk.model for chunk in chunks}
        assert "".join(chunk.choices[0].text for chunk in chunks) == texts[model]
        return model

    def ask_until_over():
        seen = []
        while not is_over.is_set():
            seen += [ask_in_one_piece(), ask_for_a_stream()]
        return seen

    with running.http(key) as http:
        http.put("/api/v1/aliases/chat", json={"target": names[0]}).raise_for_status()
        with ThreadPoolExecutor(CLIENTS) as pool:
            loads = [pool.submit(ask_until_over) for _ in range(CLIENTS)]
            try:
                for target in itertools.islice(itertools.cycle(reversed(names)), TURNS):
                    turned = http.put("/api/v1/aliases/chat", json={"target": target}).raise_for_status()
                    assert turned.json()["deployment"] == target
                    # What begins after the answer to the change goes to the new model, at once.
                    assert greedy(client, "chat").model == target
            finally:
                is_over.set()
            seen = [model for load in loads for model in load.result()]
    assert set(seen) == set(names)
    with running.http(key) as http:
        records = http.get("/api/v1/usage?limit=1000").raise_for_status().json()["records"]
    assert {record["model"] for record in records if record["operation"] == "completion"} == set(names)
    assert {record["outcome"] for record in records} == {"success"}


def test_the_list_of_models_shows_what_an_alias_stands_for(running, two_models):
    _, key, names = two_models
    client = running.openai(key)
    with running.http(key) as http:
        http.put("/api/v1/aliases/latest", json={"target": names[1]}).raise_for_status()
        http.put("/api/v1/aliases/default", json={"target": "latest"}).raise_for_status()
        shown = {card.id: card.model_dump().get("root") for card in client.models.list()}
        assert shown["default"] == shown["latest"] == names[1]
        assert shown[names[0]] is None
        assert client.models.retrieve("default").id == "default"
        answer = client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": PROMPT}], max_tokens=2
        )
        assert answer.model == names[1]
        assert http.post("/v1/tokenize", json={"model": "default", "prompt": PROMPT}).json()["count"] > 0

        for name, target, status, words in (
            ("latest", "default", 422, "latest would lead to itself by way of default"),
            ("lost", "nowhere", 404, "there is no nowhere"),
            (names[0], names[1], 409, f"deployment with the name {names[0]}"),
        ):
            refusal = http.put(f"/api/v1/aliases/{name}", json={"target": target})
            assert (refusal.status_code, words in refusal.json()["detail"]) == (status, True)
        refusal = http.delete(f"/api/v1/deployments/{names[1]}")
        assert (refusal.status_code, "latest" in refusal.json()["detail"]) == (409, True)
        refusal = http.post("/api/v1/deployments", json={"model": names[0], "name": "latest"})
        assert (refusal.status_code, "alias" in refusal.json()["detail"]) == (409, True)
        assert http.delete("/api/v1/aliases/latest").status_code == 409
        assert http.delete("/api/v1/aliases/default").status_code == 204
        assert http.delete("/api/v1/aliases/latest").status_code == 204
        assert http.delete("/api/v1/aliases/latest").status_code == 404
    with pytest.raises(openai.NotFoundError) as refusal:
        greedy(client, "default")
    assert refusal.value.code == "model_not_found"


def test_the_operator_turns_aliases_of_a_tenant_and_a_stranger_does_not_see_them(
    running, two_models, harness
):
    tenant_id, key, names = two_models
    _, stranger = running.tenant(name="Stranger")
    with running.admin() as admin, running.http(key) as http, running.http(stranger) as other:
        address = f"/api/v1/tenants/{tenant_id}/aliases"
        admin.put(f"{address}/operated", json={"target": names[0]}).raise_for_status()
        assert "operated" in [each["name"] for each in admin.get(address).json()]
        assert greedy(running.openai(key), "operated").model == names[0]
        assert other.get("/api/v1/aliases").json() == []
        assert other.delete("/api/v1/aliases/operated").status_code == 404
        assert http.put(f"{address}/operated", json={"target": names[1]}).status_code == 403
        assert admin.get("/api/v1/tenants/01a20640-270d-791e-a575-700f47aec806/aliases").status_code == 404
        assert admin.delete(f"{address}/operated").status_code == 204
    log = running.platform.config.audit_dir

    def is_logged(action):
        return any(action in path.read_bytes() for path in log.rglob("*") if path.is_file())

    harness.wait_until(lambda: is_logged(b"alias.put") and is_logged(b"alias.delete"))
