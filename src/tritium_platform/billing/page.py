"""What stands on the printed invoice: every text of it, ready to be set; the template decides only where."""

from __future__ import annotations

from datetime import time
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tritium_platform.billing.decimals import decimal_of, exact_decimal
from tritium_platform.billing.document import interval_of
from tritium_platform.billing.invoice import InvoiceKind
from tritium_platform.billing.line_text import line_title
from tritium_platform.billing.party import Parties, plain_text
from tritium_platform.billing.rating.proration import TICK
from tritium_platform.billing.rating.tax import TaxCode
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium_platform.billing.party import Party, Seller
    from tritium_platform.values import Interval

TITLES = {InvoiceKind.INVOICE: "Invoice", InvoiceKind.CREDIT_NOTE: "Credit note"}
MILLION = 10**6
MOST_PRICE_DIGITS = 8
PERCENT = 100
MIDNIGHT = time()
MOST_PERCENT_DIGITS = 4
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
UNITS = {
    "input_tokens": "tokens",
    "output_tokens": "tokens",
    "embedding_tokens": "tokens",
    "quantized_parameters": "parameters",
    "compute_ms": "ms",
}
TAX_NOTES = {
    TaxCode.REVERSE_CHARGE: "Reverse charge: the customer owes the tax (Directive 2006/112/EC, article 196).",
    TaxCode.NOT_TAXED: "Not subject to VAT.",
}
ADJUSTED = "Lines marked \N{LEFT SINGLE QUOTATION MARK}adjustment\N{RIGHT SINGLE QUOTATION MARK} charge the "
ADJUSTED += "difference that use which was recorded late makes to an earlier month."

RECORD = "This page renders the attached record invoice.json, signed by invoice.note. Its SHA-256 is"
TAX_NAMES = {
    TaxCode.STANDARD: "Tax {rate}",
    TaxCode.ZERO: "Tax {rate}",
    TaxCode.EXEMPT: "Exempt from tax",
    TaxCode.REVERSE_CHARGE: "Reverse charge",
    TaxCode.NOT_TAXED: "Not subject to VAT",
}

Row = tuple[str, str]


def page_of(body: Mapping[str, Any], *, sha256: str) -> dict[str, Any]:
    """Return the texts of a finalized invoice or credit note.

    Args:
        body: what the document says; of any version.
        sha256: the digest of its canonical bytes, in hexadecimal digits.
    """
    parties = Parties.of(body)
    return {
        "title": TITLES[InvoiceKind(body["kind"])],
        "number": body["number"],
        "issued_at": body["issued_at"],
        "currency": body["currency"],
        "seller": _address(parties.seller.party) if parties.seller else [],
        "seller_ids": _ids_of(parties.seller),
        "buyer": _address(parties.buyer) if parties.buyer else [],
        "facts": _facts(body, buyer=parties.buyer),
        "lines": [_line(line, body=body) for line in body["lines"]],
        "totals": _totals(body),
        "due": _due(body),
        "payment": _payment(body, seller=parties.seller),
        "notes": _notes(body, seller=parties.seller),
        "record": RECORD,
        "sha256": sha256,
    }


def grouped(minor: int, *, digits: int) -> str:
    """Write minor units in the major unit, thousands apart: 123456 with 2 digits is 1,234.56."""
    whole, point, rest = decimal_of(minor, digits=digits).partition(".")
    return f"{int(whole):,}{point}{rest}" if minor >= 0 else f"-{int(whole[1:]):,}{point}{rest}"


def _address(party: Party) -> list[str]:
    place = " ".join(each for each in (party.post_code, party.city) if each)
    return [each for each in (party.name, *party.street, place, party.country) if each]


def _ids_of(seller: Seller | None) -> list[str]:
    if seller is None:
        return []
    ids = {
        "VAT id": seller.vat_id,
        "Tax number": seller.tax_number,
        "Registered": seller.registration_id,
        "": seller.party.email,
    }
    return [f"{name} {value}".strip() for name, value in ids.items() if value]


def _facts(body: Mapping[str, Any], *, buyer: Party | None) -> list[Row]:
    month = CalendarMonth.parse(body["period"])
    facts = {
        "Number": body["number"],
        "Date": _day(body["issued_at"]),
        "Due": _day(body["due_at"]) if body["due_at"] else "",
        "Period": f"{MONTHS[month.month - 1]} {month.year}",
        "Corrects": body.get("credits_invoice", ""),
        "Your reference": buyer.reference if buyer else "",
        "Your tax id": body["tax"]["tax_id"],
        "Customer": body["tenant_id"],
    }
    return [(name, plain_text(value)) for name, value in facts.items() if value]


def _line(line: Mapping[str, Any], *, body: Mapping[str, Any]) -> dict[str, str]:
    digits = body["minor_digits"]
    return {
        "title": line_title(line),
        "detail": " \N{MIDDLE DOT} ".join(_details(line, body=body)),
        "quantity": f"{int(line['quantity']):,}" if line.get("meter") else "",
        "tax": _percent(line["tax_rate"]) if "tax_rate" in line else "",
        "net": grouped(line["net_minor"], digits=digits),
    }


def _details(line: Mapping[str, Any], *, body: Mapping[str, Any]) -> list[str]:
    details = []
    if line.get("credits_line"):
        details.append(f"line {line['credits_line']} of {body['credits_invoice']}")
    if line.get("kind") == "adjustment":
        details.append(f"adjustment of {line['period']}")
    if "starts_at" in line:
        details.append(_days(interval_of(line)))
    if line.get("meter"):
        details.append(UNITS.get(line["meter"], line["meter"]))
    if int(line.get("included", 0)):
        details.append(f"{int(line['included']):,} included")
    if line.get("kind") == "charge" and line.get("meter"):
        details += _price(line, body=body)
    if line.get("discount_minor"):
        details.append(f"discount {grouped(line['discount_minor'], digits=body['minor_digits'])}")
    return details


def _price(line: Mapping[str, Any], *, body: Mapping[str, Any]) -> list[str]:
    """Say what a million units came to, if that is a short number."""
    billable = int(line["quantity"]) - int(line["included"])
    if billable <= 0:
        return []
    price = Fraction(line["exact_minor"]) * Fraction(MILLION, billable * 10 ** body["minor_digits"])
    text = exact_decimal(price, most_digits=MOST_PRICE_DIGITS)
    return [] if text is None else [f"{text} {body['currency']} per million"]


def _totals(body: Mapping[str, Any]) -> list[Row]:
    digits = body["minor_digits"]
    rows = [("Net", grouped(body["net_minor"], digits=digits))]
    for tax in body.get("taxes", ()):
        on = grouped(tax["net_minor"], digits=digits)
        name = TAX_NAMES[TaxCode(tax["code"])].format(rate=_percent(tax["rate"]))
        rows.append((f"{name} on {on}", grouped(tax["tax_minor"], digits=digits)))
    if not body.get("taxes"):
        rows.append(("Tax", grouped(body["tax_minor"], digits=digits)))
    rows.append(("Total", grouped(body["total_minor"], digits=digits)))
    drawn = sum(each["amount_minor"] for each in body["credits"])
    if drawn:
        rows.append(("Paid by prepaid credit", grouped(-drawn, digits=digits)))
    if body["total_minor"] < 0:
        rows.append(("Becomes prepaid credit", grouped(-body["total_minor"], digits=digits)))
    return rows


def _due(body: Mapping[str, Any]) -> Row:
    name = "Credited" if body["kind"] == InvoiceKind.CREDIT_NOTE else "Amount due"
    return name, f"{grouped(body['due_minor'], digits=body['minor_digits'])} {body['currency']}"


def _payment(body: Mapping[str, Any], *, seller: Seller | None) -> list[Row]:
    if seller is None or not seller.iban or body["kind"] == InvoiceKind.CREDIT_NOTE or not body["due_minor"]:
        return []
    iban = " ".join(seller.iban[start : start + 4] for start in range(0, len(seller.iban), 4))
    rows = [("Payee", seller.party.name), ("IBAN", iban), ("BIC", seller.bic), ("Reference", body["number"])]
    return [(name, value) for name, value in rows if value]


def _notes(body: Mapping[str, Any], *, seller: Seller | None) -> list[str]:
    codes = {each["code"] for each in body.get("taxes", ())}
    notes = [note for code, note in TAX_NOTES.items() if code in codes]
    if TaxCode.EXEMPT in codes and seller and seller.exemption_reason:
        notes.append(seller.exemption_reason)
    if body.get("reason"):
        notes.append(f"Reason: {body['reason']}")
    if any(line.get("kind") == "adjustment" for line in body["lines"]):
        notes.append(ADJUSTED)
    return [plain_text(each) for each in notes]


def _percent(rate: str) -> str:
    exact = PERCENT * Fraction(rate)
    return f"{exact_decimal(exact, most_digits=MOST_PERCENT_DIGITS) or exact} %"


def _days(interval: Interval) -> str:
    """Say from which day to which, both included; a change within a day is told to the minute."""
    start, end = interval.start.isoformat(), interval.end.isoformat()
    last = _day((interval.end - TICK).isoformat()) if interval.end.time() == MIDNIGHT else _instant(end)
    return f"{_day(start) if interval.start.time() == MIDNIGHT else _instant(start)} to {last}"


def _instant(moment: str) -> str:
    return f"{_day(moment)} {moment[11:16]} UTC"


def _day(moment: str) -> str:
    year, month, day = moment[:10].split("-")
    return f"{int(day)} {MONTHS[int(month) - 1]} {year}"
