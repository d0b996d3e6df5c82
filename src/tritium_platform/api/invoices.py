"""Invoices of the calling tenant: what they say, and the uses behind every line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from tritium_platform.api.deps import ThePlatform, UsageCaller, tenant_key
from tritium_platform.api.money_schemas import (
    InvoiceDetailOut,
    InvoicePage,
    LineEventOut,
    LineEventPage,
    invoice_out,
)
from tritium_platform.billing.export import write_csv
from tritium_platform.billing.focus import focus_csv, focus_header
from tritium_platform.billing.invoice import InvoiceStatus
from tritium_platform.errors import NotFoundError
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tritium_platform.billing.invoice import Invoice, InvoiceDocument
    from tritium_platform.compose import Platform

router = APIRouter(prefix="/api/v1/invoices", tags=["invoices"], dependencies=[tenant_key])
Limit = Annotated[int, Query(ge=1, le=100)]
Status = Annotated[list[InvoiceStatus] | None, Query(description="Only those in one of these states")]
IfNoneMatch = Annotated[str | None, Header()]
Period = Annotated[str, Query(min_length=7, max_length=7, description="A month such as 2026-11 (UTC)")]
EventLimit = Annotated[int, Query(ge=1, le=1000)]
LineNumber = Annotated[int, Query(ge=1, le=2**31 - 1)]


@router.get("")
async def list_invoices(
    platform: ThePlatform,
    caller: UsageCaller,
    status: Status = None,
    limit: Limit = 20,
    after: UUID | None = None,
) -> InvoicePage:
    """List invoices, drafts and credit notes, newest first."""
    return await page_of(platform, tenant_id=caller.tenant_id, status=status, limit=limit, after=after)


@router.get("/focus.csv", response_class=Response)
async def get_focus(platform: ThePlatform, caller: UsageCaller, period: Period) -> Response:
    """Give cost and usage of a month, as finalized invoices and credit notes say it, as FOCUS 1.2 (CSV)."""
    return focus_of(platform, tenant_id=caller.tenant_id, period=CalendarMonth.parse(period))


@router.get("/{invoice_id}")
async def get_invoice(platform: ThePlatform, caller: UsageCaller, invoice_id: UUID) -> InvoiceDetailOut:
    """Show an invoice: of a draft what it would say now, else its document and the note that signs it."""
    return await detail_of(platform, await platform.desk.invoices.get(invoice_id, tenant_id=caller.tenant_id))


@router.get("/{invoice_id}/document", response_class=Response)
async def get_document(platform: ThePlatform, caller: UsageCaller, invoice_id: UUID) -> Response:
    """Give the canonical bytes of a finalized invoice, as they were signed."""
    invoice = await platform.desk.invoices.get(invoice_id, tenant_id=caller.tenant_id)
    document = await _document(platform, invoice)
    return Response(document.body, media_type="application/json")


@router.get("/{invoice_id}/document.pdf", response_class=Response)
async def get_pdf(
    platform: ThePlatform, caller: UsageCaller, invoice_id: UUID, if_none_match: IfNoneMatch = None
) -> Response:
    """Give a finalized invoice or credit note as PDF/A-3, with its record and XML inside."""
    invoice = await platform.desk.invoices.get(invoice_id, tenant_id=caller.tenant_id)
    return await printed(platform, invoice, suffix="pdf", if_none_match=if_none_match)


@router.get("/{invoice_id}/document.xml", response_class=Response)
async def get_xml(
    platform: ThePlatform, caller: UsageCaller, invoice_id: UUID, if_none_match: IfNoneMatch = None
) -> Response:
    """Give a finalized invoice or credit note as EN 16931 XML (Factur-X, UN/CEFACT CII)."""
    invoice = await platform.desk.invoices.get(invoice_id, tenant_id=caller.tenant_id)
    return await printed(platform, invoice, suffix="xml", if_none_match=if_none_match)


@router.get("/{invoice_id}/csv", response_class=Response)
async def get_csv(platform: ThePlatform, caller: UsageCaller, invoice_id: UUID) -> Response:
    """Give the lines of an invoice as CSV."""
    invoice = await platform.desk.invoices.get(invoice_id, tenant_id=caller.tenant_id)
    text = write_csv(await platform.desk.invoices.body(invoice))
    return Response(text, media_type="text/csv; charset=utf-8")


@router.get("/{invoice_id}/events")
async def get_events(
    platform: ThePlatform,
    *,
    caller: UsageCaller,
    invoice_id: UUID,
    line: LineNumber = 1,
    limit: EventLimit = 100,
    after: UUID | None = None,
) -> LineEventPage:
    """List the uses behind a line of an invoice or credit note; a page may have fewer than `limit`."""
    invoice = await platform.desk.invoices.get(invoice_id, tenant_id=caller.tenant_id)
    return await events_of(platform, invoice, line=line, limit=limit, after=after)


async def events_of(
    platform: Platform, invoice: Invoice, *, line: int, limit: int, after: UUID | None
) -> LineEventPage:
    """Return a page of the uses behind a line."""
    events, next_after = await platform.desk.invoices.line_events(
        invoice, number=line, limit=limit, after=after
    )
    return LineEventPage(
        events=[
            LineEventOut(
                usage_id=event.usage_id,
                source=event.source,
                event_id=event.event_id,
                occurred_at=event.occurred_at,
                quantity=str(event.quantity),
            )
            for event in events
        ],
        next_after=next_after,
    )


def focus_of(platform: Platform, *, tenant_id: UUID | None, period: CalendarMonth) -> Response:
    """Answer with the FOCUS rows of a month, document by document as they are read."""

    async def rows() -> AsyncIterator[str]:
        yield focus_header()
        async for body in platform.desk.invoices.documents(tenant_id=tenant_id, period=period):
            yield focus_csv(body)

    headers = {"content-disposition": f'attachment; filename="focus-{period}.csv"'}
    return StreamingResponse(rows(), media_type="text/csv; charset=utf-8", headers=headers)


async def printed(
    platform: Platform, invoice: Invoice, *, suffix: Literal["pdf", "xml"], if_none_match: str | None
) -> Response:
    """Answer with an invoice as PDF or XML; it is worked out only for who does not have it yet."""
    document = await _document(platform, invoice)
    # The record decides every byte; a number is made of letters, digits and dashes.
    headers = {
        "etag": f'"{document.sha256.hex()}.{suffix}"',
        "content-disposition": f'inline; filename="{document.number}.{suffix}"',
        "cache-control": "private, no-cache",
    }
    if if_none_match == headers["etag"]:
        return Response(status_code=304, headers=headers)
    make = platform.printer.pdf if suffix == "pdf" else platform.printer.xml
    return Response(await make(document), media_type=f"application/{suffix}", headers=headers)


async def _document(platform: Platform, invoice: Invoice) -> InvoiceDocument:
    document = await platform.desk.books.invoices.document(invoice.id)
    if document is None:
        raise NotFoundError("A draft has no document yet.")
    return document


async def page_of(
    platform: Platform,
    *,
    tenant_id: UUID | None,
    status: list[InvoiceStatus] | None,
    limit: int,
    after: UUID | None,
) -> InvoicePage:
    """Return a page of invoices."""
    found = await platform.desk.invoices.list(
        tenant_id=tenant_id, statuses=status or (), limit=limit, after=after
    )
    return InvoicePage(
        invoices=[invoice_out(each) for each in found],
        next_after=found[-1].id if len(found) == limit else None,
    )


async def detail_of(platform: Platform, invoice: Invoice) -> InvoiceDetailOut:
    """Return an invoice with what it says."""
    document = await platform.desk.books.invoices.document(invoice.id)
    return InvoiceDetailOut(
        invoice=invoice_out(invoice),
        document=await platform.desk.invoices.body(invoice),
        sha256=document.sha256.hex() if document else None,
        note=document.note.decode() if document else None,
        verifier_key=document.verifier_key if document else None,
    )
