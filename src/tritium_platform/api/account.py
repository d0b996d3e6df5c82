"""Who the caller is, what is left of its limits, what it used and what that costs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from msgspec import structs

from tritium_platform.api import schemas
from tritium_platform.api.deps import Caller, ThePlatform, UsageCaller, tenant_key
from tritium_platform.api.insight_schemas import health_out
from tritium_platform.api.spend_schemas import spend_cap_out
from tritium_platform.billing.rating.per_unit import UnitPrice
from tritium_platform.values import CalendarMonth, Clock

if TYPE_CHECKING:
    from datetime import datetime

    from tritium_platform.billing.drafting import DraftLine
    from tritium_platform.billing.invoices import Preview
    from tritium_platform.metering.model import UsageRecord
    from tritium_platform.quotas.model import QuotaCounter

router = APIRouter(prefix="/api/v1", tags=["account"], dependencies=[tenant_key])
Period = Annotated[str | None, Query(description="A month such as 2026-11 (UTC); the current one by default")]


@router.get("/account")
async def get_account(platform: ThePlatform, caller: Caller) -> schemas.AccountOut:
    """Show the caller's tenant, tier, limits and what is left of them."""
    month = await platform.books.quotas.usage_of_month(caller)
    storage = await platform.books.quotas.storage.usage(caller)
    health = await platform.scores.score(caller.tenant_id)
    spend = await platform.spending.status(caller.tenant_id)
    return schemas.AccountOut(
        tenant_id=caller.tenant_id,
        organization_name=caller.organization_name,
        tier=caller.tier,
        key_id=caller.key_id,
        scopes=sorted(caller.scopes),
        limits=schemas.LimitsOut(**asdict(caller.limits)),
        requests_this_month=_quota_out(month),
        storage=_quota_out(storage),
        health=health_out(health),
        spend_cap=spend_cap_out(spend) if spend else None,
    )


@router.get("/usage")
async def get_usage(
    platform: ThePlatform,
    caller: UsageCaller,
    period: Period = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: UUID | None = None,
) -> schemas.UsageOut:
    """Show a month's usage: the sums, and a page of its records, oldest first."""
    month = month_of(period, clock=platform.clock)
    metering = platform.books.metering
    totals = await metering.totals(caller.tenant_id, start=month.start, end=month.end)
    records = await metering.list(
        caller.tenant_id, start=month.start, end=month.end, limit=limit, after=after
    )
    return schemas.UsageOut(
        period=str(month),
        totals=[
            schemas.UsageTotalOut(tier=total.tier, meter=total.meter.value, quantity=total.quantity)
            for total in totals
        ],
        records=[_record_out(record) for record in records],
        next_after=records[-1].id if len(records) == limit else None,
    )


@router.get("/invoices/preview")
async def preview_invoice(
    platform: ThePlatform, caller: UsageCaller, period: Period = None
) -> schemas.InvoicePreviewOut:
    """Show what the month's invoice would say now."""
    month = month_of(period, clock=platform.clock)
    preview = await platform.desk.invoices.preview(caller.tenant_id, period=month)
    return preview_out(preview, at=platform.clock.now())


def month_of(period: str | None, *, clock: Clock) -> CalendarMonth:
    """Read a month; the current one if none is given. ValidationError for another form."""
    return CalendarMonth.parse(period) if period else CalendarMonth.of(clock.now())


def preview_out(preview: Preview, *, at: datetime) -> schemas.InvoicePreviewOut:
    """Spell a preview as JSON; exact amounts are fractions, written as text."""
    prices = {
        (plan_id, charge.name): charge.price
        for plan_id, plan in preview.plans.items()
        for charge in plan.charges
    }
    return schemas.InvoicePreviewOut(
        tenant_id=preview.invoice.tenant_id,
        period=str(preview.invoice.period),
        currency=preview.invoice.currency,
        plan_id=preview.invoice.plan_id,
        lines=[_line_out(each, price=prices.get((each.plan_id, each.line.charge))) for each in preview.lines],
        total_minor=preview.total_minor,
        total=str(preview.invoice.money(preview.total_minor)),
        generated_at=at,
    )


def _line_out(draft: DraftLine, *, price: object) -> schemas.InvoiceLineOut:
    line = draft.line
    return schemas.InvoiceLineOut(
        period=str(draft.month),
        starts_at=draft.interval.start if draft.interval else None,
        ends_at=draft.interval.end if draft.interval else None,
        charge=line.charge,
        cell=list(line.cell),
        tier=line.tier,
        meter=line.meter.value if line.meter else None,
        quantity=line.quantity,
        included=line.included,
        unit_price_minor=str(price.unit_price) if isinstance(price, UnitPrice) else None,
        exact_minor=str(line.exact),
        amount_minor=line.amount,
        discount_minor=line.discount,
        tax_minor=line.tax,
    )


def _quota_out(counter: QuotaCounter) -> schemas.QuotaOut:
    return schemas.QuotaOut(
        limit=counter.limit, used=counter.used, held=counter.held, remaining=counter.remaining
    )


def _record_out(record: UsageRecord) -> schemas.UsageRecordOut:
    return schemas.UsageRecordOut(
        id=record.id,
        operation=record.operation.value,
        outcome=record.outcome,
        model=record.model,
        tier=record.tier,
        key_id=record.key_id,
        occurred_at=record.occurred_at,
        quantities=structs.asdict(record.quantities),
        resources=structs.asdict(record.resources),
        source=record.source,
        event_id=record.event_id,
        dimensions=dict(record.report.dimensions) if record.report else {},
        received_at=record.report.received_at if record.report else None,
    )
