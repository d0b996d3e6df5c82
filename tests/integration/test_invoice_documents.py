"""Printed invoices as a tenant and an operator fetch them: over HTTP and on the command line."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pypdf
import pytest
from typer.testing import CliRunner

from tritium_platform.cli.app import app
from tritium_platform.compose import initialize_platform
from tritium_platform.config import SellerConfig
from tritium_platform.errors import ValidationError
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth, uuid7

LAST = CalendarMonth.of(CalendarMonth.of(datetime.now(UTC)).start - timedelta(days=1))
SELLER = SellerConfig(
    name="Tritium Cloud GmbH",
    street=("Hauptstraße 1",),
    post_code="10115",
    city="Berlin",
    country="DE",
    vat_id="DE123456789",
    iban="DE89370400440532013000",
)
BUYER = {"name": "Acme SAS", "street": ["1 Rue X"], "post_code": "75001", "city": "Paris", "country": "FR"}
PLAN = {
    "name": "pro",
    "currency": "EUR",
    "charges": [
        {"name": "seat", "price": {"kind": "flat", "amount": "49.00 EUR"}},
        {
            "name": "output",
            "meter": "output_tokens",
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


def use_of(tenant_id, *, event="1"):
    return UsageRecord(
        id=uuid7(),
        tenant_id=uuid.UUID(str(tenant_id)),
        source="test",
        event_id=event,
        operation=OperationType.CHAT,
        tier=TenantTier.DEVELOPER,
        outcome="success",
        occurred_at=LAST.start,
        quantities=UsageQuantities(output_tokens=5_000_000),
        resources=ResourceUsage(),
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory, harness):
    """A platform whose operator has said who it is."""
    platform, stop = harness.serve(
        harness.platform_config(tmp_path_factory.mktemp("platform"), seller=SELLER)
    )
    yield platform
    stop()


@pytest.fixture(scope="module")
def shop(running):
    """A tenant with an invoice and a credit note: (tenant id, key, invoice, credit note)."""
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
        address = f"/api/v1/billing/buyers/{tenant_id}"
        assert admin.get(address).status_code == 404
        admin.put(address, json=BUYER).raise_for_status()
        assert admin.get(address).json() == {**BUYER, "email": "", "reference": ""}
        (draft,) = admin.post(
            "/api/v1/billing/invoices", json={"tenant_id": tenant_id, "period": str(LAST)}
        ).json()
        early = admin.get(f"/api/v1/billing/invoices/{draft['id']}/document.pdf")
        assert early.status_code == 404
        invoice = admin.post(f"/api/v1/billing/invoices/{draft['id']}/finalize").raise_for_status().json()
        note = admin.post(
            f"/api/v1/billing/invoices/{draft['id']}/credit-notes",
            json={"reason": "sorry", "lines": [{"line": 1, "amount_minor": 100}]},
            headers={"idempotency-key": "note-1"},
        )
    return tenant_id, key, invoice, note.raise_for_status().json()


@pytest.mark.parametrize("which", [2, 3], ids=["invoice", "credit note"])
def test_a_tenant_fetches_pdf_and_xml_once(running, shop, which):
    document = shop[which]
    kinds = {"pdf": "application/pdf", "xml": "application/xml"}
    with running.http(shop[1]) as http, running.admin() as admin:
        record = http.get(f"/api/v1/invoices/{document['id']}/document").content
        for suffix, kind in kinds.items():
            address = f"invoices/{document['id']}/document.{suffix}"
            answer = http.get(f"/api/v1/{address}").raise_for_status()
            assert answer.headers["content-type"] == kind
            assert (
                answer.headers["content-disposition"] == f'inline; filename="{document["number"]}.{suffix}"'
            )
            assert answer.headers["etag"] == f'"{hashlib.sha256(record).hexdigest()}.{suffix}"'
            again = http.get(f"/api/v1/{address}", headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert admin.get(f"/api/v1/billing/{address}").content == answer.content
            if suffix == "pdf":
                reader = pypdf.PdfReader(io.BytesIO(answer.content))
                assert reader.attachments["invoice.json"] == [record]
                assert "Acme SAS" in reader.pages[0].extract_text()
                inside = reader.attachments["factur-x.xml"]
            else:
                assert [answer.content] == inside


def test_a_line_of_either_leads_to_its_uses(running, shop):
    _, key, invoice, note = shop
    with running.http(key) as http, running.admin() as admin:
        for caller, prefix in ((http, "/api/v1"), (admin, "/api/v1/billing")):
            found = caller.get(f"{prefix}/invoices/{invoice['id']}/events", params={"line": 2}).json()
            assert [each["event_id"] for each in found["events"]] == ["1"]
            flat = caller.get(f"{prefix}/invoices/{note['id']}/events", params={"line": 1}).json()
            assert flat == {"events": [], "next_after": None}
            none = caller.get(f"{prefix}/invoices/{note['id']}/events", params={"line": 2})
            assert none.status_code == 404


def test_cost_data_sums_to_what_was_billed(running, shop):
    tenant_id, key, invoice, note = shop
    with running.http(key) as http, running.admin() as admin:
        own = http.get("/api/v1/invoices/focus.csv", params={"period": str(LAST)}).raise_for_status()
        assert own.headers["content-type"] == "text/csv; charset=utf-8"
        everybodys = {"period": str(LAST), "tenant_id": tenant_id}
        assert admin.get("/api/v1/billing/focus.csv", params=everybodys).text == own.text
        assert http.get("/api/v1/invoices/focus.csv", params={"period": "2026-13"}).status_code == 422
    rows = list(csv.DictReader(io.StringIO(own.text)))
    billed = sum(Fraction(row["BilledCost"]) for row in rows)
    assert billed == Fraction(invoice["total_minor"] - note["total_minor"], 100)
    assert {row["InvoiceIssuerName"] for row in rows} == {"Tritium Cloud GmbH"}
    assert {row["BillingAccountName"] for row in rows} == {"Acme SAS"}


def test_printing_leaves_the_loop_to_others(running, shop):
    _, _, invoice, _ = shop

    async def both():
        started = time.monotonic()
        document = await running.platform.desk.books.invoices.document(uuid.UUID(invoice["id"]))
        printing = asyncio.create_task(running.platform.printer.pdf(document))
        longest = 0.0
        while not printing.done():
            before = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - before)
        await printing
        return longest, time.monotonic() - started

    longest, whole = running.run(both())
    assert longest < whole  # other work had its turns while the page was set


def test_a_seller_that_cannot_stand_on_an_invoice_stops_the_start(harness, tmp_path):
    config = harness.platform_config(tmp_path, seller=SELLER.model_copy(update={"iban": "DE00"}))
    with pytest.raises(ValidationError, match=r"seller\.iban"):
        asyncio.run(initialize_platform(config))


def tritiumd(*arguments, data_dir, exit_code=0):
    done = CliRunner().invoke(app, [*map(str, arguments), "--data-dir", str(data_dir)])
    assert done.exit_code == exit_code, (done.output, done.exception)
    return done.output


async def prepare(config):
    platform = await initialize_platform(config)
    tenant = await platform.tenancy.create_tenant(
        organization_name="Buyer", tier=TenantTier.DEVELOPER, limit_overrides={}
    )
    for number in range(2):
        await platform.books.metering.record(use_of(tenant.id, event=f"event {number}"))
    await platform.stop()
    return tenant.id


def test_the_command_line_prints_explains_and_credits(harness, tmp_path, monkeypatch):
    config = harness.platform_config(tmp_path / "data")
    tenant_id, data_dir = asyncio.run(prepare(config)), config.data_dir
    for name in ("name", "country", "vat_id"):
        monkeypatch.setenv(f"TRITIUM_SELLER__{name.upper()}", getattr(SELLER, name))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "buyer.json").write_text(json.dumps(BUYER))
    assert "Nobody" in tritiumd("invoice", "buyer", tenant_id, data_dir=data_dir)
    assert "Acme SAS" in tritiumd("invoice", "buyer", tenant_id, "--file", "buyer.json", data_dir=data_dir)
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    plan_id = tritiumd("price", "plan", "add", "plan.json", data_dir=data_dir).strip()
    signed = ("price", "contract", tenant_id, plan_id, "--starts-at", LAST.start.isoformat())
    tritiumd(*signed, "--jurisdiction", "DE", data_dir=data_dir)
    made = ("invoice", "generate", tenant_id, "--period", LAST, "--format", "quiet")
    invoice = tritiumd(*made, data_dir=data_dir).strip()
    tritiumd("invoice", "finalize", invoice, data_dir=data_dir)
    assert tritiumd("invoice", "pdf", invoice, data_dir=data_dir) == "INV-00000001.pdf\n"
    tritiumd("invoice", "pdf", invoice, "--output", "again.pdf", data_dir=data_dir)
    assert (tmp_path / "again.pdf").read_bytes() == (tmp_path / "INV-00000001.pdf").read_bytes()
    tritiumd("invoice", "xml", invoice, "--output", "a.xml", data_dir=data_dir)
    assert b"urn:cen.eu:en16931:2017" in (tmp_path / "a.xml").read_bytes()
    events = ("invoice", "events", invoice, "--line", 2, "--format", "quiet")
    assert tritiumd(*events, data_dir=data_dir) == "test event 0\ntest event 1\n"
    line = ("--line", "1=100", "--line", "2=40", "--reason", "sorry", "--key", "k")
    note = tritiumd("credit-note", "create", invoice, *line, "--format", "quiet", data_dir=data_dir).strip()
    assert (
        tritiumd("credit-note", "create", invoice, *line, "--format", "quiet", data_dir=data_dir).strip()
        == note
    )
    assert "CN-00000001" in tritiumd("credit-note", "list", invoice, data_dir=data_dir)
    shown = json.loads(tritiumd("credit-note", "show", note, "--format", "json", data_dir=data_dir))
    assert [each["net_minor"] for each in shown["lines"]] == [100, 40]
    assert tritiumd("credit-note", "pdf", note, data_dir=data_dir) == "CN-00000001.pdf\n"
    table = tritiumd("invoice", "focus", "--period", LAST, "--tenant", tenant_id, data_dir=data_dir)
    numbers = [row["InvoiceId"] for row in csv.DictReader(io.StringIO(table))]
    assert set(numbers) == {"INV-00000001", "CN-00000001"}


@pytest.mark.parametrize("wrong", ["1", "1=", "=1", "a=1", "1=-5", "1=1.5"])
def test_a_line_to_credit_that_is_none_is_refused(wrong, tmp_path):
    arguments = ["credit-note", "create", str(uuid.UUID(int=1)), "--line", wrong, "--reason", "r"]
    done = CliRunner().invoke(app, [*arguments, "--data-dir", str(tmp_path)])
    assert isinstance(done.exception, ValidationError)
