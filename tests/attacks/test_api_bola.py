"""Every route of the document x every object of another tenant: 404, and nothing learnt."""

from __future__ import annotations

import io
import uuid
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tritium_platform.insight.health import OutcomeKind
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth, uuid7

NOBODY = str(uuid.UUID(int=7))
OPERATORS = (
    *("/api/v1/tenants", "/api/v1/security", "/api/v1/recommendations", "/api/v1/billing"),
    *("/api/v1/capacity", "/api/v1/fair-use", "/api/v1/customers"),
)


def zipped(directory):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in directory.iterdir():
            archive.write(path, path.name)
    return content.getvalue()


def billed(running, tenant_id):
    """Finalize an invoice of last month and write a credit note; return their ids."""
    last = CalendarMonth.of(CalendarMonth.of(datetime.now(UTC)).start - timedelta(days=1))
    record = UsageRecord(
        id=uuid7(),
        tenant_id=uuid.UUID(tenant_id),
        source="test",
        event_id="1",
        operation=OperationType.CHAT,
        tier=TenantTier.DEVELOPER,
        outcome="success",
        occurred_at=last.start,
        quantities=UsageQuantities(output_tokens=10**9),
        resources=ResourceUsage(),
    )
    running.run(running.platform.books.metering.record(record))
    with running.admin() as admin:
        wish = {"tenant_id": tenant_id, "period": str(last)}
        (made,) = admin.post("/api/v1/billing/invoices", json=wish).raise_for_status().json()
        admin.post(f"/api/v1/billing/invoices/{made['id']}/finalize").raise_for_status()
        note = admin.post(
            f"/api/v1/billing/invoices/{made['id']}/credit-notes",
            json={"reason": "sorry", "lines": [{"line": 1, "amount_minor": 1}]},
            headers={"idempotency-key": "note-1"},
        )
    return [made["id"], note.raise_for_status().json()["id"]]


def asked(running, invoice_id):
    """Ask to be paid for an invoice; return the attempt's id."""
    with running.admin() as admin:
        answer = admin.post(
            f"/api/v1/billing/invoices/{invoice_id}/pay", json={}, headers={"idempotency-key": "asked"}
        )
        return answer.raise_for_status().json()["id"]


@pytest.fixture(scope="module")
def victim(running):
    """A tenant with one of everything: (tenant id, key, what each path parameter may name)."""
    tenant_id, key = running.tenant(name="Victim")
    model = running.deploy(key)
    with running.http(key) as http:
        http.put("/api/v1/aliases/victims-chat", json={"target": model}).raise_for_status()
        model_id = http.get(f"/api/v1/models/{model}").json()["id"]
        deployment_id = http.get(f"/api/v1/deployments/{model}").json()["id"]
        path = str(running.platform.config.model_roots[0] / "scripture-llama-6m")
        job = http.post("/api/v1/quantizations", json={"name": "q", "source": {"path": path}})
        upload = http.post("/api/v1/uploads", content=zipped(Path(path))).raise_for_status().json()["id"]
        form = {"files": {"file": ("a.jsonl", b"{}")}, "data": {"purpose": "batch"}}
        file = http.post("/v1/files", **form).raise_for_status().json()["id"]
        wish = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
        batch = http.post("/v1/batches", json=wish).raise_for_status().json()["id"]
    invoice_ids = billed(running, tenant_id)
    objects = {
        "invoice_id": invoice_ids,
        "attempt_id": [asked(running, invoice_ids[0])],
        "upload": [upload],
        "model": [model, model_id],
        "model_id": [model],
        "deployment": [model, deployment_id],
        "alias": ["victims-chat"],
        "file_id": [file],
        "batch_id": [batch],
        "quantization": [job.raise_for_status().json()["id"]],
    }
    return tenant_id, key, objects


@pytest.fixture(scope="module")
def attacker(running):
    """Another tenant's key, with every scope."""
    return running.tenant(name="Attacker", tier="business")[1]


def routes(running, *, is_admin):
    """Yield (method, path template) of every route the document names."""
    with running.admin() as http:
        document = http.get("/openapi.json").raise_for_status().json()
    for path, methods in document["paths"].items():
        if path.startswith(OPERATORS) is is_admin and path.startswith(("/api/", "/v1/")):
            yield from ((method.upper(), path) for method in methods)


def parameter_of(path):
    return path.partition("{")[2].partition("}")[0]


def ask(http, method, address):
    # Whole where a route asks for something: a wrong body would be refused before the object is sought.
    bodies = {"POST": {}, "PATCH": {"model": NOBODY}, "PUT": {"target": "nowhere"}}
    return http.request(method, address, json=bodies.get(method))


def test_every_route_with_an_object_answers_404_for_somebody_elses(running, victim, attacker):
    _, _, objects = victim
    tried, named = 0, set()
    with running.http(attacker) as http:
        for method, path in routes(running, is_admin=False):
            name = parameter_of(path)
            if not name:
                continue
            for thing in objects.get(name, [NOBODY]):
                address = path.replace(f"{{{name}}}", thing)
                foreign, unknown = (
                    ask(http, method, address),
                    ask(http, method, path.replace(f"{{{name}}}", NOBODY)),
                )
                assert foreign.status_code == 404, (method, path)
                named.add(name)
                # The same words for what is somebody else's and for what is not there.
                assert strip(foreign.json(), thing) == strip(unknown.json(), NOBODY), (method, path)
                tried += 1
    assert tried >= 8
    assert named == set(objects)  # a new kind of object joins the victim's


def strip(body, thing):
    return {name: str(value).replace(thing, "") for name, value in body.items() if name != "instance"}


def test_no_list_shows_what_is_somebody_elses(running, victim, attacker):
    _, _, objects = victim
    with running.http(attacker) as http:
        for method, path in routes(running, is_admin=False):
            if method != "GET" or parameter_of(path):
                continue
            text = ask(http, method, path).text
            assert not any(thing in text for things in objects.values() for thing in things), path


def test_cost_data_shows_only_the_callers_own(running, victim, attacker):
    tenant_id, key, _ = victim
    last = CalendarMonth.of(CalendarMonth.of(datetime.now(UTC)).start - timedelta(days=1))
    for caller, is_shown in ((key, True), (attacker, False)):
        with running.http(caller) as http:
            query = {
                "period": str(last),
                "tenant_id": tenant_id,
            }  # the latter is nothing that a tenant may ask
            answer = http.get("/api/v1/invoices/focus.csv", params=query).raise_for_status()
            assert (tenant_id in answer.text) is is_shown
            assert answer.text.startswith("BilledCost,")


def test_health_and_usage_show_only_the_callers_own(running):
    tenant_id, key = running.tenant(name="Watched")
    _, stranger = running.tenant(name="Stranger")
    outcomes = running.platform.books.health
    running.run(outcomes.update_health(uuid.UUID(tenant_id), kind=OutcomeKind.SUCCESS, latency_ms=5))
    addresses = ("account/health", "account/health/history", "usage/series", "usage/summary")
    query = {"tenant_id": tenant_id}  # nothing that a tenant may ask
    told = {}
    for caller in (key, stranger):
        with running.http(caller) as http:
            told[caller] = [
                http.get(f"/api/v1/{address}", params=query).raise_for_status().json()
                for address in addresses
            ]
    assert told[key][0]["tenant_id"] == tenant_id
    assert (told[key][0]["score"], told[stranger][0]["score"]) == (100, None)
    assert tenant_id not in str(told[stranger])
    assert told[stranger][2]["points"] == []
    assert (told[key][3]["outcomes"]["success"], told[stranger][3]["outcomes"]["success"]) == (1, 0)
    with running.http(stranger) as http:
        for address in ("health", "health/history", "usage/series", "usage/summary"):
            assert http.get(f"/api/v1/tenants/{tenant_id}/{address}").status_code == 403
        assert http.get("/api/v1/customers").status_code == 403
    with running.admin() as admin:
        (listed,) = [
            each
            for each in admin.get("/api/v1/customers").raise_for_status().json()["customers"]
            if each["tenant_id"] == tenant_id
        ]
        assert (listed["score"], listed["grade"]) == (100, "healthy")
        assert admin.get(f"/api/v1/tenants/{NOBODY}/health").status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        "account/health?as_of=0001-01-01T00:00:00Z",
        "account/health?as_of=9999-12-31T23:00:00-12:00",
        "account/health?as_of=2026-11-30T00:00:00",
        "account/health/history?before=0001-01-01T00:00:00%2B14:00",
        "usage/series?end=0001-01-02T00:00:00Z",
        "usage/series?start=2020-01-01T00:00:00Z&by=hour",
        "usage/series?after=2026-11-30T00:00:00Z~%00",
        "usage/series?after=yesterday~x",
        "usage/series?group=tenant_id",
        "usage/series?limit=1001",
    ],
)
def test_a_question_about_health_or_usage_that_cannot_be_is_a_422(running, query):
    _, key = running.tenant(name="Curious")
    with running.http(key) as http:
        answer = http.get(f"/api/v1/{query}")
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_inference_on_a_foreign_deployment_is_404(running, victim, attacker):
    _, _, objects = victim
    with running.http(attacker) as http:
        for name in objects["deployment"]:
            for route, body in (
                ("chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
                ("completions", {"prompt": "a"}),
                ("embeddings", {"input": "a"}),
            ):
                answer = http.post(f"/v1/{route}", json={"model": name, **body})
                assert answer.status_code == 404
                assert answer.json()["error"]["code"] == "model_not_found"


def test_a_foreign_model_cannot_be_deployed_or_quantized(running, victim, attacker):
    _, _, objects = victim
    with running.http(attacker) as http:
        for name in objects["model"]:
            assert http.post("/api/v1/deployments", json={"model": name}).status_code == 404
        models = running.platform.config.models_dir
        wish = {"name": "stolen", "path": str(models)}
        assert http.post("/api/v1/models", json=wish).status_code == 422


def test_the_operators_routes_refuse_a_tenant(running, victim, attacker):
    tenant_id, _, _ = victim
    tried = 0
    with running.http(attacker) as http:
        for method, path in routes(running, is_admin=True):
            address = path.replace("{tenant_id}", tenant_id).replace("{key_id}", "a" * 12)
            address = address.replace("{measure_id}", NOBODY)
            answer = ask(http, method, address)
            assert answer.status_code == 403, (method, path)
            assert answer.json()["code"] == "insufficient_permissions"
            tried += 1
    assert tried >= 7


@pytest.mark.parametrize("key", ["", "nonsense", "btn_live_", "btn_admin_" + "0" * 64])
def test_every_route_refuses_strangers(running, key):
    with running.http(key or "x") as http:
        if not key:
            http.headers.pop("authorization")
        for is_admin in (True, False):
            for method, path in routes(running, is_admin=is_admin):
                address = path.replace(f"{{{parameter_of(path)}}}", NOBODY) if "{" in path else path
                address = address.replace("{key_id}", "a")
                answer = ask(http, method, address)
                assert answer.status_code == 401, (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"


def test_a_key_without_the_scope_is_refused(running, victim):
    tenant_id, _, objects = victim
    with running.admin() as admin:
        wish = {"name": "usage only", "scopes": ["usage"]}
        key = admin.post(f"/api/v1/tenants/{tenant_id}/keys", json=wish).json()["key"]
    with running.http(key) as http:
        assert http.get("/api/v1/usage").status_code == 200
        assert http.get("/api/v1/models").status_code == 403
        assert http.get("/api/v1/deployments").status_code == 403
        assert http.get("/api/v1/audit/checkpoint").status_code == 403
        body = {"model": objects["deployment"][0], "prompt": "a"}
        answer = http.post("/v1/completions", json=body)
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "insufficient_permissions"
