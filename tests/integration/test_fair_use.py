"""Fair use and fair shares over a real port: noted, shown with numbers, carried out, told, taken back."""

from __future__ import annotations

import json
import os
import uuid
from datetime import timedelta
from fractions import Fraction

import pytest
import tritium_test_programs as programs

from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.quotas.fairuse import FairUseAction, FairUseMeasure, FairUseRule
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import uuid7


@pytest.fixture(scope="module")
def strict(tmp_path_factory, harness):
    """A platform that carries out what fair use calls for, with a budget of memory."""
    config = harness.platform_config(
        tmp_path_factory.mktemp("platform"), fair_use="enforce", models_memory_bytes=2_000_000_000
    )
    platform, stop = harness.serve(config)
    yield platform
    stop()


def tritiumd(strict, *words):
    environment = os.environ | {"TRITIUM_ADMIN_KEY": strict.platform.admin_token}
    done = programs.run("tritiumd", *words, "--url", strict.url, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(http, model):
    return http.post("/v1/completions", json={"model": model, "prompt": "In the", "max_tokens": 1})


def test_a_flood_is_noted_shown_and_suspended_and_an_operator_takes_it_back(strict):
    tenant_id, key = strict.tenant(name="Flood", requests_per_minute=1)
    model = strict.deploy(key)
    with strict.http(key) as http, strict.admin() as admin:
        # To deploy took what the minute admits.
        assert {ask(http, model).status_code for _ in range(24)} == {429}
        (notice,) = strict.run(strict.platform.fair_use.enforce())
        own = http.get("/api/v1/account/fair-use").raise_for_status().json()
        (requests,) = [each for each in own["readings"] if each["rule"] == "requests"]
        assert (requests["used"], requests["share"], requests["is_beyond"]) == (24, 15.0, True)
        assert "24 requests in 15 minutes were refused because they came too fast" in requests["explanation"]
        assert [each["action"] for each in own["measures"]] == ["notice"]
        assert http.get("/api/v1/fair-use").status_code == 403
        everybody = admin.get("/api/v1/fair-use").raise_for_status().json()
        assert everybody["measures"][0]["id"] == str(notice.id)

        suspension = FairUseMeasure(
            id=uuid.uuid4(),
            tenant_id=uuid.UUID(tenant_id),
            rule=FairUseRule.REQUESTS,
            action=FairUseAction.SUSPEND,
            reason=notice.reason,
            used=24,
            share=Fraction(15),
            starts_at=notice.starts_at,
            ends_at=notice.starts_at + timedelta(hours=1),
            is_dry_run=False,
        )
        strict.run(strict.platform.fair_use._store.add(suspension))
        strict.run(strict.platform.fair_use.refresh())
        refused = ask(http, model)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (403, "fair_use_suspended")
        assert error["recovery"] == "contact_operator"
        assert notice.reason in error["message"]
        assert str(suspension.id) in error["message"]
        assert 0 < int(refused.headers["retry-after"]) <= 3600
        assert http.get("/api/v1/account").status_code == 200

        listed = json.loads(tritiumd(strict, "fairuse", "measures", "--format", "json"))["measures"]
        assert {each["action"] for each in listed} == {"notice", "suspend"}
        assert str(suspension.id) in tritiumd(strict, "fairuse", "measures")
        assert tenant_id in tritiumd(strict, "fairuse", "show")
        assert f"{tenant_id} requests" in tritiumd(strict, "fairuse", "show", "--format", "quiet")
        words = ("fairuse", "lift", str(suspension.id), "--because", "a test & more")
        lifted = json.loads(tritiumd(strict, *words, "--format", "json"))
        assert lifted["lifted_because"] == "a test & more"
        assert ask(http, model).status_code == 429
        again = admin.delete(f"/api/v1/fair-use/measures/{suspension.id}", params={"because": "again"})
        assert (again.status_code, again.json()["code"]) == (409, "conflict")


def test_an_operator_sees_who_has_what_of_the_memory_and_why(strict):
    tenant_id, key = strict.tenant(name="Holder", tier="team")
    model = strict.deploy(key)
    with strict.http(key) as http, strict.admin() as admin:
        assert ask(http, model).status_code == 200
        found = admin.get("/api/v1/capacity/memory").raise_for_status().json()
        (own,) = [each for each in found["tenants"] if each["tenant_id"] == tenant_id]
        assert own["weight"] == 4
        assert own["used"] == own["wanted"] == own["share"] > 10_000_000
        assert own["why"] == "it has all it asks for"
        assert found["budget"] == 2_000_000_000
        assert found["used"] == sum(each["used"] for each in found["tenants"])
        assert http.get("/api/v1/capacity/memory").status_code == 403
    shown = tritiumd(strict, "capacity", "memory")
    assert tenant_id in shown
    assert "it has all it asks for" in shown
    assert json.loads(tritiumd(strict, "capacity", "memory", "--format", "json"))["budget"] == 2_000_000_000
    assert f"{tenant_id} {own['used']}" in tritiumd(strict, "capacity", "memory", "--format", "quiet")


def test_an_operator_sees_the_load_to_come_of_what_the_books_recorded(strict):
    tenant_id, key = strict.tenant(name="Regular", tier="business")
    hour = strict.platform.clock.now().replace(minute=0, second=0, microsecond=0)

    async def record(age):
        moment = hour - timedelta(hours=age) + timedelta(minutes=30)
        tokens = 1000 + 900 * (moment.hour in range(9, 17))
        record = UsageRecord(
            id=uuid7(),
            tenant_id=uuid.UUID(tenant_id),
            source="gateway",
            event_id=f"hour {age}",
            operation=OperationType.CHAT,
            tier=TenantTier.BUSINESS,
            outcome="success",
            occurred_at=moment,
            quantities=UsageQuantities(input_tokens=tokens - 10, output_tokens=10),
            resources=ResourceUsage(compute_time_ms=tokens),
            model="regular",
        )
        await strict.platform.books.metering.record(record)

    for age in range(1, 9 * 24 + 1):
        strict.run(record(age))
    with strict.http(key) as http, strict.admin() as admin:
        found = admin.get("/api/v1/capacity/forecast").raise_for_status().json()["forecasts"]
        (made,) = [each for each in found if each["model"] == "regular"]
        assert (made["tier"], made["published"]) == ("business", "seasonal_naive_24")
        assert made["start"] == hour.isoformat().replace("+00:00", "Z")
        ahead = [(hour + timedelta(hours=place)).hour in range(9, 17) for place in range(24)]
        assert made["expected"] == [1900.0 if is_busy else 1000.0 for is_busy in ahead]
        assert made["tokens_per_replica"] == 3_600_000
        assert (made["replicas"], made["replicas_wanted"]) == (0, 1)
        assert http.get("/api/v1/capacity/forecast").status_code == 403
    assert "seasonal_naive_24" in tritiumd(strict, "capacity", "forecast")
    assert "regular business 1\n" in tritiumd(strict, "capacity", "forecast", "--format", "quiet")
    assert json.loads(tritiumd(strict, "capacity", "forecast", "--format", "json"))["forecasts"] == found
