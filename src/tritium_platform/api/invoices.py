"""Invoices of the calling tenant: what they say, and the uses behind every line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from tritium_platform.api.deps import ThePlatform, UsageCaller, tenant_key
from tritium_platform.api.money_schemas import (
    InvoiceDetailOut,
    InvoicePage,
    LineEventOut,
    LineEventPage,
    invoice_out,
)
from tritium_platform.billing.export import write_csv
from tritium_platform.billing.invoice import InvoiceStatus
from tritium_platform.errors import NotFoundError

if TYPE_CHECKING:
    from tritium_platform.billing.invoice import Invoice
    from tritium_platform.compose import Platform

router = APIRouter(prefix="/api/v1/invoices", tags=["invoices"], dependencies=[tenant_key])
Limit = Annotated[int, Query(ge=1, le=100)]
Status = Annotated[list[InvoiceStatus] | None, Query(description="Only those in one of these states")]
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


@router.get("/{invoice_id}")
async def get_invoice(platform: ThePlatform, caller: UsageCaller, invoice_id: UUID) -> InvoiceDetailOut:
    """Show an invoice: of a draft what it would say now, else its document and the note that signs it."""
    return await detail_of(platform, await platform.desk.invoices.get(invoice_id, tenant_id=caller.tenant_id))


@router.get("/{invoice_id}/document", response_class=Response)
async def get_document(platform: ThePlatform, caller: UsageCaller, invoice_id: UUID) -> Response:
    """Give the canonical bytes of a finalized invoice, as they were signed."""
    invoice = await platform.desk.invoices.get(invoice_id, tenant_id=caller.tenant_id)
    document = await platform.desk.books.invoices.document(invoice.id)
    if document is None:
        raise NotFoundError("A draft has no document yet.")
    return Response(document.body, media_type="application/json")


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
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: UUID | None = None,
) -> LineEventPage:
    """List the uses that a line of a finalized invoice charges; a page may have fewer than `limit`."""
    invoice = await platform.desk.invoices.get(invoice_id, tenant_id=caller.tenant_id)
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
