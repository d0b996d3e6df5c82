"""The printed invoice: the same bytes from the same record, read by people, programs and screen readers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import re
from pathlib import Path

import facturx
import fontpkg_noto_sans_thai
import psutil
import pypdf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from tritium_platform.adapters.factur_x import NAMESPACE, add_factur_x_facts
from tritium_platform.adapters.invoice_printer import MOST_LINES, InvoicePrinter
from tritium_platform.audit.note import NoteVerifier
from tritium_platform.billing.cii import missing_facts
from tritium_platform.billing.invoice import InvoiceDocument
from tritium_platform.billing.page import grouped, page_of
from tritium_platform.errors import ConflictError, DeadlineExceededError, MissingExtraError, OverloadedError
from tritium_platform.values import CalendarMonth, uuid7

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.json") if path.stem != "digests")
DIGESTS = json.loads((GOLDEN / "digests.json").read_text())
THAI = Path(fontpkg_noto_sans_thai.__file__).parent / "files"


def record(name, **changes):
    """A document as it was finalized once; with changes it is another one, of the same signature."""
    kept = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    data = kept["body"].encode()
    if changes:
        data = json.dumps({**json.loads(data), **changes}, ensure_ascii=False).encode()
    number = json.loads(data)["number"]
    return InvoiceDocument(
        invoice_id=uuid7(),
        tenant_id=uuid7(),
        series=number[:3].strip("-"),
        sequence=1,
        number=number,
        body=data,
        sha256=hashlib.sha256(data).digest(),
        note=kept["note"].encode(),
        verifier_key="",
    )


def open_pdf(data):
    return pypdf.PdfReader(io.BytesIO(data), strict=True)


def text_of(data):
    text = "\n".join(page.extract_text() for page in open_pdf(data).pages)
    return text.replace("\u200b", "")


@pytest.fixture(scope="module")
def printed():
    """The golden set, printed: by name, (what the record says, PDF)."""

    async def work():
        printer, records = InvoicePrinter(), {name: record(name) for name in NAMES}
        made = await asyncio.gather(*(printer.pdf(each) for each in records.values()))
        return {
            name: (json.loads(each.body), pdf)
            for (name, each), pdf in zip(records.items(), made, strict=True)
        }

    return asyncio.run(work())


@pytest.mark.parametrize("name", NAMES)
async def test_the_bytes_are_those_of_the_day_it_was_first_printed(printed, name):
    body, pdf = printed[name]
    digests = {"pdf": hashlib.sha256(pdf).hexdigest()}
    if not missing_facts(body):
        digests["xml"] = hashlib.sha256(await InvoicePrinter().xml(record(name))).hexdigest()
    assert digests == DIGESTS[name]


async def test_another_time_it_is_the_same(printed):
    assert await InvoicePrinter().pdf(record("domestic")) == printed["domestic"][1]
    assert await InvoicePrinter(fonts=THAI).pdf(record("domestic")) == printed["domestic"][1]


@pytest.mark.parametrize("name", NAMES)
def test_the_text_says_what_the_record_says(printed, name):
    body, pdf = printed[name]
    text = text_of(pdf)
    digits = body["minor_digits"]
    assert f"Net {grouped(body['net_minor'], digits=digits)}\n" in text
    assert f"Total {grouped(body['total_minor'], digits=digits)}\n" in text
    due = f"{grouped(body['due_minor'], digits=digits)} {body['currency']}"
    assert re.search(rf"(Amount due|Credited) {re.escape(due)}", text)
    for line in body["lines"]:
        assert grouped(line["net_minor"], digits=digits) in text
    taxes = [grouped(each["tax_minor"], digits=digits) for each in body.get("taxes", ())]
    assert all(re.search(rf" on [\d,.-]+ {re.escape(tax)}\n", text) for tax in taxes)
    assert (
        hashlib.sha256(json.loads((GOLDEN / f"{name}.json").read_text())["body"].encode()).hexdigest() in text
    )
    assert body["number"] in text


@pytest.mark.parametrize("name", NAMES)
def test_it_claims_and_has_what_pdf_a_3a_and_pdf_ua_1_ask_for(printed, name):
    body, pdf = printed[name]
    reader = open_pdf(pdf)
    root = reader.trailer["/Root"]
    metadata = root["/Metadata"].get_object().get_data().decode()
    claims = {"pdfaid:part": "3", "pdfaid:conformance": "A", "pdfuaid:part": "1"}
    assert all(f"<{tag}>{value}</{tag}>" in metadata for tag, value in claims.items())
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"] == "en"
    assert root["/ViewerPreferences"]["/DisplayDocTitle"]
    assert root["/OutputIntents"]
    assert reader.metadata.title.endswith(body["number"])
    assert f"<xmp:CreateDate>{body['issued_at'][:19]}" in metadata
    tags = list(structure(root["/StructTreeRoot"]))
    assert tags.count("/H1") == 1
    assert tags.count("/Table") == 1
    assert tags.count("/TR") == len(body["lines"]) + 1
    assert tags.count("/TH") == 4
    fonts = [font.get_object() for page in reader.pages for font in page["/Resources"]["/Font"].values()]
    for font in fonts:
        descriptor = font["/DescendantFonts"][0].get_object()["/FontDescriptor"].get_object()
        assert {"/FontFile2", "/FontFile3"} & set(descriptor)  # embedded
        assert "/ToUnicode" in font


def structure(element):
    element = element.get_object()
    if isinstance(element, pypdf.generic.DictionaryObject):
        if "/S" in element:
            yield element["/S"]
        element = element.get("/K", [])
    if isinstance(element, pypdf.generic.ArrayObject):
        for each in element:
            yield from structure(each)
    elif isinstance(element, pypdf.generic.DictionaryObject):
        yield from structure(element)


@pytest.mark.parametrize("name", NAMES)
def test_it_carries_the_record_the_signature_and_the_xml(printed, name):
    body, pdf = printed[name]
    reader = open_pdf(pdf)
    files = {each.get_object()["/F"]: each.get_object() for each in reader.trailer["/Root"]["/AF"]}
    relations = {file: each["/AFRelationship"] for file, each in files.items()}
    kept = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert reader.attachments["invoice.json"] == [kept["body"].encode()]
    assert reader.attachments["invoice.note"] == [kept["note"].encode()]
    expected = {"invoice.json": "/Source", "invoice.note": "/Supplement"}
    if not missing_facts(body):
        expected["factur-x.xml"] = "/Alternative"
        assert files["factur-x.xml"]["/EF"]["/F"].get_object()["/Subtype"] == "/text/xml"
        found, xml = facturx.get_xml_from_pdf(pdf, check_xsd=True)
        assert found == "factur-x.xml"
        assert reader.attachments["factur-x.xml"] == [xml]
        assert facturx.get_level(etree.fromstring(xml)) == "en16931"
    assert relations == expected
    facts = etree.fromstring(reader.trailer["/Root"]["/Metadata"].get_object().get_data())
    said = {etree.QName(each).localname: each.text for each in facts.iter(f"{{{NAMESPACE}}}*")}
    assert said == (
        {
            "DocumentType": "INVOICE",
            "DocumentFileName": "factur-x.xml",
            "Version": "1.0",
            "ConformanceLevel": "EN 16931",
        }
        if not missing_facts(body)
        else {}
    )
    # PDF/A: every property of a schema of one's own is described.
    if said:
        described = facts.findtext(f".//{{*}}namespaceURI[.='{NAMESPACE}']/../{{*}}prefix")
        names = facts.findall(f".//{{*}}namespaceURI[.='{NAMESPACE}']/..//{{*}}name")
        assert (described, {each.text for each in names}) == ("fx", set(said))


async def test_what_lies_in_the_pdf_proves_itself(make_shop):
    shop = make_shop()
    await shop.sign(
        {
            "name": "p",
            "currency": "USD",
            "charges": [{"name": "seat", "price": {"kind": "flat", "amount": "9.00 USD"}}],
        }
    )
    invoice, _ = await shop.bill(CalendarMonth(2026, 9))
    document = await shop.desk.books.invoices.document(invoice.id)
    inside = open_pdf(await InvoicePrinter().pdf(document)).attachments
    verifier = NoteVerifier.from_vkey(document.verifier_key)
    text = verifier.open_note(inside["invoice.note"][0])
    digest = base64.b64encode(hashlib.sha256(inside["invoice.json"][0]).digest()).decode()
    assert text.splitlines()[1:] == [invoice.number, digest]


def test_a_long_invoice_repeats_its_head_on_every_page(printed):
    _, pdf = printed["long"]
    pages = [page.extract_text() for page in open_pdf(pdf).pages]
    assert len(pages) >= 3
    assert all("Description" in page for page in pages[:-1])
    assert all(f"Page {number} of {len(pages)}" in page for number, page in enumerate(pages, start=1))


async def test_a_line_of_a_part_of_a_month_says_its_days():
    lines = json.loads(record("domestic").body)["lines"]
    part = {"starts_at": "2026-09-01T00:00:00.000000Z", "ends_at": "2026-09-17T12:00:00.000000Z"}
    made = await InvoicePrinter().pdf(record("domestic", lines=[{**lines[0], **part}, *lines[1:]]))
    text = " ".join(text_of(made).split())
    assert text.count("1 September 2026 to 17 September 2026 12:00 UTC") == 1


async def test_letters_that_no_font_has_are_named_and_a_font_helps():
    buyer = {**json.loads(record("domestic").body)["buyer"], "name": "บริษัท ตัวอย่าง"}
    with pytest.raises(ConflictError, match="invoice_fonts") as caught:
        await InvoicePrinter().pdf(record("domestic", buyer=buyer))
    assert "'บ'" in caught.value.message
    assert "ตัวอย่าง"[:2] in text_of(await InvoicePrinter(fonts=THAI).pdf(record("domestic", buyer=buyer)))


async def test_hebrew_and_arabic_need_no_other_font(printed):
    assert "عالم" in text_of(printed["long"][1]) or "ملاع" in text_of(printed["long"][1])


async def test_too_many_lines_are_refused_before_any_work():
    (line, *_) = json.loads(record("domestic").body)["lines"]
    with pytest.raises(ConflictError, match=str(MOST_LINES)):
        await InvoicePrinter().pdf(record("domestic", lines=[line] * (MOST_LINES + 1)))


async def test_what_takes_too_long_is_ended():
    with pytest.raises(DeadlineExceededError):
        await InvoicePrinter(seconds=0.001).pdf(record("domestic"))
    mine = [child.cmdline() for child in psutil.Process().children()]
    assert not any("tritium_platform.worker.document_main" in words for words in mine)


async def test_too_many_that_wait_are_refused(monkeypatch):
    monkeypatch.setattr("tritium_platform.adapters.invoice_printer.MOST_WAITING", 1)
    printer = InvoicePrinter()
    first = asyncio.create_task(printer.pdf(record("domestic")))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await printer.pdf(record("domestic"))
    assert await first
    assert await printer.pdf(record("domestic"))


async def test_without_typst_the_answer_names_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"tritium\[invoices\]"):
        await InvoicePrinter().pdf(record("domestic"))


@pytest.mark.parametrize("broken", [b"", b"%PDF-1.7", b"trailer\n<</Root 1 0 R>>\nstartxref\n9\n%%EOF"])
def test_a_pdf_of_another_build_is_refused(broken):
    with pytest.raises(ValueError, match="the PDF"):
        add_factur_x_facts(broken)


@given(st.integers(-(10**15), 10**15), st.sampled_from([0, 2, 3]))
def test_thousands_stand_apart_and_nothing_else_changes(minor, digits):
    text = grouped(minor, digits=digits)
    assert int(text.replace(",", "").replace(".", "")) == minor
    assert re.fullmatch(rf"-?\d{{1,3}}(,\d{{3}})*(\.\d{{{digits}}})?", text)


def test_a_rate_is_said_in_full_or_as_a_fraction():
    body = json.loads(record("domestic").body)
    line = {**body["lines"][0], "tax_rate": "1/3"}
    page = page_of({**body, "lines": [line]}, sha256="")
    assert page["lines"][0]["tax"] == "100/3 %"
