"""The FOCUS dataset: columns, types and values by the specification, and sums by the invoices."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest

from tritium_platform.billing.focus import COLUMNS, NUMBERS, focus_csv, focus_header
from tritium_platform.billing.party import Party
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.values import CURRENCY_DIGITS, CalendarMonth

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.json") if path.stem != "digests")
SEPTEMBER = CalendarMonth(2026, 9)
# FOCUS 1.2: what every dataset has, and of that what is never without a value.
NEVER_NULL = {
    *("BilledCost", "BillingAccountId", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart"),
    *("ChargeCategory", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost"),
    *("InvoiceIssuerName", "ListCost", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName"),
    *("ChargeFrequency", "ServiceSubcategory"),
}
MANDATORY = NEVER_NULL | {
    *("BillingAccountName", "ChargeClass", "ChargeDescription", "PricingQuantity", "PricingUnit"),
}
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"Correction", ""},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"Standard", "Dynamic", "Committed", "Other", ""},
    "ServiceCategory": {"AI and Machine Learning"},
    "ServiceSubcategory": {"Generative AI"},
    "BillingCurrency": set(CURRENCY_DIGITS),
    "PricingUnit": {"Tokens", "Parameters", "Seconds", "Months", ""},
}
NUMBER = re.compile(r"-?\d+(\.\d+)?")


def rows_of(*bodies):
    text = focus_header() + "".join(focus_csv(body) for body in bodies)
    return list(csv.DictReader(io.StringIO(text)))


def faults(row):
    """What the specification's rules say against a row."""
    yield from (f"{name} is null" for name in NEVER_NULL if not row[name])
    yield from (f"{name}: {row[name]}" for name, values in ALLOWED.items() if row[name] not in values)
    yield from (f"{name}: {row[name]}" for name in NUMBERS if row[name] and not NUMBER.fullmatch(row[name]))
    for name in ("Billing", "Charge"):
        start, end = (datetime.fromisoformat(row[f"{name}Period{side}"]) for side in ("Start", "End"))
        if not (start < end and start.tzinfo == UTC and row[f"{name}PeriodStart"].endswith("Z")):
            yield f"{name}Period"
    is_tax, is_usage = row["ChargeCategory"] == "Tax", row["ChargeCategory"] == "Usage"
    is_priced = row["ChargeCategory"] in {"Usage", "Purchase"} and not row["ChargeClass"]
    for name in ("PricingQuantity", "SkuId", "SkuPriceId", "PricingCategory"):
        if (is_tax and row[name]) or (is_priced and not row[name]):
            yield f"{name} of {row['ChargeCategory']}"
    if bool(row["PricingQuantity"]) != bool(row["PricingUnit"]):
        yield "a quantity has a unit"
    if bool(row["ConsumedQuantity"]) != bool(row["ConsumedUnit"]):
        yield "a quantity has a unit"
    if (row["ConsumedQuantity"] and not is_usage) or (is_usage and is_priced and not row["ConsumedQuantity"]):
        yield "what is consumed is usage"
    if row["ChargeFrequency"] == "Usage-Based" and row["ChargeCategory"] == "Purchase":
        yield "a purchase is no usage"


def sums(rows):
    found = defaultdict(Fraction)
    for row in rows:
        found[row["InvoiceId"]] += Fraction(row["BilledCost"])
    return dict(found)


def total_of(body):
    sign = -1 if body["kind"] == "credit_note" else 1
    return Fraction(sign * body["total_minor"], 10 ** body["minor_digits"])


def test_the_columns_are_those_of_the_specification():
    assert set(COLUMNS) >= MANDATORY
    own = [name for name in COLUMNS if name.startswith("x_")]
    assert list(COLUMNS) == sorted(set(COLUMNS) - set(own)) + own
    assert all(re.fullmatch(r"(x_)?([A-Z][a-z0-9]+)+", name) for name in COLUMNS)
    assert set(NUMBERS) <= set(COLUMNS)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_valid_and_they_sum_to_the_total(name):
    body = json.loads(json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))["body"])
    rows = rows_of(body)
    assert [fault for row in rows for fault in faults(row)] == []
    assert sums(rows) == {body["number"]: total_of(body)}
    listed = sum(Fraction(row["ListCost"]) - Fraction(row["BilledCost"]) for row in rows)
    discounts = sum(line.get("discount_minor", 0) for line in body["lines"])
    assert listed == Fraction(discounts, 10 ** body["minor_digits"])


async def test_a_month_has_its_invoices_and_credit_notes_and_nothing_void(make_shop):
    shop = make_shop()
    await shop.prices.publish_prices(default_price_version())
    await shop.desk.plans.name_buyer(shop.tenant_id, Party(name="Acme"), actor="test")
    await shop.use(10**9)
    invoice, _ = await shop.bill(SEPTEMBER)
    note = await shop.desk.credit_notes.credit(
        invoice.id, amounts={1: 50}, reason="sorry", key=None, actor="test"
    )
    await shop.use(10**9, at=SEPTEMBER.start)  # late: the next invoice charges the difference
    await shop.use(10**9)
    second, later = await shop.bill(SEPTEMBER.next())
    bodies = [each async for each in shop.desk.invoices.documents(tenant_id=None, period=SEPTEMBER)]
    assert {each["number"] for each in bodies} == {invoice.number, note.number}
    rows = rows_of(*bodies)
    assert [fault for row in rows for fault in faults(row)] == []
    assert sums(rows) == {each["number"]: total_of(each) for each in bodies}
    late = rows_of(later)
    assert [fault for row in late for fault in faults(row)] == []
    corrections = [row for row in late if row["ChargeClass"]]
    assert [row["ChargePeriodStart"] for row in corrections] == ["2026-09-01T00:00:00Z"]
    assert {row["BillingPeriodStart"] for row in late} == {"2026-10-01T00:00:00Z"}
    await shop.desk.settlement.void(second.id, actor="test")
    october = SEPTEMBER.next()
    assert [each async for each in shop.desk.invoices.documents(tenant_id=None, period=october)] == []
    others = shop.desk.invoices.documents(tenant_id=note.id, period=SEPTEMBER)
    assert [each async for each in others] == []


def test_computing_time_is_counted_in_seconds_exactly():
    body = json.loads(json.loads((GOLDEN / "domestic.json").read_text(encoding="utf-8"))["body"])
    line = {**body["lines"][1], "meter": "compute_ms", "quantity": "1234567", "included": "567"}
    (row, *_) = rows_of({**body, "lines": [line]})
    assert (row["ConsumedQuantity"], row["PricingQuantity"], row["ConsumedUnit"]) == (
        "1234.567",
        "1234.000",
        "Seconds",
    )
