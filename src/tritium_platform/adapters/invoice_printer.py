"""Invoices as PDF/A-3a and PDF/UA-1, set by typst in a child process: bounded in time, memory and number.

The PDF is worked out from the signed record and nothing else, and the same record gives the same bytes. It
carries the record, its signature and, where the facts are there, the EN 16931 XML.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritium_platform.adapters.factur_x import FILE_NAME, add_factur_x_facts
from tritium_platform.billing.cii import missing_facts, write_cii
from tritium_platform.billing.document import read_body
from tritium_platform.billing.page import page_of
from tritium_platform.errors import (
    ConflictError,
    DeadlineExceededError,
    MissingExtraError,
    OverloadedError,
    ProcessingError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium_platform.billing.invoice import InvoiceDocument

_MODULE = "tritium_platform.worker.document_main"
_TEMPLATES = Path(__file__).parent / "templates"
# Which template sets which version of the record.
LAYOUTS = {"tritium.invoice.v1": "invoice.v2.typ", "tritium.invoice.v2": "invoice.v2.typ"}
MOST_LINES = 2_000
MOST_WAITING = 32
SECONDS = 60.0
_AT_ONCE = 2
_NO_GLYPH = re.compile(r"the text `\"(?P<text>.{1,20}?)\"` could not be displayed")


class InvoicePrinter:
    """Prints finalized invoices and credit notes.

    Args:
        fonts: a directory of fonts for what the built-in ones lack; as long as it only grows, what was
            printed before comes out the same.
        seconds: how long one may take.
    """

    def __init__(self, *, fonts: Path | None = None, seconds: float = SECONDS) -> None:
        self._fonts = fonts
        self._seconds = seconds
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0

    async def pdf(self, document: InvoiceDocument) -> bytes:
        """Return the PDF of a document.

        Raises:
            MissingExtraError: typst is not installed.
            ConflictError: it has too many lines, or letters that no font has.
            OverloadedError: too many others wait.
            DeadlineExceededError: it took too long.
        """
        if importlib.util.find_spec("typst") is None:
            raise MissingExtraError(extra="invoices", feature="An invoice as PDF")
        if self._waiting >= MOST_WAITING:
            raise OverloadedError("Too many documents are being printed: try again in a moment.")
        self._waiting += 1
        try:
            async with self._gate:
                wish, has_xml = await asyncio.to_thread(_wish, document, fonts=self._fonts)
                made = await self._set(wish)
        finally:
            self._waiting -= 1
        return add_factur_x_facts(made) if has_xml else made

    async def xml(self, document: InvoiceDocument) -> bytes:
        """Return the EN 16931 XML of a document; ConflictError if it lacks facts or has too many lines."""
        return await asyncio.to_thread(_xml, document)

    async def _set(self, wish: Mapping[str, Any]) -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", _MODULE),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            made, errors = await asyncio.wait_for(
                process.communicate(json.dumps(wish).encode()), self._seconds
            )
        except TimeoutError:
            raise DeadlineExceededError(operation="printing an invoice") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise _refusal(errors.decode(errors="replace"))
        return made


def _wish(document: InvoiceDocument, *, fonts: Path | None) -> tuple[dict[str, Any], bool]:
    """Return what the child process is told, and whether the XML is in it."""
    body = _read(document)
    sha256 = document.sha256.hex()
    files = [
        _file("invoice.json", document.body.decode(), "source", "application/json", "The signed record"),
        _file(
            "invoice.note", document.note.decode(), "supplement", "text/plain", "The signature of the record"
        ),
    ]
    has_xml = not missing_facts(body)
    if has_xml:
        xml = write_cii(body).decode()
        files.append(_file(FILE_NAME, xml, "alternative", "text/xml", "The invoice by EN 16931"))
    wish = {
        "template": str(_TEMPLATES / LAYOUTS[body["schema"]]),
        "page": json.dumps(page_of(body, sha256=sha256)),
        "attachments": json.dumps(files),
        "timestamp": int(datetime.fromisoformat(body["issued_at"]).timestamp()),
        "fonts": str(fonts) if fonts else None,
    }
    return wish, has_xml


def _xml(document: InvoiceDocument) -> bytes:
    return write_cii(_read(document))


def _read(document: InvoiceDocument) -> dict[str, Any]:
    body = read_body(document.body)
    if len(body["lines"]) > MOST_LINES:
        raise ConflictError(
            f"{document.number} has {len(body['lines'])} lines: printed are invoices of up to {MOST_LINES}. "
            "Its record and the CSV have them all.",
            field="document",
        )
    return body


def _file(name: str, text: str, relationship: str, mime_type: str, description: str) -> dict[str, str]:
    return {
        "name": name,
        "text": text,
        "relationship": relationship,
        "mime_type": mime_type,
        "description": description,
    }


def _refusal(message: str) -> ConflictError | ProcessingError:
    glyph = _NO_GLYPH.search(message)
    if glyph is not None:
        return ConflictError(
            f"No font has the letter '{glyph['text']}': put one that has it into a directory and name "
            "that in the setting invoice_fonts.",
            field="document",
        )
    reason = message.strip().splitlines()[-1:]
    return ProcessingError(f"The invoice cannot be printed: {' '.join(reason)[:200]}")
