"""Spend caps over a real port: set, shown, refused with 402, alerted, taken back."""

from __future__ import annotations

import uuid

from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import uuid7


def ask(http, model, tokens):
    return http.post("/v1/completions", json={"model": model, "prompt": "In the", "max_tokens": tokens})


def cap(admin, tenant_id, amount, **more):
    place = f"/api/v1/tenants/{tenant_id}/spend-cap"
    return admin.put(place, json={"amount_minor": amount, "currency": "USD", **more})


def test_a_cap_is_set_shown_enforced_and_taken_back(running):
    tenant_id, key = running.tenant(name="Thrifty")
    model = running.deploy(key)
    running.wait_ready(key, model)
    # A cent buys 25,000 tokens of answers at 0.40 USD per million: 24,000 were written already.
    used = UsageRecord(
        id=uuid7(),
        tenant_id=uuid.UUID(tenant_id),
        source="test",
        event_id="1",
        operation=OperationType.CHAT,
        tier=TenantTier.DEVELOPER,
        outcome="success",
        occurred_at=running.platform.clock.now(),
        quantities=UsageQuantities(output_tokens=24_000),
        resources=ResourceUsage(),
    )
    running.run(running.platform.books.metering.record(used))
    with running.http(key) as http, running.admin() as admin:
        assert http.get("/api/v1/account/spend-cap").status_code == 404
        assert (
            admin.put(
                f"/api/v1/tenants/{tenant_id}/spend-cap", json={"amount_minor": 5, "currency": "EUR"}
            ).status_code
            == 422
        )
        assert cap(admin, tenant_id, 0).status_code == 422
        assert http.put(f"/api/v1/tenants/{tenant_id}/spend-cap", json={}).status_code == 403
        assert cap(admin, tenant_id, 1).raise_for_status().json()["used_minor"] == 1
        assert ask(http, model, 8).status_code == 200
        refused = ask(http, model, 1000)
        assert refused.status_code == 402, refused.text
        error = refused.json()["error"]
        assert (error["code"], error["recovery"]) == ("spend_cap_reached", "contact_operator")
        assert "The spend cap of 0.01 USD a month leaves 0.00 USD" in error["message"]
        source = running.platform.config.model_roots[0] / model
        wish = {"name": "mine", "source": {"path": str(source)}}  # a third of a cent
        refused = http.post("/api/v1/quantizations", json=wish)
        assert (refused.status_code, refused.json()["code"]) == (402, "spend_cap_reached"), refused.text
        assert http.get("/api/v1/quantizations").raise_for_status().json() == []
        own = http.get("/api/v1/account/spend-cap").raise_for_status().json()
        assert (own["limit_minor"], own["used_minor"], own["held_minor"]) == (1, 1, 0)
        assert [each["threshold"] for each in own["alerts"]] == [50, 80, 100]
        account = http.get("/api/v1/account").raise_for_status().json()
        assert account["spend_cap"] == own
        usage = http.get("/api/v1/usage").raise_for_status().json()
        assert len([each for each in usage["records"] if each["operation"] == "completion"]) == 1
        assert cap(admin, tenant_id, 1, mode="shadow").is_success
        assert ask(http, model, 1000).status_code == 200
        assert http.get("/api/v1/account/spend-cap").json()["would_refuse"] == 1
        place = f"/api/v1/tenants/{tenant_id}/spend-cap"
        assert admin.delete(place).status_code == 204
        assert admin.delete(place).status_code == 404
        assert http.get("/api/v1/account").json()["spend_cap"] is None
        run = admin.post("/api/v1/billing/reconciliations").raise_for_status().json()
        assert run["differences"] == []


def test_events_that_the_tenant_reports_count_and_at_the_cap_its_requests_are_refused(running):
    tenant_id, key = running.tenant(name="Reporter")
    model = running.deploy(key)
    running.wait_ready(key, model)
    event = {
        "source": "engine",
        "meter": "output_tokens",
        "event_time": running.platform.clock.now().isoformat(),
    }
    with running.http(key) as http, running.admin() as admin:
        cap(admin, tenant_id, 10).raise_for_status()  # ten cents: 250,000 tokens of answers

        def report(name, quantity):
            events = [{"id": name, "quantity": quantity, **event}]
            http.post("/api/v1/usage/events", json={"events": events}).raise_for_status()
            return http.get("/api/v1/account/spend-cap").raise_for_status().json()

        assert [each["threshold"] for each in report("1", 150_000)["alerts"]] == [50]
        assert report("1", 150_000)["used_minor"] == 6
        assert ask(http, model, 8).status_code == 200
        over = report("2", 500_000)
        assert (over["used_minor"], over["remaining_minor"]) == (27, 0)
        assert [each["threshold"] for each in over["alerts"]] == [50, 80, 100]
        refused = ask(http, model, 8)
        assert (refused.status_code, refused.json()["error"]["code"]) == (402, "spend_cap_reached")
        assert cap(admin, tenant_id, 100).raise_for_status().json()["alerts"] == []
        assert ask(http, model, 8).status_code == 200
        run = admin.post("/api/v1/billing/reconciliations").raise_for_status().json()
        assert run["differences"] == []
