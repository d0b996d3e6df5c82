"""A customer's health and usage: its own for a tenant, everybody's for the operator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from tritium_platform.api.deps import Caller, ThePlatform, UsageCaller, admin, admin_key, tenant_key
from tritium_platform.api.insight_schemas import (
    CustomerOut,
    CustomersOut,
    HealthOut,
    KeptScoresOut,
    UsageSeriesOut,
    UsageSummaryOut,
    health_out,
    kept_out,
    point_out,
    summary_out,
)
from tritium_platform.errors import ValidationError
from tritium_platform.insight.analytics import Dimension, Step, UsagePoint

if TYPE_CHECKING:
    from tritium_platform.compose import Platform
    from tritium_platform.tenancy.model import Tenant

router = APIRouter(prefix="/api/v1", tags=["account"], dependencies=[tenant_key])
operator_router = APIRouter(
    prefix="/api/v1/tenants/{tenant_id}", tags=["tenants"], dependencies=[admin_key, admin]
)
customers_router = APIRouter(prefix="/api/v1/customers", tags=["tenants"], dependencies=[admin_key, admin])

AsOf = Annotated[
    datetime | None,
    Query(description="A full hour; by default the end of the running one, which may still change"),
]
# Beyond, arithmetic with moments ends.
YEARS = range(2000, 9000)
HistoryLimit = Annotated[int, Query(ge=1, le=400)]
Before = Annotated[datetime | None, Query(description="The `next_before` of the page before")]


class SeriesWish(BaseModel):
    """Which series is asked for.

    `start` and `end` have a time zone: by default the seven days until now. `after` is the
    `next_after` of the page before.
    """

    start: datetime | None = None
    end: datetime | None = None
    by: Step = Step.DAY
    group: Dimension | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    after: Annotated[str, Field(max_length=500)] | None = None


TheSeriesWish = Annotated[SeriesWish, Query()]


@router.get("/account/health")
async def get_own_health(platform: ThePlatform, caller: Caller, as_of: AsOf = None) -> HealthOut:
    """Show the caller's health with all that it follows from."""
    moment = None if as_of is None else _aware(as_of, field="as_of")
    return health_out(await platform.scores.score(caller.tenant_id, as_of=moment))


@router.get("/account/health/history")
async def get_own_health_history(
    platform: ThePlatform, caller: Caller, limit: HistoryLimit = 30, before: Before = None
) -> KeptScoresOut:
    """List the caller's kept scores, newest first."""
    return await _history(platform, caller.tenant_id, limit=limit, before=before)


@router.get("/usage/series")
async def get_own_usage_series(
    platform: ThePlatform,
    caller: UsageCaller,
    wish: TheSeriesWish,
) -> UsageSeriesOut:
    """Show what the caller used by hour or day, split by model, status, operation, key, tier or device."""
    return await _series(platform, caller.tenant_id, wish)


@router.get("/usage/summary")
async def get_own_usage_summary(platform: ThePlatform, caller: UsageCaller) -> UsageSummaryOut:
    """Show the caller's last seven days, and where its month's spending is going."""
    return await _summary(platform, caller.tenant_id)


@operator_router.get("/health")
async def get_health(platform: ThePlatform, tenant_id: UUID, as_of: AsOf = None) -> HealthOut:
    """Show a tenant's health with all that it follows from."""
    await platform.tenancy.get_tenant(tenant_id)
    moment = None if as_of is None else _aware(as_of, field="as_of")
    return health_out(await platform.scores.score(tenant_id, as_of=moment))


@operator_router.get("/health/history")
async def get_health_history(
    platform: ThePlatform, tenant_id: UUID, limit: HistoryLimit = 30, before: Before = None
) -> KeptScoresOut:
    """List a tenant's kept scores, newest first."""
    await platform.tenancy.get_tenant(tenant_id)
    return await _history(platform, tenant_id, limit=limit, before=before)


@operator_router.get("/usage/series")
async def get_usage_series(
    platform: ThePlatform,
    tenant_id: UUID,
    wish: TheSeriesWish,
) -> UsageSeriesOut:
    """Show what a tenant used by hour or day, split by model, status, operation, key, tier or device."""
    await platform.tenancy.get_tenant(tenant_id)
    return await _series(platform, tenant_id, wish)


@operator_router.get("/usage/summary")
async def get_usage_summary(platform: ThePlatform, tenant_id: UUID) -> UsageSummaryOut:
    """Show a tenant's last seven days, and where its month's spending is going."""
    await platform.tenancy.get_tenant(tenant_id)
    return await _summary(platform, tenant_id)


@customers_router.get("")
async def list_customers(
    platform: ThePlatform, limit: Annotated[int, Query(ge=1, le=100)] = 50, after: UUID | None = None
) -> CustomersOut:
    """List all tenants with their health at this hour, oldest first."""
    tenants = sorted(await platform.tenancy.list_tenants(), key=lambda each: each.id)
    page = [each for each in tenants if after is None or each.id > after][:limit]
    return CustomersOut(
        customers=[await _customer_out(platform, each) for each in page],
        next_after=page[-1].id if len(page) == limit else None,
    )


async def _customer_out(platform: Platform, tenant: Tenant) -> CustomerOut:
    health = await platform.scores.score(tenant.id)
    return CustomerOut(
        tenant_id=tenant.id,
        organization_name=tenant.organization_name,
        score=health.score,
        grade=health.grade.value if health.grade else None,
        weakest=health.weakest.name if health.weakest else None,
    )


async def _history(
    platform: Platform, tenant_id: UUID, *, limit: int, before: datetime | None
) -> KeptScoresOut:
    moment = None if before is None else _aware(before, field="before")
    kept = await platform.scores.history(tenant_id, limit=limit, before=moment)
    return KeptScoresOut(
        scores=[kept_out(each) for each in kept], next_before=kept[-1].as_of if len(kept) == limit else None
    )


async def _series(platform: Platform, tenant_id: UUID, wish: SeriesWish) -> UsageSeriesOut:
    until = _aware(wish.end, field="end") if wish.end else platform.clock.now()
    points = await platform.analytics.series(
        tenant_id,
        start=_aware(wish.start, field="start") if wish.start else until - timedelta(days=7),
        end=until,
        step=wish.by,
        dimension=wish.group,
        limit=wish.limit,
        after=_place(wish.after) if wish.after else None,
    )
    return UsageSeriesOut(
        points=[point_out(each) for each in points],
        next_after=_spelled(points[-1]) if len(points) == wish.limit else None,
    )


async def _summary(platform: Platform, tenant_id: UUID) -> UsageSummaryOut:
    summary = await platform.analytics.summarize(tenant_id)
    return summary_out(summary, spend=await platform.spending.status(tenant_id))


def _aware(moment: datetime, *, field: str) -> datetime:
    if moment.tzinfo is None or moment.year not in YEARS:
        raise ValidationError(f"{field} needs a time zone, such as Z, and a year of now.", field=field)
    return moment.astimezone(UTC)


def _spelled(point: UsagePoint) -> str:
    return f"{point.start.isoformat()}~{point.name}"


def _place(after: str) -> tuple[datetime, str]:
    moment, _, name = after.partition("~")
    try:
        if "\0" in name:  # no database has it in a text
            raise ValueError
        return _aware(datetime.fromisoformat(moment), field="after"), name
    except ValueError:
        raise ValidationError("after is not what a page before said.", field="after") from None
