"""`tritiumd credit`, and how an invoice that nobody pays ends."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tritium_platform.cli.app import app

PLAN = {
    "name": "seat",
    "currency": "EUR",
    "charges": [{"name": "seat", "price": {"kind": "flat", "amount": "50.00 EUR"}}],
}


@pytest.fixture
def tritiumd(tmp_path):
    def run(*words, code=0):
        words = [*words, "--data-dir", str(tmp_path / "data"), "--format", "json"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    return run


def test_credit_is_granted_once_under_a_key_and_pays_before_an_invoice_is_written_off(tritiumd, tmp_path):
    tenant = tritiumd("tenant", "create", "Acme")["id"]
    wish = ("credit", "grant", tenant, "1200", "EUR", "--reason", "prepaid", "--key", "k")
    (granted,) = tritiumd(*wish, "--expires-at", "2999-01-01T00:00:00+00:00")["credits"]
    assert tritiumd(*wish, "--expires-at", "2999-01-01T00:00:00+00:00")["credits"] == [granted]
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(PLAN))
    plan = tritiumd("price", "plan", "add", str(file))["id"]
    dates = ("--starts-at", "2026-01-01T00:00:00Z", "--ends-at", "2026-02-01T00:00:00Z")
    assert tritiumd("price", "contract", tenant, plan, *dates)["ends_at"] == "2026-02-01T00:00:00Z"
    (draft,) = tritiumd("invoice", "generate", tenant, "--period", "2026-01")["invoices"]
    (invoice,) = tritiumd("invoice", "finalize", draft["id"])["invoices"]
    assert (invoice["drawn_minor"], invoice["open_minor"]) == (1200, 3800)
    (lost,) = tritiumd("invoice", "write-off", invoice["id"])["invoices"]
    assert lost["status"] == "uncollectible"
    (left,) = tritiumd("credit", "list", tenant)["credits"]
    assert (left["id"], left["remaining_minor"]) == (granted["id"], 0)
    assert tritiumd("credit", "list", tenant, "--after", granted["id"])["credits"] == []
    (contract,) = tritiumd("price", "contracts", tenant)["contracts"]
    assert contract["plan_id"] == plan
    assert tritiumd("price", "contracts", tenant, "--after", contract["id"])["contracts"] == []
    run = tritiumd("reconcile")
    assert tritiumd("reconciliations")["reconciliations"] == [run]
    assert tritiumd("reconciliations", "--after", run["id"])["reconciliations"] == []
