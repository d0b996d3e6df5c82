"""Billing as an operator and a tenant see it: over HTTP, on the command line, and by the calendar."""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import io
import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from dbos import DBOS
from typer.testing import CliRunner

from tritium_platform.adapters import billing_schedule
from tritium_platform.audit.note import NoteVerifier
from tritium_platform.billing.dunning_notice import DunningNotice, NoticeKind
from tritium_platform.cli.app import app
from tritium_platform.compose import initialize_platform
from tritium_platform.compose.worker import initialize_worker
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth, uuid7

LAST = CalendarMonth.of(CalendarMonth.of(datetime.now(UTC)).start - timedelta(days=1))
PLAN = {
    "name": "pro",
    "currency": "EUR",
    "charges": [
        {"name": "seat", "price": {"kind": "flat", "amount": "49.00 EUR"}},
        {
            "name": "output",
            "meter": "output_tokens",
            "included": 1000,
            "price": {"kind": "per_unit", "unit_price": "0.40 EUR per 1000000"},
        },
    ],
    "taxes": [
        {
            "jurisdiction": "DE",
            "category": "standard",
            "valid_from": "2020-01-01T00:00:00+00:00",
            "rate": "0.19",
        }
    ],
}


def use_of(tenant_id, *, tokens=5_001_000, event="1", at=LAST.start):
    return UsageRecord(
        id=uuid7(),
        tenant_id=uuid.UUID(str(tenant_id)),
        source="test",
        event_id=event,
        operation=OperationType.CHAT,
        tier=TenantTier.DEVELOPER,
        outcome="success",
        occurred_at=at,
        quantities=UsageQuantities(output_tokens=tokens),
        resources=ResourceUsage(),
    )


@pytest.fixture(scope="module")
def shop(running):
    """A tenant with a contract and a finalized invoice: (tenant id, key, invoice)."""
    tenant_id, key = running.tenant(name="Buyer")
    running.run(running.platform.books.metering.record(use_of(tenant_id)))
    with running.admin() as admin:
        plan = admin.post("/api/v1/billing/plans", json=PLAN).raise_for_status().json()
        wish = {
            "tenant_id": tenant_id,
            "plan_id": plan["id"],
            "starts_at": LAST.start.isoformat(),
            "tax": {"jurisdiction": "DE"},
        }
        admin.post("/api/v1/billing/contracts", json=wish).raise_for_status()
        drafts = {"tenant_id": tenant_id, "period": str(LAST)}
        (draft,) = admin.post("/api/v1/billing/invoices", json=drafts).raise_for_status().json()
        assert admin.post("/api/v1/billing/invoices", json=drafts).json() == []
        shown = admin.get(f"/api/v1/billing/invoices/{draft['id']}").raise_for_status().json()
        assert shown["document"]["total_minor"] == 6069
        assert shown["sha256"] is None
        address = f"/api/v1/billing/invoices/{draft['id']}/finalize"
        invoice = admin.post(address).raise_for_status().json()
        assert admin.post(address).json() == invoice
    return tenant_id, key, invoice


def test_a_tenant_sees_its_invoice_and_can_prove_what_it_says(running, shop):
    _, key, invoice = shop
    assert (invoice["total_minor"], invoice["total"], invoice["status"]) == (6069, "60.69 EUR", "finalized")
    with running.http(key) as http:
        page = http.get("/api/v1/invoices").raise_for_status().json()
        assert [each["id"] for each in page["invoices"]] == [invoice["id"]]
        shown = http.get(f"/api/v1/invoices/{invoice['id']}").raise_for_status().json()
        body = http.get(f"/api/v1/invoices/{invoice['id']}/document").raise_for_status().content
        digest = hashlib.sha256(body).digest()
        assert (json.loads(body), digest.hex()) == (shown["document"], shown["sha256"])
        text = NoteVerifier.from_vkey(shown["verifier_key"]).open_note(shown["note"].encode())
        assert text.splitlines()[1:] == [invoice["number"], base64.b64encode(digest).decode()]
        table = http.get(f"/api/v1/invoices/{invoice['id']}/csv").raise_for_status()
        rows = list(csv.DictReader(io.StringIO(table.text)))
        assert [(row["line_charge"], row["line_net_minor"]) for row in rows] == [
            ("seat", "4900"),
            ("output", "200"),
        ]
        events = http.get(f"/api/v1/invoices/{invoice['id']}/events", params={"line": 2}).json()
        assert [(each["event_id"], each["quantity"]) for each in events["events"]] == [("1", "5001000")]


def test_an_operator_has_the_books_compared_and_sees_the_metric(running, shop):
    with running.admin() as admin:
        run = admin.post("/api/v1/billing/reconciliations").raise_for_status().json()
        assert run["differences"] == []
        assert run["counted"]["invoices"] >= 1
        assert admin.get("/api/v1/billing/reconciliations").json()["reconciliations"][0] == run
        shown = admin.get("/metrics").text
        assert "tritium_reconciliation_differences 0.0" in shown
        assert 'tritium_reconciliation_rows{kind="invoices"}' in shown
    with running.http(shop[1]) as http:
        assert http.post("/api/v1/billing/reconciliations").status_code == 403


def test_a_plan_changes_within_a_month_and_every_reader_is_told_from_when_on(running):
    tenant_id, key = running.tenant(name="Upgraded")
    noon = LAST.start + timedelta(days=16, hours=12)
    for event, at in (("before", noon - timedelta(microseconds=1)), ("after", noon)):
        running.run(running.platform.books.metering.record(use_of(tenant_id, event=event, at=at)))
    output = {**PLAN["charges"][1], "included": 0, "price": {"kind": "per_unit", "unit_price": "1/1000"}}
    better = {**PLAN, "name": "better", "charges": [output]}
    with running.admin() as admin:
        for plan, start in ((PLAN, LAST.start), (better, noon)):
            plan_id = admin.post("/api/v1/billing/plans", json=plan).raise_for_status().json()["id"]
            wish = {"tenant_id": tenant_id, "plan_id": plan_id, "starts_at": start.isoformat()}
            admin.post("/api/v1/billing/contracts", json=wish).raise_for_status()
        yen = {**better, "currency": "JPY"}
        wish["plan_id"] = admin.post("/api/v1/billing/plans", json=yen).raise_for_status().json()["id"]
        later = {**wish, "starts_at": (LAST.end + timedelta(hours=1)).isoformat()}
        refused = admin.post("/api/v1/billing/contracts", json=later)
        assert (refused.status_code, refused.json()["field"]) == (409, "starts_at")
        assert "from EUR to JPY" in refused.json()["detail"]
    with running.http(key) as http:
        preview = http.get("/api/v1/invoices/preview", params={"period": str(LAST)}).raise_for_status().json()
        lines = [(each["starts_at"], each["charge"], each["unit_price_minor"]) for each in preview["lines"]]
        first, second = (each.isoformat().replace("+00:00", "Z") for each in (LAST.start, noon))
        assert lines == [(first, "seat", None), (first, "output", "1/25000"), (second, "output", "1/1000")]
        with running.admin() as admin:
            drafts = {"tenant_id": tenant_id, "period": str(LAST)}
            (draft,) = admin.post("/api/v1/billing/invoices", json=drafts).raise_for_status().json()
            address = f"/api/v1/billing/invoices/{draft['id']}/finalize"
            invoice = admin.post(address).raise_for_status().json()
            assert (
                admin.post("/api/v1/billing/reconciliations").raise_for_status().json()["differences"] == []
            )
        assert invoice["total_minor"] == preview["total_minor"] == 4900 + 200 + 5001
        table = http.get(f"/api/v1/invoices/{invoice['id']}/csv").raise_for_status()
        spans = [
            (row["line_starts_at"][:19], row["line_ends_at"][:19])
            for row in csv.DictReader(io.StringIO(table.text))
        ]
        early, cut, late = (f"{each:%Y-%m-%dT%H:%M:%S}" for each in (LAST.start, noon, LAST.end))
        assert spans == [(early, cut), (early, cut), (cut, late)]
        for line, event in ((2, "before"), (3, "after")):
            events = http.get(f"/api/v1/invoices/{invoice['id']}/events", params={"line": line}).json()
            assert [each["event_id"] for each in events["events"]] == [event]


def test_pages_go_on_where_the_last_one_ended(running, shop):
    _, key, invoice = shop
    with running.http(key) as http:
        first = http.get("/api/v1/invoices", params={"limit": 1}).json()
        assert first["next_after"] == invoice["id"]
        rest = http.get("/api/v1/invoices", params={"limit": 1, "after": first["next_after"]}).json()
        assert rest == {"invoices": [], "next_after": None}
    with running.admin() as admin:
        seen, after = [], None
        while True:
            query = {"limit": 1, **({"after": after} if after else {})}
            page = admin.get("/api/v1/billing/journal", params=query).raise_for_status().json()
            seen += page["groups"]
            after = page["next_after"]
            if after is None:
                break
        assert len({group["id"] for group in seen}) == len(seen) >= 1
        for group in seen:
            assert sum(entry["amount_minor"] for entry in group["entries"]) == 0


@pytest.mark.parametrize(
    "keys", [[""], ["two words"], ['"open'], ["a,b"], ["x" * 256], ["t\tb"], ["a", "b"], ["ä"]], ids=ascii
)
@pytest.mark.parametrize("address", ["invoices/{}/payments", "invoices/{}/pay", "credits"])
def test_a_malformed_key_moves_no_money(running, shop, address, keys):
    tenant_id, _, invoice = shop
    wishes = {
        "invoices/{}/payments": {"amount_minor": 1, "reference": "wire"},
        "invoices/{}/pay": {},
        "credits": {"tenant_id": tenant_id, "currency": "EUR", "amount_minor": 5, "reason": "prepaid"},
    }
    place = f"/api/v1/billing/{address.format(invoice['id'])}"
    with running.admin() as admin:
        before = admin.get("/api/v1/billing/journal").json()
        headers = [(b"idempotency-key", key.encode("latin-1")) for key in keys]
        answer = admin.post(place, json=wishes[address], headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_malformed")
        assert answer.headers["content-type"] == "application/problem+json"
        assert admin.get("/api/v1/billing/journal").json() == before


def test_what_moves_money_happens_once_per_key(running, shop):
    tenant_id, _, invoice = shop
    address = f"/api/v1/billing/invoices/{invoice['id']}/payments"
    wish = {"amount_minor": 69, "reference": "wire 1"}
    with running.admin() as admin:
        missing = admin.post(address, json=wish)
        assert (missing.status_code, missing.json()["code"]) == (400, "idempotency_key_missing")
        assert missing.headers["content-type"] == "application/problem+json"
        keyed = {"idempotency-key": '"pay-1"'}
        paid = admin.post(address, json=wish, headers=keyed).raise_for_status().json()
        assert (paid["status"], paid["open_minor"]) == ("partially_paid", 6000)
        assert admin.post(address, json=wish, headers=keyed).json() == paid
        other = admin.post(address, json=wish | {"amount_minor": 70}, headers=keyed)
        assert (other.status_code, "another request" in other.json()["detail"]) == (422, True)
        assert admin.post(f"/api/v1/billing/invoices/{invoice['id']}/void").status_code == 409
        note = admin.post(
            f"/api/v1/billing/invoices/{invoice['id']}/credit-notes",
            json={"reason": "sorry", "lines": [{"line": 2, "amount_minor": 200}]},
            headers={"idempotency-key": "note-1"},
        ).raise_for_status()
        assert (note.json()["number"], note.json()["total_minor"]) == ("CN-00000001", 238)
        wish = {"tenant_id": tenant_id, "currency": "EUR", "amount_minor": 500, "reason": "prepaid"}
        grants = [
            admin.post("/api/v1/billing/credits", json=wish, headers={"idempotency-key": "grant-1"}).json()
            for _ in range(2)
        ]
        assert grants[0] == grants[1]
        listed = admin.get("/api/v1/billing/credits", params={"tenant_id": tenant_id}).json()
        assert listed == {"credits": grants[:1], "next_after": None}
        ledger = admin.get("/api/v1/billing/journal.beancount").raise_for_status().text
        assert "Liabilities:CustomerCredit" in ledger


def test_credits_contracts_and_runs_are_read_in_pages(running, shop):
    with running.admin() as admin:
        tenant_id = running.tenant()[0]
        wish = {"tenant_id": tenant_id, "currency": "EUR", "amount_minor": 5, "reason": "prepaid"}
        plan = admin.post("/api/v1/billing/plans", json=PLAN).raise_for_status().json()["id"]
        for number in range(3):
            keyed = {"idempotency-key": f"page-{tenant_id}-{number}"}
            admin.post("/api/v1/billing/credits", json=wish, headers=keyed).raise_for_status()
            start = {"tenant_id": tenant_id, "plan_id": plan, "starts_at": f"2030-0{number + 1}-01T00:00:00Z"}
            admin.post("/api/v1/billing/contracts", json=start).raise_for_status()
            admin.post("/api/v1/billing/reconciliations").raise_for_status()
        for name in ("credits", "contracts", "reconciliations"):
            asked, seen = {"tenant_id": tenant_id, "limit": 2}, []
            while asked.get("after", "") is not None:
                page = admin.get(f"/api/v1/billing/{name}", params=asked).raise_for_status().json()
                assert len(page[name]) <= 2
                seen += [each["id"] for each in page[name]]
                asked["after"] = page["next_after"]
            whole = admin.get(f"/api/v1/billing/{name}", params={"tenant_id": tenant_id, "limit": 100}).json()
            assert seen == [each["id"] for each in whole[name]]
            assert len(set(seen)) == len(seen) >= 3
            for wrong in ({"limit": 0}, {"limit": 101}, {"after": "x"}):
                refused = admin.get(f"/api/v1/billing/{name}", params={"tenant_id": tenant_id, **wrong})
                assert refused.status_code == 422


def test_what_a_customer_is_to_be_told_is_read_by_the_operator_and_by_itself(running, shop):
    tenant_id, key, invoice = shop
    kept = DunningNotice(
        id=uuid7(),
        tenant_id=uuid.UUID(tenant_id),
        invoice_id=uuid.UUID(invoice["id"]),
        attempt_number=1,
        kind=NoticeKind.SOFT,
        subject="declined",
        body="Hello,\n\nagain tomorrow.",
        created_at=datetime.now(UTC),
    )
    assert running.run(running.platform.desk.books.payments.add_notice(kept))
    _, stranger = running.tenant(name="Stranger")
    with running.admin() as admin, running.http(key) as http, running.http(stranger) as other:
        (seen,) = admin.get("/api/v1/billing/payments/notices").raise_for_status().json()["notices"]
        assert (seen["id"], seen["kind"], seen["body"]) == (str(kept.id), "soft", kept.body)
        own = http.get("/api/v1/payments/notices", params={"limit": 1}).raise_for_status().json()
        assert (own["notices"], own["next_after"]) == ([seen], seen["id"])
        rest = {"limit": 1, "after": seen["id"]}
        assert http.get("/api/v1/payments/notices", params=rest).json() == {"notices": [], "next_after": None}
        assert other.get("/api/v1/payments/notices").json()["notices"] == []
        assert other.get("/api/v1/billing/payments/notices").status_code == 403
        buyer = {"name": "Acme Ltd", "email": "books@acme.test"}
        admin.put(f"/api/v1/billing/buyers/{tenant_id}", json=buyer).raise_for_status()
        (seen,) = admin.get(f"/api/v1/billing/payments/notices?tenant_id={tenant_id}").json()["notices"]
        assert seen["email"] == "books@acme.test"
    command = ["payment", "notices", "--data-dir", str(running.platform.config.data_dir), "--format"]
    listed = json.loads(CliRunner().invoke(app, [*command, "json"]).stdout)["notices"]
    assert [(each["id"], each["body"]) for each in listed] == [(str(kept.id), kept.body)]
    assert "declined" in CliRunner().invoke(app, [*command, "human", "--tenant", tenant_id]).stdout
    assert CliRunner().invoke(app, [*command, "quiet", "--after", str(kept.id)]).stdout == ""


def test_a_transfer_is_waited_for_received_and_refunded(running, shop):
    tenant_id, key, invoice = shop
    with running.admin() as admin, running.http(key) as http:
        address = f"/api/v1/billing/invoices/{invoice['id']}/pay"
        assert admin.post(address, json={}).status_code == 400  # it wants a key
        keyed = {"idempotency-key": "ask-1"}
        asked = admin.post(address, json={"amount_minor": 1000}, headers=keyed).raise_for_status().json()
        assert (asked["state"], asked["provider"], asked["amount_minor"]) == (
            "requires_action",
            "manual",
            1000,
        )
        assert admin.post(address, json={"amount_minor": 1000}, headers=keyed).json() == asked
        second = admin.post(address, json={}, headers={"idempotency-key": "ask-2"})
        assert second.status_code == 409
        address = f"/api/v1/billing/payments/{asked['id']}"
        wish, keyed = {"amount_minor": 1000, "reference": "wire 7"}, {"idempotency-key": "came-1"}
        came = admin.post(f"{address}/receive", json=wish, headers=keyed).raise_for_status().json()
        assert (came["state"], came["received_minor"]) == ("succeeded", 1000)
        assert admin.post(f"{address}/receive", json=wish, headers=keyed).json() == came
        assert admin.post(f"{address}/cancel").status_code == 409
        wish, keyed = {"amount_minor": 400, "reason": "sorry"}, {"idempotency-key": "back-1"}
        back = admin.post(f"{address}/refunds", json=wish, headers=keyed).raise_for_status().json()
        assert (back["state"], back["from_credit_minor"]) == ("succeeded", 0)
        assert admin.post(f"{address}/refunds", json=wish, headers=keyed).json() == back
        shown = http.get(f"/api/v1/payments/{asked['id']}").raise_for_status().json()
        assert shown["attempt"]["refunded_minor"] == 400
        assert shown["refunds"] == [back]
        assert shown == admin.get(address).json()
        page = http.get("/api/v1/payments", params={"limit": 1}).raise_for_status().json()
        assert ([each["id"] for each in page["attempts"]], page["next_after"]) == ([asked["id"]], asked["id"])
        rest = {"limit": 1, "after": asked["id"]}
        assert http.get("/api/v1/payments", params=rest).json() == {"attempts": [], "next_after": None}
        assert admin.get("/api/v1/billing/payments", params={"tenant_id": tenant_id}).json()["attempts"]
        method = f"/api/v1/billing/payment-methods/{tenant_id}"
        assert admin.get(method).status_code == 404
        wish = {"provider": "stripe", "customer": "cus_1", "method": "pm_1"}
        assert admin.put(method, json=wish).status_code == 409  # it is not configured


def test_what_cannot_be_is_a_problem_and_no_failure(running, shop):
    tenant_id, _, invoice = shop
    unknown = str(uuid.UUID(int=9))
    with running.admin() as admin:
        for method, address, body, status in [
            ("POST", "plans", {"name": "x"}, 422),
            ("POST", "plans", {**PLAN, "charges": [{"name": "a", "price": {"kind": "b"}}]}, 422),
            ("GET", f"plans/{unknown}", None, 404),
            ("POST", f"invoices/{unknown}/finalize", None, 404),
            ("POST", "invoices", {"tenant_id": unknown, "period": "2026-01"}, 404),
            ("POST", "invoices", {"tenant_id": tenant_id, "period": "2026-13"}, 422),
            ("POST", f"invoices/{invoice['id']}/payments", {"amount_minor": 10**9, "reference": "w"}, 422),
            (
                "POST",
                f"invoices/{invoice['id']}/credit-notes",
                {"reason": "r", "lines": [{"line": 9, "amount_minor": 1}]},
                422,
            ),
        ]:
            answer = admin.request(
                method,
                f"/api/v1/billing/{address}",
                json=body,
                headers={"idempotency-key": f"bad-{uuid7()}"},
            )
            assert answer.status_code == status, (address, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"


def tritiumd(*arguments, data_dir):
    """Run a command as `tritiumd` does, in this process."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--data-dir", str(data_dir)])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


async def prepare(config, *, uses=1):
    """Make a tenant with use of last month."""
    platform = await initialize_platform(config)
    tenant = await platform.tenancy.create_tenant(
        organization_name="Buyer", tier=TenantTier.DEVELOPER, limit_overrides={}
    )
    for number in range(uses):
        await platform.books.metering.record(use_of(tenant.id, event=str(number)))
    await platform.stop()
    return tenant.id


def test_the_command_line_bills_a_month(harness, tmp_path):
    config = harness.platform_config(tmp_path / "data")
    tenant_id = asyncio.run(prepare(config))
    data_dir = config.data_dir
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(PLAN))
    plan_id = tritiumd("price", "plan", "add", plan, data_dir=data_dir).strip()
    assert plan_id in tritiumd("price", "plan", "list", data_dir=data_dir)
    assert json.loads(tritiumd("price", "plan", "show", plan_id, data_dir=data_dir))["name"] == "pro"
    signed = ("price", "contract", tenant_id, plan_id, "--starts-at", LAST.start.isoformat())
    tritiumd(*signed, "--jurisdiction", "DE", data_dir=data_dir)
    made = tritiumd(
        "invoice", "generate", tenant_id, "--period", str(LAST), "--format", "quiet", data_dir=data_dir
    )
    invoice = made.strip()
    shown = json.loads(tritiumd("invoice", "show", invoice, "--format", "json", data_dir=data_dir))
    assert shown["total_minor"] == 6069
    assert "INV-00000001" in tritiumd("invoice", "finalize", invoice, data_dir=data_dir)
    assert "60.69 EUR" in tritiumd("invoice", "list", "--tenant", tenant_id, data_dir=data_dir)
    assert "seat" in tritiumd("invoice", "show", invoice, "--csv", data_dir=data_dir)
    assert "Income:Revenue  -51.00 EUR" in tritiumd("journal", "export", data_dir=data_dir)
    asked = tritiumd("invoice", "pay", invoice, "--format", "quiet", data_dir=data_dir).strip()
    assert "requires_action" in tritiumd("payment", "list", "--tenant", tenant_id, data_dir=data_dir)
    assert "canceled" in tritiumd("payment", "cancel", asked, data_dir=data_dir)
    asked = tritiumd("invoice", "pay", invoice, "--format", "quiet", data_dir=data_dir).strip()
    came = ("--amount-minor", 6069, "--reference", "wire")
    assert "succeeded" in tritiumd("payment", "receive", asked, *came, data_dir=data_dir)
    made = tritiumd("payment", "refund", asked, "--reason", "sorry", "--format", "json", data_dir=data_dir)
    assert json.loads(made)["state"] == "succeeded"
    assert "void" in tritiumd("invoice", "void", invoice, data_dir=data_dir)
    assert tritiumd("reconcile", "--format", "quiet", data_dir=data_dir) == "0\n"
    run = json.loads(tritiumd("reconcile", "--format", "json", data_dir=data_dir))
    assert (run["counted"]["invoices"], run["counted"]["uses"], run["differences"]) == (1, 1, [])
    log = tritiumd("audit", "verify", "--format", "json", data_dir=data_dir)
    assert json.loads(log)["is_intact"]


async def test_the_calendar_bills_last_month_by_itself_and_only_once(harness, tmp_path, monkeypatch):
    monkeypatch.setattr(billing_schedule, "HOURLY", "* * * * * *")
    monkeypatch.setattr(billing_schedule, "DAILY", "* * * * * *")
    config = harness.platform_config(tmp_path / "data", invoice_grace_days=0)
    tenant_id = await prepare(config, uses=3)
    worker = await initialize_worker(config)
    await asyncio.to_thread(worker.launch)
    platform = await initialize_platform(config)
    try:
        async with asyncio.timeout(60):
            while not (found := await platform.desk.invoices.list(limit=9)) or found[0].number is None:
                await asyncio.sleep(0.1)
            runs = 0
            while runs < 3:  # more runs change nothing
                await asyncio.sleep(0.5)
                runs = len(await asyncio.to_thread(DBOS.list_workflows, status="SUCCESS"))
            while not (reconciled := await platform.reconciliation.recent(limit=9)):
                await asyncio.sleep(0.1)
        assert {run.num_differences for run in reconciled} == {0}
        (invoice,) = await platform.desk.invoices.list(limit=9)
        assert (invoice.tenant_id, invoice.number, str(invoice.period)) == (
            tenant_id,
            "INV-00000001",
            str(LAST),
        )
        actions = [each.action for each in await platform.books.outbox.pending(limit=99)]
        assert actions.count("invoice.generate") == actions.count("invoice.finalize") == 1
    finally:
        await worker.close()
        DBOS.destroy(destroy_registry=True)
        await worker._jobs._database.close()
        await platform.stop()
