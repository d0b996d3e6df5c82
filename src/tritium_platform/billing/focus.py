"""Finalized invoices as a FOCUS 1.2 dataset: cost and usage as programs for cloud costs read it.

One row per line and one per tax: the billed costs of a document sum to its total; a credit note's are below
zero. Source: FinOps Open Cost and Usage Specification 1.2, columns and attributes.
"""

from __future__ import annotations

import csv
import io
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tritium_platform.billing.decimals import decimal_of
from tritium_platform.billing.document import interval_of
from tritium_platform.billing.export import text_cell
from tritium_platform.billing.invoice import InvoiceKind
from tritium_platform.billing.line_text import line_title
from tritium_platform.billing.party import Parties
from tritium_platform.billing.rating.plan import COMMITMENT
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium_platform.values import Interval

SERVICE = "Tritium"
NUMBERS = (
    *("BilledCost", "ConsumedQuantity", "ContractedCost", "EffectiveCost", "ListCost", "PricingQuantity"),
    *("x_IncludedQuantity", "x_EventCount", "x_InvoiceLine"),
)
COLUMNS = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceId",
    "InvoiceIssuerName",
    "ListCost",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceId",
    "x_InvoiceLine",
    "x_Cell",
    "x_Tier",
    "x_IncludedQuantity",
    "x_EventCount",
    "x_EventsSha256",
    "x_TaxCode",
)
# The unit of a meter, and how many decimals a count of its smallest ones has in it.
UNITS = {
    "input_tokens": ("Tokens", 0),
    "output_tokens": ("Tokens", 0),
    "embedding_tokens": ("Tokens", 0),
    "quantized_parameters": ("Parameters", 0),
    "compute_ms": ("Seconds", 3),
}
A_MONTH = ("Months", "1")


def focus_rows(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the rows of a finalized document by column; what has no value is not there."""
    rows = [_line_row(line, body=body) for line in body["lines"]]
    taxes = body.get("taxes") or [{"code": "", "rate": "", "tax_minor": body["tax_minor"]}]
    return rows + [_tax_row(tax, body=body) for tax in taxes if tax["tax_minor"]]


def focus_header() -> str:
    """Return the first line of the CSV."""
    return ",".join(COLUMNS) + "\r\n"


def focus_csv(body: Mapping[str, Any]) -> str:
    """Return the rows of a document as CSV, without the header; an empty field is no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    for row in focus_rows(body):
        cells = ((name, row.get(name, "")) for name in COLUMNS)
        writer.writerow([cell if name in NUMBERS else text_cell(cell) for name, cell in cells])
    return text.getvalue()


def _of_the_document(body: Mapping[str, Any]) -> dict[str, str]:
    parties = Parties.of(body)
    issuer = parties.seller.party.name if parties.seller else SERVICE
    issued = datetime.fromisoformat(body["issued_at"])
    return {
        "BillingAccountId": body["tenant_id"],
        **({"BillingAccountName": parties.buyer.name} if parties.buyer else {}),
        "BillingCurrency": body["currency"],
        # A credit note belongs to the month in which it was written.
        **_span(
            "Billing",
            (CalendarMonth.of(issued) if _is_credit(body) else CalendarMonth.parse(body["period"])).interval,
        ),
        "InvoiceId": body["number"],
        "InvoiceIssuerName": issuer,
        "ProviderName": issuer,
        "PublisherName": issuer,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": SERVICE,
        "ServiceSubcategory": "Generative AI",
    }


def _line_row(line: Mapping[str, Any], *, body: Mapping[str, Any]) -> dict[str, str]:
    is_correction = _is_credit(body) or line.get("kind") == "adjustment"
    return {
        **_of_the_document(body),
        **_span("Charge", interval_of(line)),
        **_costs(line["net_minor"], before=line.get("amount_minor", line["net_minor"]), body=body),
        **_kind(line),
        **_quantities(line),
        **({"ChargeClass": "Correction"} if is_correction else {}),
        "ChargeDescription": line_title(line),
        "PricingCategory": "Standard",
        "SkuId": line.get("meter") or line["charge"],
        "SkuMeter": line.get("meter") or line["charge"],
        "SkuPriceId": f"{line.get('plan_id') or body['plan_id']}/{line['charge']}",
        "x_InvoiceLine": str(line["number"]),
        "x_Cell": " / ".join(line.get("cell", ())),
        "x_Tier": line.get("tier") or "",
        "x_TaxCode": line.get("tax_code", ""),
    }


def _tax_row(tax: Mapping[str, Any], *, body: Mapping[str, Any]) -> dict[str, str]:
    return {
        **_of_the_document(body),
        **_span("Charge", CalendarMonth.parse(body["period"]).interval),
        **_costs(tax["tax_minor"], before=tax["tax_minor"], body=body),
        **({"ChargeClass": "Correction"} if _is_credit(body) else {}),
        "ChargeCategory": "Tax",
        "ChargeFrequency": "Recurring",
        "ChargeDescription": f"Tax {tax['rate']}".strip(),
        "x_TaxCode": tax["code"],
    }


def _costs(minor: int, *, before: int, body: Mapping[str, Any]) -> dict[str, str]:
    """Return the four costs; only the list's is before discounts."""
    sign = -1 if _is_credit(body) else 1
    cost, listed = (decimal_of(sign * each, digits=body["minor_digits"]) for each in (minor, before))
    return {**dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost"), cost), "ListCost": listed}


def _kind(line: Mapping[str, Any]) -> dict[str, str]:
    if line["charge"] == COMMITMENT:
        return {"ChargeCategory": "Adjustment", "ChargeFrequency": "Recurring"}
    if line.get("meter"):
        return {"ChargeCategory": "Usage", "ChargeFrequency": "Usage-Based"}
    return {"ChargeCategory": "Purchase", "ChargeFrequency": "Recurring"}


def _quantities(line: Mapping[str, Any]) -> dict[str, str]:
    """Return what was counted; of a line of a credit note nothing was."""
    if "quantity" not in line or line["charge"] == COMMITMENT:
        return {}
    if not line["meter"]:
        return dict(zip(("PricingUnit", "PricingQuantity"), A_MONTH, strict=True))
    unit, digits = UNITS[line["meter"]]
    quantity, included = int(line["quantity"]), int(line["included"])
    events = line.get("events", {"count": "", "sha256": ""})
    return {
        "ConsumedQuantity": decimal_of(quantity, digits=digits),
        "ConsumedUnit": unit,
        "PricingQuantity": decimal_of(quantity - included, digits=digits),
        "PricingUnit": unit,
        "x_IncludedQuantity": decimal_of(included, digits=digits),
        "x_EventCount": events["count"],
        "x_EventsSha256": events["sha256"],
    }


def _span(name: str, interval: Interval) -> dict[str, str]:
    start, end = (each.strftime("%Y-%m-%dT%H:%M:%SZ") for each in (interval.start, interval.end))
    return {f"{name}PeriodStart": start, f"{name}PeriodEnd": end}


def _is_credit(body: Mapping[str, Any]) -> bool:
    return bool(body["kind"] == InvoiceKind.CREDIT_NOTE)
