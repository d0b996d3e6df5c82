"""Says in a PDF's metadata that it carries an invoice for computers, as Factur-X asks; typst does not.

The metadata is written anew behind the end of the file, as PDF provides for changes (ISO 32000-1, 7.5.6);
nothing before it changes. PDF/A wants the properties described beside them (ISO 19005-3, 6.6.2.3).
"""

from __future__ import annotations

import re

NAMESPACE = "urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#"
FILE_NAME = "factur-x.xml"
PROPERTIES = {
    "DocumentType": ("INVOICE", "The type of the attached document"),
    "DocumentFileName": (FILE_NAME, "The name of the attached document"),
    "Version": ("1.0", "The version of the schema of the attached document"),
    "ConformanceLevel": ("EN 16931", "The profile of the attached document"),
}
_SCHEMAS_END = b"</rdf:Bag></pdfaExtension:schemas>"
_END = b"</rdf:RDF>"
_TAIL = re.compile(rb"trailer\s+<<(?P<trailer>.*)>>\s+startxref\s+(?P<start>\d+)\s+%%EOF\s*\Z", re.DOTALL)
_STREAM = re.compile(rb"\d+ 0 obj\s+<</Length (\d+)/Type/Metadata/Subtype/XML>>\s+stream\r?\n")
_ENTRY_BYTES = 20


def add_factur_x_facts(pdf: bytes) -> bytes:
    """Return a PDF that typst wrote with the facts added; ValueError if it is not built as expected."""
    tail = _TAIL.search(pdf, pdf.rfind(b"trailer"))
    if tail is None:
        raise ValueError("the PDF has no table of its objects")
    start = int(tail["start"])
    root = _reference(b"Root", tail["trailer"])
    number = _reference(b"Metadata", pdf[_offset(pdf, start, root) :])
    stream = _STREAM.match(pdf, _offset(pdf, start, number))
    if stream is None:
        raise ValueError("the PDF has no metadata in the clear")
    metadata = _extended(pdf[stream.end() : stream.end() + int(stream[1])])
    changed = b"%d 0 obj\n<</Length %d/Type/Metadata/Subtype/XML>>\nstream\n%s\nendstream\nendobj\n"
    body = changed % (number, len(metadata), metadata)
    at, table = len(pdf), len(pdf) + len(body)
    entries = b"xref\n0 1\n0000000000 65535 f \n%d 1\n%010d 00000 n \n" % (number, at)
    end = b"trailer\n<<%s/Prev %d>>\nstartxref\n%d\n%%%%EOF\n" % (tail["trailer"], start, table)
    return pdf + body + entries + end


def _reference(name: bytes, dictionary: bytes) -> int:
    found = re.search(rb"/" + name + rb" (\d+) 0 R", dictionary)
    if found is None:
        raise ValueError(f"the PDF does not say which object is its {name.decode()}")
    return int(found[1])


def _offset(pdf: bytes, start: int, number: int) -> int:
    """Look up in the table of objects (ISO 32000-1, 7.5.4) where one begins."""
    head = re.compile(rb"xref\s+0 (\d+)\s*\n").match(pdf, start)
    if head is None or number >= int(head[1]):
        raise ValueError("the PDF has no table of its objects")
    at = head.end() + number * _ENTRY_BYTES
    return int(pdf[at : at + 10])


def _extended(metadata: bytes) -> bytes:
    if metadata.count(_SCHEMAS_END) != 1 or metadata.count(_END) != 1:
        raise ValueError("the PDF's metadata is not built as expected")
    values = "".join(f"<fx:{name}>{value}</fx:{name}>" for name, (value, _) in PROPERTIES.items())
    described = "".join(
        '<rdf:li rdf:parseType="Resource"><pdfaProperty:category>external</pdfaProperty:category>'
        f"<pdfaProperty:description>{text}</pdfaProperty:description>"
        f"<pdfaProperty:name>{name}</pdfaProperty:name><pdfaProperty:valueType>Text</pdfaProperty:valueType></rdf:li>"
        for name, (_, text) in PROPERTIES.items()
    )
    schema = (
        '<rdf:li rdf:parseType="Resource"><pdfaSchema:schema>Factur-X</pdfaSchema:schema>'
        f"<pdfaSchema:namespaceURI>{NAMESPACE}</pdfaSchema:namespaceURI><pdfaSchema:prefix>fx</pdfaSchema:prefix>"
        f"<pdfaSchema:property><rdf:Seq>{described}</rdf:Seq></pdfaSchema:property></rdf:li>"
    )
    facts = f'<rdf:Description rdf:about="" xmlns:fx="{NAMESPACE}">{values}</rdf:Description>'
    return metadata.replace(_SCHEMAS_END, schema.encode() + _SCHEMAS_END).replace(_END, facts.encode() + _END)
