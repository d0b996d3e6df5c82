"""Invoices as CSV: one row per line, amounts in minor units."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

OF_THE_INVOICE = ("number", "id", "tenant_id", "kind", "currency", "minor_digits", "issued_at", "due_at")
OF_A_LINE = (
    "number",
    "kind",
    "period",
    "charge",
    "meter",
    "tier",
    "cell",
    "quantity",
    "included",
    "exact_minor",
    "amount_minor",
    "discount_minor",
    "net_minor",
    "tax_minor",
    "starts_at",
    "ends_at",
)
# Spreadsheets take what begins like this for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_csv(body: Mapping[str, Any]) -> str:
    """Write the lines of an invoice; the columns of a line begin with `line_`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([f"invoice_{name}" for name in OF_THE_INVOICE] + [f"line_{name}" for name in OF_A_LINE])
    for line in body["lines"]:
        cells = [body.get(name) for name in OF_THE_INVOICE] + [line.get(name) for name in OF_A_LINE]
        writer.writerow([_cell(each) for each in cells])
    return text.getvalue()


def _cell(value: object) -> str | int:
    if value is None:
        return ""
    if isinstance(value, int):
        return value
    text = " / ".join(map(str, value)) if isinstance(value, list) else str(value)
    is_number = text.removeprefix("-").replace("/", "").isdigit()
    return text if is_number else text_cell(text)


def text_cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text
