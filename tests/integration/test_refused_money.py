"""Texts, moments and ids that no database keeps, on the routes of money: refused by name, never a 500.

Run on PostgreSQL too: SQLite takes U+0000 in a text, and PostgreSQL does not.
"""

from __future__ import annotations

import json
from itertools import count

import pytest

KEYS = count()
PLAN = {
    "name": "plain",
    "currency": "USD",
    "charges": [{"name": "fee", "price": {"kind": "flat", "amount": "100"}}],
}
CELL = {
    "name": "in",
    "meter": "input_tokens",
    "price": {
        "kind": "matrix",
        "dimensions": ["model"],
        "cells": [
            {"values": ["a\0"], "price": {"kind": "flat", "amount": "1"}},
            {"values": ["*"], "price": {"kind": "flat", "amount": "1"}},
        ],
    },
}
HALF, NUL = "\ud800", "a\0b"
TOO_EARLY, TOO_LATE = "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"
PLANS = [
    {"name": NUL},
    {"name": HALF},
    {"charges": [CELL]},
    {"charges": [{**PLAN["charges"][0], "name": HALF}]},
    {HALF: 1},
]
CONTRACTS = [
    {"plan_id": NUL},
    {"plan_id": "0" * 32},
    {"starts_at": TOO_EARLY},
    {"starts_at": TOO_LATE},
    {"starts_at": 5},
    {"ends_at": TOO_LATE},
    {"tax": {"jurisdiction": NUL}},
    {"tax": {"jurisdiction": "DE", "tax_id": NUL, "is_reverse_charge": True}},
]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def shop(request, tmp_path_factory, harness):
    """A platform on either database, and a tenant of it: (platform, tenant id)."""
    options = {}
    if request.param == "postgresql":
        options["database_url"] = request.getfixturevalue("postgresql_url")
    config = harness.platform_config(tmp_path_factory.mktemp("platform"), **options)
    platform, stop = harness.serve(config)
    yield platform, platform.tenant()[0]
    stop()


def refused(shop, path, body, *, method="POST"):
    with shop[0].admin() as admin:
        answer = admin.request(
            method,
            path,
            content=json.dumps(body).encode(),
            headers={"content-type": "application/json", "idempotency-key": f"key-{next(KEYS)}"},
        )
    assert answer.status_code in {404, 422}, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


@pytest.mark.parametrize("wrong", PLANS, ids=ascii)
def test_a_plan_nobody_can_keep_is_refused(shop, wrong):
    refused(shop, "/api/v1/billing/plans", {**PLAN, **wrong})


@pytest.mark.parametrize("wrong", CONTRACTS, ids=ascii)
def test_a_contract_nobody_can_keep_is_refused(shop, wrong):
    with shop[0].admin() as admin:
        plan = admin.post("/api/v1/billing/plans", json=PLAN).raise_for_status().json()
    wish = {"tenant_id": shop[1], "plan_id": plan["id"], "starts_at": "2026-12-01T00:00:00Z"}
    refused(shop, "/api/v1/billing/contracts", {**wish, **wrong})


def test_moments_outside_of_the_calendar_and_halves_of_letters_are_refused(shop):
    credit = {"tenant_id": shop[1], "currency": "USD", "amount_minor": 1, "reason": "r"}
    refused(shop, "/api/v1/billing/credits", {**credit, "expires_at": TOO_LATE})
    refused(shop, f"/api/v1/tenants/{shop[1]}/keys", {"name": "k", "expires_at": TOO_LATE})
    cap = {"amount_minor": 5, "currency": HALF}
    refused(shop, f"/api/v1/tenants/{shop[1]}/spend-cap", cap, method="PUT")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/billing/plans/a%00b"),
        ("GET", "/api/v1/billing/plans?after=a%00b"),
        ("DELETE", "/api/v1/tenants/{tenant}/keys/a%00b"),
    ],
)
def test_ids_nobody_has_are_not_looked_for(shop, method, path):
    with shop[0].admin() as admin:
        answer = admin.request(method, path.format(tenant=shop[1]))
    assert answer.status_code in {404, 422}, answer.text
