"""The road from a request to an invoice line, walked with the official client."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tritium.engine.request import SamplingParams

PROMPT = [{"role": "user", "content": "In the beginning"}]


@pytest.fixture(scope="module")
def shop(running):
    """A tenant with a deployed model: (key, model name)."""
    _, key = running.tenant()
    return key, running.deploy(key)


def usage_totals(running, key):
    with running.http(key) as http:
        usage = http.get("/api/v1/usage").raise_for_status().json()
    return {total["meter"]: total["quantity"] for total in usage["totals"]}


def usage_records(running, key):
    with running.http(key) as http:
        return http.get("/api/v1/usage?limit=1000").raise_for_status().json()["records"]


def test_a_chat_is_answered_metered_priced_and_logged(running, harness):
    _, key = running.tenant()
    model = running.deploy(key)
    answer = running.openai(key).chat.completions.create(
        model=model, messages=PROMPT, max_tokens=8, temperature=0
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    totals = usage_totals(running, key)
    assert totals["input_tokens"] == answer.usage.prompt_tokens
    assert totals["output_tokens"] == 8
    with running.http(key) as http:
        preview = http.get("/api/v1/invoices/preview").raise_for_status().json()
        assert {line["meter"] for line in preview["lines"]} >= {"input_tokens", "output_tokens"}
        assert preview["total_minor"] == sum(line["amount_minor"] for line in preview["lines"])
        account = http.get("/api/v1/account").raise_for_status().json()
        assert account["requests_this_month"]["used"] == 2  # the deployment and the chat
        assert account["requests_this_month"]["held"] == 0
        assert account["health"]["score"] == 100
        # Tenant, key, model, deployment, chat: one leaf each, at least.
        harness.wait_until(lambda: http.get("/api/v1/audit/checkpoint").json().get("size", 0) >= 5)


def test_a_stream_gives_the_same_text_as_one_piece_and_ends_with_usage(running, shop):
    key, model = shop
    client = running.openai(key)
    whole = client.chat.completions.create(model=model, messages=PROMPT, max_tokens=12, temperature=0)
    stream = client.chat.completions.create(
        model=model,
        messages=PROMPT,
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_seed_stop_and_several_choices_work_as_documented(running, shop):
    key, model = shop
    client = running.openai(key)

    def write(**options):
        return client.completions.create(model=model, prompt="And the LORD", max_tokens=10, **options)

    assert write(seed=7).choices[0].text == write(seed=7).choices[0].text
    stopped = write(temperature=0, stop=[" the"])
    assert stopped.choices[0].finish_reason == "stop"
    assert " the" not in stopped.choices[0].text
    several = write(n=3, seed=1)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert several.usage.completion_tokens == 30


def test_models_lists_the_deployments_of_the_caller_alone(running, shop):
    key, model = shop
    _, stranger = running.tenant(name="Stranger")
    assert [each.id for each in running.openai(key).models.list()] == [model]
    assert list(running.openai(stranger).models.list()) == []
    with pytest.raises(openai.NotFoundError) as refusal:
        running.openai(stranger).chat.completions.create(model=model, messages=PROMPT)
    assert refusal.value.code == "model_not_found"


def test_a_text_model_refuses_to_embed_and_says_why(running, shop):
    key, model = shop
    with pytest.raises(openai.BadRequestError, match="cannot embed"):
        running.openai(key).embeddings.create(model=model, input="hello")


def test_the_quota_of_the_month_ends_with_insufficient_quota(running):
    _, key = running.tenant(monthly_quota=3)
    model = running.deploy(key)  # the deployment is the first of the three requests
    client = running.openai(key)
    for _ in range(2):
        client.completions.create(model=model, prompt="a", max_tokens=1)
    with pytest.raises(openai.RateLimitError) as refusal:
        client.completions.create(model=model, prompt="a", max_tokens=1)
    assert refusal.value.code == "insufficient_quota"
    assert refusal.value.body["recovery"] == "upgrade_tier"
    assert int(refusal.value.response.headers["retry-after"]) > 0


def test_the_rate_of_requests_is_limited_and_the_headers_tell(running):
    _, key = running.tenant(requests_per_minute=3)
    model = running.deploy(key)
    client = running.openai(key)
    answer = client.completions.with_raw_response.create(model=model, prompt="a", max_tokens=1)
    assert answer.headers["x-ratelimit-limit-requests"] == "3"
    assert answer.headers["x-ratelimit-remaining-requests"] == "1"
    assert answer.headers["x-ratelimit-reset-requests"].endswith("s")
    assert '"requests-per-minute";q=3;w=60' in answer.headers["ratelimit-policy"]
    assert '"requests-per-minute";r=1;t=' in answer.headers["ratelimit"]
    assert answer.headers["x-request-id"]
    stream = client.completions.with_raw_response.create(model=model, prompt="a", max_tokens=1, stream=True)
    assert stream.headers["x-ratelimit-remaining-requests"] == "0"
    list(stream.parse())
    with pytest.raises(openai.RateLimitError) as refusal:
        client.completions.create(model=model, prompt="a", max_tokens=1)
    assert refusal.value.code == "rate_limit_exceeded"
    headers = refusal.value.response.headers
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert '"requests-per-minute";r=0;t=' in headers["ratelimit"]
    assert 1 <= int(headers["retry-after"]) <= 60


def test_the_official_client_that_waits_as_told_is_admitted_at_its_first_retry(running):
    _, key = running.tenant(requests_per_minute=120)
    model = running.deploy(key)
    client = running.openai(key)
    body = {"model": model, "prompt": "a", "max_tokens": 1, "n": 8}
    for _ in range(200):
        try:
            client.completions.create(**body)
        except openai.RateLimitError:
            break
    # All eight choices need their place at once: one by one, the first would take what the last waits for.
    answer = client.with_options(max_retries=1).completions.create(**body)
    assert len(answer.choices) == 8


def test_a_revoked_key_is_refused_within_a_second(running):
    tenant_id, key = running.tenant()
    client = running.openai(key)
    client.models.list()
    with running.admin() as admin:
        key_id = admin.get(f"/api/v1/tenants/{tenant_id}/keys").json()[0]["id"]
        assert admin.delete(f"/api/v1/tenants/{tenant_id}/keys/{key_id}").status_code == 204
    revoked = time.monotonic()
    with pytest.raises(openai.AuthenticationError):
        client.models.list()
    assert time.monotonic() - revoked < 1


def test_a_suspended_tenant_is_refused_until_it_is_resumed(running):
    tenant_id, key = running.tenant()
    with running.admin() as admin:
        admin.patch(f"/api/v1/tenants/{tenant_id}", json={"status": "suspended"}).raise_for_status()
        with pytest.raises(openai.PermissionDeniedError) as refusal:
            running.openai(key).models.list()
        assert refusal.value.code == "tenant_suspended"
        admin.patch(f"/api/v1/tenants/{tenant_id}", json={"status": "active"}).raise_for_status()
    assert list(running.openai(key).models.list()) == []


def test_a_model_larger_than_the_tier_is_refused_by_size(running, harness):
    _, key = running.tenant(max_model_size=1000)
    with running.http(key) as http:
        path = str(harness.EXAMPLE_MODELS / "scripture-llama-6m")
        answer = http.post("/api/v1/models", json={"name": "big", "path": path})
    assert answer.status_code == 403
    assert answer.json()["code"] == "model_size_exceeded"
    assert answer.json()["recovery"] == "upgrade_tier"


def test_a_client_that_leaves_pays_for_what_was_written_and_stops_the_engine(
    running, harness, scripture_llama_without_end
):
    _, key = running.tenant()
    model = running.deploy(key, path=scripture_llama_without_end)
    stream = running.openai(key).completions.create(
        model=model,
        prompt="In the",
        max_tokens=60_000,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    for count, _ in enumerate(stream):
        if count == 5:
            break
    stream.close()
    harness.wait_until(lambda: [r["outcome"] for r in usage_records(running, key)][1:] == ["cancelled"])
    written = usage_records(running, key)[1]["quantities"]["output_tokens"]
    assert 1 <= written < 60_000
    harness.wait_until(lambda: all(s.in_flight == 0 for s in running.platform.deployments.all_statuses()))
    with running.http(key) as http:
        assert http.get("/api/v1/account").json()["requests_this_month"]["held"] == 0


def replicas_of(running, key, model):
    with running.http(key) as http:
        return http.get(f"/api/v1/deployments/{model}").raise_for_status().json()["replicas"]


def test_deleting_a_deployment_lets_a_running_stream_finish(running, harness):
    _, key = running.tenant()
    model = running.deploy(key)
    client = running.openai(key)
    # An engine that is stopped finishes nothing: the stream runs while its deployment goes, however fast.
    with ThreadPoolExecutor() as pool, harness.stopped(harness.replica_process_ids(running)):
        pieces = pool.submit(
            lambda: list(
                client.completions.create(
                    model=model,
                    prompt="In the",
                    max_tokens=150,
                    stream=True,
                    extra_body={"ignore_eos": True},
                )
            )
        )
        harness.wait_until(lambda: replicas_of(running, key, model)[0]["in_flight"] == 1)
        with running.http(key) as http:
            assert http.delete(f"/api/v1/deployments/{model}").json()["state"] == "deleting"
            assert http.get(f"/api/v1/deployments/{model}").status_code == 404
    assert pieces.result()[-1].choices[0].finish_reason == "length"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model=model, prompt="a")


def test_two_replicas_share_the_work(running, harness):
    _, key = running.tenant(tier="team")
    model = running.deploy(key, replicas=2)
    client = running.openai(key)

    def in_flight():
        return [replica["in_flight"] for replica in replicas_of(running, key, model)]

    # Nor does any of four requests finish before all four are there and their places are seen.
    with ThreadPoolExecutor() as pool, harness.stopped(harness.replica_process_ids(running)):
        answers = [
            pool.submit(client.completions.create, model=model, prompt="In the", max_tokens=4)
            for _ in range(4)
        ]
        harness.wait_until(lambda: sum(in_flight()) == 4)
        assert in_flight() == [2, 2]
    assert all(answer.result().usage.completion_tokens for answer in answers)


def test_readiness_and_metrics_show_models_and_tiers_but_no_tenant(running, shop):
    with running.admin() as http:
        ready = http.get("/health/ready")
        assert ready.status_code == 200
        assert ready.json()["status"] == "ready"
        assert http.get("/health/live").json()["status"] == "live"
        text = http.get("/metrics").text
        tenants = http.get("/api/v1/tenants").json()
    assert 'tritium_requests_total{model="scripture-bitnet-6m-bitlinear"' in text
    assert 'tier="developer"' in text
    assert not any(tenant["id"] in text or tenant["organization_name"] in text for tenant in tenants)


def test_a_tenant_its_tier_and_the_priority_travel_with_the_request(running, shop):
    key, model = shop
    _, business_key = running.tenant(name="Big", tier="business")
    business_model = running.deploy(business_key)
    inference, gateway = running.platform.inference, running.platform.gateway

    def scheduled(key, model):
        context = running.run(gateway.authenticate(key))
        lease = running.run(inference.hold(context, model=model))
        work = inference.schedule_generation(
            context, lease=lease, request_id="r", prompt="In", sampling=SamplingParams(), priority=7
        )
        try:
            return context, running.run(work).request
        finally:
            lease.release()

    context, request = scheduled(key, model)
    assert (request.tenant, request.weight, request.priority) == (str(context.tenant_id), 1, 7)
    assert scheduled(business_key, business_model)[1].weight == 16
    answer = running.openai(key).completions.create(
        model=model, prompt="In", max_tokens=3, extra_body={"priority": -3}
    )
    assert answer.usage.completion_tokens <= 3
    with pytest.raises(openai.BadRequestError, match="priority"):
        running.openai(key).completions.create(model=model, prompt="In", extra_body={"priority": 5000})
