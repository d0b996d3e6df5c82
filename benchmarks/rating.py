"""How many invoices one core rates in a minute, and what a page of one costs.

    python benchmarks/rating.py [--invoices N] [--profile]

Rating is what happens between the sums of a month and the lines of its invoice, without the database: prices,
discounts, commitment, taxes. Signing adds the record in canonical JSON, its digest and signature. Every
figure is processor time; a PDF's is that of the child process that the platform prints it in, start included.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import resource
import time
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tritium_platform.adapters.invoice_printer import InvoicePrinter
from tritium_platform.audit.note import NoteSigner
from tritium_platform.billing.cii import write_cii
from tritium_platform.billing.document import EventDigest, invoice_to_dict, line_to_dict, sign_document
from tritium_platform.billing.drafting import PartFacts, draft_lines
from tritium_platform.billing.invoice import Invoice, InvoiceKind, InvoiceStatus
from tritium_platform.billing.list_plan import plan_of
from tritium_platform.billing.party import Parties, Party, Seller
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.billing.rating.plan import Usage
from tritium_platform.billing.rating.plan_json import plan_from_dict, plan_id
from tritium_platform.billing.rating.rate import add_taxes
from tritium_platform.billing.rating.tax import TaxStatus, rate_of
from tritium_platform.billing.terms import PartTerms
from tritium_platform.metering.model import Meter
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritium_platform.billing.drafting import DraftLine
    from tritium_platform.billing.rating.plan import Plan

MONTH = CalendarMonth(2026, 10)
NOW = datetime(2026, 11, 5, tzinfo=UTC)
SELLER = Seller(
    party=Party(name="Tritium Cloud GmbH", street=("Hauptstr. 1",), city="Berlin", country="DE"),
    vat_id="DE123456789",
    iban="DE89370400440532013000",
)
PARTIES = Parties(seller=SELLER, buyer=Party(name="Acme SAS", city="Paris", country="FR"))
GERMANY = TaxStatus("DE")
PLAN = {
    "name": "pro",
    "currency": "EUR",
    "charges": [
        {"name": "seat", "price": {"kind": "flat", "amount": "49.00 EUR"}},
        {
            "name": "input",
            "meter": "input_tokens",
            "included": 1_000_000,
            "price": {
                "kind": "graduated",
                "steps": [
                    {"up_to": 10_000_000, "unit_price": "0.10 EUR per 1000000"},
                    {"up_to": None, "unit_price": "0.08 EUR per 1000000"},
                ],
            },
        },
        {
            "name": "output",
            "meter": "output_tokens",
            "price": {
                "kind": "matrix",
                "dimensions": ["model"],
                "cells": [
                    {
                        "values": [f"model-{number}"],
                        "price": {"kind": "per_unit", "unit_price": f"0.{number + 3} EUR per 1000000"},
                    }
                    for number in range(5)
                ]
                + [{"values": ["*"], "price": {"kind": "per_unit", "unit_price": "0.40 EUR per 1000000"}}],
            },
        },
    ],
    "discounts": [{"name": "friend", "share": "0.1"}],
    "commitment": 10_000,
    "taxes": [
        {
            "jurisdiction": "DE",
            "category": "standard",
            "valid_from": "2020-01-01T00:00:00+00:00",
            "rate": "0.19",
        }
    ],
}


def usage(number: int) -> list[Usage]:
    """Return the sums of a month as the store gives them: by meter, tier and model."""
    return [
        Usage(
            meter=meter,
            tier=TenantTier.TEAM,
            quantity=10_000_019 * (place + 1) + number,
            model=f"model-{place}",
        )
        for place in range(5)
        for meter in (Meter.INPUT_TOKENS, Meter.OUTPUT_TOKENS, Meter.COMPUTE_MS)
    ]


def rated(plan: Plan, identity: str, *, number: int, tax: TaxStatus) -> list[DraftLine]:
    """Return the lines of a month with their taxes, as a draft has them."""
    terms = PartTerms(plan=plan, plan_id=identity, part=Fraction(1))
    drafted = draft_lines(MONTH, months={MONTH: [PartFacts(terms=terms, usage=usage(number))]})
    lines = [each.line for each in drafted]
    rates = [rate_of(plan.taxes, status=tax, category=line.tax_category, at=NOW) for line in lines]
    taxed = add_taxes(lines, plan=plan, status=tax, rates=rates)
    return [replace(each, line=line) for each, line in zip(drafted, taxed, strict=True)]


def signed(plan: Plan, identity: str, *, number: int, tax: TaxStatus, signer: NoteSigner) -> Any:
    """Return the document of a month."""
    lines = rated(plan, identity, number=number, tax=tax)
    invoice = Invoice(
        id=uuid7(),
        tenant_id=uuid7(),
        kind=InvoiceKind.INVOICE,
        status=InvoiceStatus.FINALIZED,
        period=MONTH,
        currency=plan.currency,
        plan_id=identity,
        created_at=NOW,
        number=f"INV-{number:08d}",
        finalized_at=NOW,
        due_at=NOW,
    )
    plain = [line_to_dict(place, line, events=EventDigest()) for place, line in enumerate(lines, start=1)]
    body = invoice_to_dict(invoice, lines=plain, tax=tax, parties=PARTIES)
    return sign_document(invoice, body=body, sequence=number + 1, signer=signer)


def per_minute(work: Callable[[int], object], *, count: int) -> int:
    """Return how often something is done in a minute of processor time."""
    work(0)
    started = time.process_time()
    for number in range(count):
        work(number)
    return round(60 * count / (time.process_time() - started))


async def print_ms(document: Any) -> dict[str, float]:
    """Return what one XML and one PDF cost, in milliseconds of processor time; the best of five."""
    printer, body = InvoicePrinter(), json.loads(document.body)
    xml, pdf = [], []
    for _ in range(5):
        started = time.process_time()
        write_cii(body)
        xml.append(time.process_time() - started)
        started = of_children()
        size = len(await printer.pdf(document))
        pdf.append(of_children() - started)
    return {
        "lines": len(body["lines"]),
        "xml_ms": round(min(xml) * 1000, 2),
        "pdf_ms": round(min(pdf) * 1000, 1),
        "pdf_bytes": size,
    }


def of_children() -> float:
    """Return the processor time, in seconds, of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def longer(document: Any, *, lines: int) -> Any:
    """Return the document with its lines repeated."""
    body = json.loads(document.body)
    body["lines"] = [{**body["lines"][place % 5], "number": place + 1} for place in range(lines)]
    return replace(document, body=json.dumps(body).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--invoices", type=int, default=3000)
    parser.add_argument("--profile", action="store_true", help="show where rating spends its time")
    arguments = parser.parse_args()
    signer = NoteSigner("tritium.example/audit", private_key=Ed25519PrivateKey.from_private_bytes(b"7" * 32))
    plans = {
        "price list": (plan_of(default_price_version()), TaxStatus()),
        "plan": (plan_from_dict(PLAN), GERMANY),
    }
    if arguments.profile:
        plan, tax = plans["plan"]
        profile = cProfile.Profile()
        profile.enable()
        for number in range(arguments.invoices):
            rated(plan, "x", number=number, tax=tax)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        return
    found: dict[str, Any] = {"load": os.getloadavg()[0]}
    for name, (plan, tax) in plans.items():
        identity = plan_id(plan)
        found[name] = {
            "lines": len(rated(plan, identity, number=0, tax=tax)),
            "rated_per_minute": per_minute(
                lambda number, plan=plan, identity=identity, tax=tax: rated(
                    plan, identity, number=number, tax=tax
                ),
                count=arguments.invoices,
            ),
            "rated_and_signed_per_minute": per_minute(
                lambda number, plan=plan, identity=identity, tax=tax: signed(
                    plan, identity, number=number, tax=tax, signer=signer
                ),
                count=arguments.invoices,
            ),
        }
    plan, tax = plans["plan"]
    document = signed(plan, plan_id(plan), number=0, tax=tax, signer=signer)
    found["printed"] = [
        asyncio.run(print_ms(each))
        for each in (document, longer(document, lines=100), longer(document, lines=1000))
    ]
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
