"""Batches with the official client: a file goes in, every line is answered once, counted and paid."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid
from datetime import UTC, datetime

import openai
import pytest

FINAL = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture(scope="module")
def shop(running):
    """A tenant with a deployed model: (key, model name)."""
    _, key = running.tenant(name="Batcher")
    return key, running.deploy(key)


def line(custom_id, body, *, url="/v1/completions"):
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def completion(custom_id, model, **options):
    body = {"model": model, "prompt": "In the", "max_tokens": 3, "temperature": 0, **options}
    return line(custom_id, body)


def upload(client, lines, *, name="input.jsonl"):
    content = "".join(f"{json.dumps(each)}\n" for each in lines).encode()
    return client.files.create(file=(name, content), purpose="batch")


def create(client, lines, *, endpoint="/v1/completions", **options):
    file = upload(client, lines)
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options)


def wait(client, harness, batch, *, until=FINAL):
    harness.wait_until(lambda: client.batches.retrieve(batch.id).status in until)
    return client.batches.retrieve(batch.id)


def read(client, file_id):
    text = client.files.content(file_id).text
    return {each["custom_id"]: each for each in map(json.loads, text.splitlines())}


def uses_of(running, tenant_id, operation):
    """The usage records of a tenant's requests that succeeded."""
    start, end = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    metering = running.platform.books.metering
    records = running.run(metering.list(uuid.UUID(tenant_id), start=start, end=end, limit=1000))
    return [record for record in records if (record.operation, record.outcome) == (operation, "success")]


def account(running, key):
    with running.http(key) as http:
        return http.get("/api/v1/account").raise_for_status().json()


def test_a_batch_is_uploaded_answered_read_and_billed_line_by_line(running, harness):
    tenant_id, key = running.tenant(name="Reader")
    model = running.deploy(key)
    client = running.openai(key)
    messages = [{"role": "user", "content": "In the beginning"}]
    lines = [
        line(
            f"chat-{number}",
            {"model": model, "messages": messages, "max_tokens": 2 + number, "temperature": 0},
            url="/v1/chat/completions",
        )
        for number in range(6)
    ]
    made = create(client, lines, endpoint="/v1/chat/completions", metadata={"job": "nightly"})
    assert (made.object, made.status, made.completion_window) == ("batch", "validating", "24h")
    assert made.expires_at - made.created_at == 86_400
    batch = wait(client, harness, made)
    assert (batch.status, batch.error_file_id, batch.errors) == ("completed", None, None)
    assert batch.metadata == {"job": "nightly"}
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (6, 6, 0)
    moments = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert moments == sorted(moments)

    answers = read(client, batch.output_file_id)
    assert list(answers) == [each["custom_id"] for each in lines]
    for number in range(6):
        answer = answers[f"chat-{number}"]
        assert answer["id"].startswith("batch_req_")
        assert (answer["response"]["status_code"], answer["error"]) == (200, None)
        body = openai.types.chat.ChatCompletion.model_validate(answer["response"]["body"])
        alone = client.chat.completions.create(
            model=model, messages=messages, max_tokens=2 + number, temperature=0
        )
        assert body.choices[0].message.content == alone.choices[0].message.content
        assert (body.usage.prompt_tokens, body.usage.completion_tokens) == (
            alone.usage.prompt_tokens,
            alone.usage.completion_tokens,
        )

    ours = [use for use in uses_of(running, tenant_id, "chat") if use.event_id in event_ids(answers)]
    assert len(ours) == 6
    assert sum(use.quantities.output_tokens for use in ours) == sum(
        answer["response"]["body"]["usage"]["completion_tokens"] for answer in answers.values()
    )
    # What the lines store is their file, and nothing of them crosses the network by itself.
    output = client.files.retrieve(batch.output_file_id)
    assert sum(use.resources.storage_bytes for use in ours) == output.bytes
    assert {use.resources.network_bytes_transferred for use in ours} == {0}
    quota = account(running, key)["requests_this_month"]
    assert (quota["used"], quota["held"]) == (1 + 6 + 6, 0)  # the deployment, the batch, the comparison


def event_ids(answers):
    return {answer["id"].removeprefix("batch_req_") for answer in answers.values()}


def test_files_are_shown_listed_page_by_page_and_count_as_storage_until_they_are_deleted(running):
    _, key = running.tenant(name="Filer")
    client = running.openai(key)
    made = [upload(client, [completion("a", "m")], name=f"{number}.jsonl") for number in range(5)]
    assert account(running, key)["storage"]["used"] == sum(file.bytes for file in made)
    shown = client.files.retrieve(made[0].id)
    assert (shown.filename, shown.purpose, shown.object) == ("0.jsonl", "batch", "file")
    assert json.loads(client.files.content(made[0].id).text)["custom_id"] == "a"
    page = client.files.list(limit=2)
    assert ([file.id for file in page.data], page.has_more) == ([made[4].id, made[3].id], True)
    assert [file.id for file in client.files.list(limit=2)] == [file.id for file in reversed(made)]
    assert [file.id for file in client.files.list(limit=2, order="asc")] == [file.id for file in made]
    assert list(client.files.list(purpose="batch_output")) == []
    # A client that deletes while it pages misses none.
    for file in client.files.list(limit=2):
        assert client.files.delete(file.id).deleted
    assert list(client.files.list()) == []
    assert account(running, key)["storage"]["used"] == 0
    with pytest.raises(openai.NotFoundError):
        client.files.content(made[0].id)


def test_lines_with_errors_go_to_the_error_file_with_the_answer_of_the_endpoint(running, harness, shop):
    key, model = shop
    client = running.openai(key)
    lines = [
        completion("right", model),
        completion("unknown-model", "nothing"),
        completion("wrong", model, temperature=9),
        completion("strange", model, who="knows"),
        completion("streamed", model, stream=True),
        completion("long", model, max_tokens=100_000),
    ]
    batch = wait(client, harness, create(client, lines))
    counts = batch.request_counts
    assert (batch.status, counts.completed, counts.failed) == ("completed", 1, 5)
    assert list(read(client, batch.output_file_id)) == ["right"]
    errors = read(client, batch.error_file_id)
    told = {name: error["response"]["body"]["error"] for name, error in errors.items()}
    statuses = {name: error["response"]["status_code"] for name, error in errors.items()}
    assert statuses == {"unknown-model": 404, "wrong": 400, "strange": 400, "streamed": 400, "long": 400}
    assert told["unknown-model"]["code"] == "model_not_found"
    assert told["wrong"]["param"] == "temperature"
    assert told["strange"]["code"] == "unknown_parameter"
    assert told["streamed"]["param"] == "stream"
    # The same words as for a request of its own.
    with pytest.raises(openai.BadRequestError) as refusal:
        client.completions.create(model=model, prompt="In the", max_tokens=100_000, temperature=0)
    assert told["long"]["message"] == refusal.value.body["message"]


def test_several_prompts_and_choices_in_a_line_are_one_use_of_their_tokens(running, harness):
    tenant_id, key = running.tenant(name="Several")
    model = running.deploy(key)
    client = running.openai(key)
    lines = [completion("many", model, prompt=["In the", "And God"], n=2, seed=3, temperature=1)]
    batch = wait(client, harness, create(client, lines))
    body = read(client, batch.output_file_id)["many"]["response"]["body"]
    alone = client.completions.create(
        model=model, prompt=["In the", "And God"], n=2, seed=3, temperature=1, max_tokens=3
    )
    assert [choice["text"] for choice in body["choices"]] == [choice.text for choice in alone.choices]
    (use, *others) = uses_of(running, tenant_id, "completion")
    assert use.quantities.output_tokens == body["usage"]["completion_tokens"]
    # Four texts count as four requests, here as there.
    assert len(others) == 4
    assert account(running, key)["requests_this_month"]["used"] == 1 + 4 + 4


def test_a_file_with_wrong_lines_fails_and_each_is_named(running, harness, shop):
    key, model = shop
    client = running.openai(key)
    wrong = [
        {"custom_id": "a", "method": "POST", "url": "/v1/completions"},
        completion("b", model),
        completion("b", model),
        {**completion("c", model), "method": "GET"},
        {**completion("d", model), "url": "/v1/embeddings"},
    ]
    batch = wait(client, harness, create(client, wrong))
    assert (batch.status, batch.request_counts.total, batch.output_file_id) == ("failed", 0, None)
    assert batch.failed_at
    problems = [(problem.line, problem.code, problem.param) for problem in batch.errors.data]
    assert problems == [
        (1, "missing_required_parameter", "body"),
        (3, "duplicate_custom_id", "custom_id"),
        (4, "invalid_method", "method"),
        (5, "invalid_url", "url"),
    ]


def test_a_cancelled_batch_keeps_what_was_answered_and_names_the_rest(
    running, harness, scripture_llama_without_end
):
    tenant_id, key = running.tenant(name="Hesitant")
    model = running.deploy(key, path=scripture_llama_without_end)
    client = running.openai(key)
    lines = [completion(f"short-{number}", model) for number in range(3)]
    lines += [completion(f"long-{number}", model, max_tokens=600, ignore_eos=True) for number in range(40)]
    made = create(client, lines)
    harness.wait_until(lambda: client.batches.retrieve(made.id).request_counts.completed >= 3)
    with pytest.raises(openai.ConflictError):
        client.files.delete(made.input_file_id)  # it is still read
    cancelling = client.batches.cancel(made.id)
    assert cancelling.status in {"cancelling", "cancelled"}
    assert client.batches.cancel(made.id).status in {"cancelling", "cancelled"}
    batch = wait(client, harness, made)
    counts = batch.request_counts
    assert (batch.status, counts.completed + counts.failed) == ("cancelled", 43)
    assert 3 <= counts.completed < 43
    answered, given_up = read(client, batch.output_file_id), read(client, batch.error_file_id)
    assert {*answered, *given_up} == {each["custom_id"] for each in lines}
    assert len(answered) == counts.completed
    assert {error["error"]["code"] for error in given_up.values()} == {"batch_cancelled"}
    assert len(uses_of(running, tenant_id, "completion")) == counts.completed
    assert account(running, key)["requests_this_month"]["held"] == 0
    for file_id in (batch.input_file_id, batch.output_file_id, batch.error_file_id):
        client.files.delete(file_id)
    storage = account(running, key)["storage"]
    assert (storage["used"], storage["held"]) == (0, 0)
    finished = wait(client, harness, create(client, [completion("a", model)]))
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(finished.id)


def test_an_engine_that_is_killed_costs_no_line(running, harness, scripture_llama_without_end):
    tenant_id, key = running.tenant(name="Unlucky")
    model = running.deploy(key, path=scripture_llama_without_end)
    client = running.openai(key)
    before = set(harness.replica_process_ids(running))
    lines = [completion(f"line-{number}", model, max_tokens=200, ignore_eos=True) for number in range(12)]
    made = create(client, lines)
    harness.wait_until(lambda: client.batches.retrieve(made.id).request_counts.completed >= 2)
    with running.http(key) as http:
        (replica,) = http.get(f"/api/v1/deployments/{model}").json()["replicas"]
    for status in running.platform.deployments.all_statuses():
        if status.name == replica["name"]:
            assert status.process_id in before
            os.kill(status.process_id, signal.SIGKILL)
    batch = wait(client, harness, made)
    assert (batch.status, batch.request_counts.completed, batch.error_file_id) == ("completed", 12, None)
    answers = read(client, batch.output_file_id)
    billed = [use.event_id for use in uses_of(running, tenant_id, "completion")]
    assert sorted(billed) == sorted(event_ids(answers))


def test_a_batch_waits_while_its_tenant_is_suspended_and_ends_with_a_revoked_key(running, harness):
    tenant_id, key = running.tenant(name="Stopped")
    model = running.deploy(key)
    with running.admin() as admin:
        wish = {"name": "second"}
        second = admin.post(f"/api/v1/tenants/{tenant_id}/keys", json=wish).raise_for_status().json()
    client, other = running.openai(key), running.openai(second["key"])
    with running.admin() as admin, harness.stopped(harness.replica_process_ids(running)):
        made = create(client, [completion(f"line-{number}", model) for number in range(30)])
        wait(client, harness, made, until={"in_progress"})
        admin.patch(f"/api/v1/tenants/{tenant_id}", json={"status": "suspended"}).raise_for_status()
    with running.admin() as admin:
        running.run(quiet(running, made.id))
        seen = running.run(running.platform.batches.get(*ids(tenant_id, made.id)))
        assert seen.status.value == "in_progress"
        assert seen.completed < 30
        keys = admin.get(f"/api/v1/tenants/{tenant_id}/keys").json()
        (first,) = [each["id"] for each in keys if each["name"] == "test"]
        admin.delete(f"/api/v1/tenants/{tenant_id}/keys/{first}").raise_for_status()
        admin.patch(f"/api/v1/tenants/{tenant_id}", json={"status": "active"}).raise_for_status()
    batch = wait(other, harness, made)
    assert batch.status == "cancelled"
    assert batch.request_counts.completed + batch.request_counts.failed == 30


def ids(tenant_id, batch_id):
    return uuid.UUID(tenant_id), uuid.UUID(batch_id.removeprefix("batch_"))


async def quiet(running, batch_id):
    """Wait until no line of anybody is on its way."""
    for _ in range(400):
        if all(status.in_flight == 0 for status in running.platform.deployments.all_statuses()):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(batch_id)


def test_batches_are_listed_page_by_page_and_of_the_caller_alone(running, harness):
    _, key = running.tenant(name="Lister")
    _, stranger = running.tenant(name="Stranger")
    client = running.openai(key)
    made = [create(client, [completion("a", "nothing")]).id for _ in range(5)]
    page = client.batches.list(limit=2)
    assert ([batch.id for batch in page.data], page.has_more) == ([made[4], made[3]], True)
    assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
    assert list(running.openai(stranger).batches.list()) == []
    for batch_id in made:
        harness.wait_until(lambda each=batch_id: client.batches.retrieve(each).status == "completed")
