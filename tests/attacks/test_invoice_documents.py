"""Hostile text on invoices: it stays text on paper, in XML and in tables, and leaves its neighbours alone."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pypdf
import pytest

from tritium_platform.adapters.invoice_printer import InvoicePrinter
from tritium_platform.billing.cii import write_cii
from tritium_platform.billing.focus import NUMBERS, focus_csv, focus_header
from tritium_platform.billing.invoice import InvoiceDocument
from tritium_platform.billing.party import Party
from tritium_platform.errors import ValidationError
from tritium_platform.values import uuid7

RECORD = Path(__file__).parents[1] / "platform" / "billing" / "golden" / "domestic.json"
# Each would do something if it were taken for markup of typst.
MARKUP = [
    '#panic("owned")',
    '#read("/etc/passwd")',
    "#sys.inputs.page",
    '#eval("1+1")',
    '#import "@preview/x:1.0.0"',
    "#{while true {}}",
    '#pdf.attach("/etc/passwd")',
    '"; #panic("owned"); "',
    '\\"#panic()',
    "*bold* _it_ `raw` $x^2$ = Heading",
    "<label> @reference // comment /* block */",
    "#set page(width: 1pt)",
    "]#panic()[",
    "#include \\u{22}x\\u{22}",
    "{{page}} ${page} %s {0}",
]


def told(**changes):
    body = json.loads(json.loads(RECORD.read_text(encoding="utf-8"))["body"])
    return {**body, **changes}


def document(body):
    data = json.dumps(body, ensure_ascii=False).encode()
    return InvoiceDocument(
        invoice_id=uuid7(),
        tenant_id=uuid7(),
        series="INV",
        sequence=1,
        number=body["number"],
        body=data,
        sha256=hashlib.sha256(data).digest(),
        note=b"note",
        verifier_key="",
    )


def everywhere(text):
    """A record with a text wherever a tenant or an operator can put one."""
    body = told(reason=text)
    lines = [{**line, "cell": [text]} for line in body["lines"]]
    seller = {**body["seller"], "party": {**body["seller"]["party"], "name": text, "street": [text]}}
    tax = {**body["tax"], "tax_id": text}
    return {
        **body,
        "buyer": {**body["buyer"], "name": text, "street": [text, text], "city": text, "reference": text},
        "seller": seller,
        "lines": lines,
        "tax": tax,
    }


async def text_of(body):
    reader = pypdf.PdfReader(io.BytesIO(await InvoicePrinter().pdf(document(body))))
    return reader, "\n".join(page.extract_text() for page in reader.pages).replace("\u200b", "")


async def test_markup_is_set_as_text_wherever_it_stands():
    for text in MARKUP:
        reader, found = await text_of(everywhere(text))
        flat = found.replace("\n", "").replace(" ", "")
        assert flat.count(text.replace(" ", "")) >= 8, text
        assert "root:" not in found
        assert set(reader.attachments) == {"invoice.json", "invoice.note", "factur-x.xml"}
        assert len(reader.pages) <= 2


@pytest.mark.parametrize(
    "text", ["</ram:Name><x/>", "]]>", "<!DOCTYPE x>", "&xxe;", "<![CDATA[", "\"' >", "&#0;"]
)
def test_markup_of_xml_is_text_in_xml(text):
    plain, hostile = (list(ET.fromstring(write_cii(everywhere(each))).iter()) for each in ("x", text))
    assert [each.tag for each in hostile] == [each.tag for each in plain]
    assert sum(each.text == text for each in hostile) >= 8


@pytest.mark.parametrize("letter", ["\0", "\x1b", "\n", "\u202e", "\u2066", "\ufffe", "\x85", "\u2028"])
async def test_what_is_no_letter_is_refused_or_replaced(letter):
    with pytest.raises(ValidationError):
        Party(name=f"Acme{letter}")
    body = told()
    body["lines"][1]["cell"] = [f"model{letter}x"]
    assert letter.encode() not in write_cii(body) or letter == "\n"
    assert "model\ufffdx" in write_cii(body).decode()
    _, found = await text_of(body)
    assert "model\ufffdx" in found


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1+1", "@SUM(A1)", '=HYPERLINK("http://x")'])
def test_no_spreadsheet_takes_a_name_for_a_formula(text):
    rows = list(csv.DictReader(io.StringIO(focus_header() + focus_csv(everywhere(text)))))
    assert rows[1]["x_Cell"].startswith("'")
    for row in rows:
        for name, cell in row.items():
            assert name in NUMBERS or not cell.startswith(("=", "+", "-", "@", "\t", "\r")), (name, cell)


async def test_a_very_long_name_breaks_and_stays_on_the_page():
    body = everywhere("W" * 200)
    reader, found = await text_of(body)
    assert found.replace("\n", "").count("W" * 200) >= 8
    for page in reader.pages:
        right = float(page.mediabox.right)
        ends = []
        page.extract_text(visitor_text=lambda text, _, at, *rest, ends=ends: ends.append(at[4]))
        assert max(ends) < right
