"""Who has what of the platform's capacity, why, and what load is to come: the operator's routes."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel

from tritium_platform.api.deps import ThePlatform, admin, admin_key
from tritium_platform.insight.scaling import replicas_wanted
from tritium_platform.serving.policy import MAX_TENANT_REPLICAS

if TYPE_CHECKING:
    from tritium_platform.compose import Platform
    from tritium_platform.insight.prediction import ModelForecast
    from tritium_platform.serving.memory_shares import MemoryShare

router = APIRouter(prefix="/api/v1/capacity", tags=["capacity"], dependencies=[admin_key, admin])


class MemoryShareOut(BaseModel):
    """What a tenant has of the engines' memory, in bytes; without a budget `share` and `why` are null.

    `wanted` is what it holds, has pinned or used in the last ten minutes; `pinned` is guaranteed.
    """

    tenant_id: UUID
    weight: int
    used: int
    wanted: int
    pinned: int
    share: int | None
    why: str | None


class MemoryOut(BaseModel):
    """How tenants share the engines' memory; `budget` is null if there is none."""

    budget: int | None
    used: int
    tenants: list[MemoryShareOut]


class ForecastOut(BaseModel):
    """The tokens of a model at a tier in each of the 24 hours from `start` on; nothing follows by itself.

    `expected` is as likely exceeded as not (P50), nine of ten hours stay below `high` (P90); both are empty
    with less than a day of history. `errors` are mean absolute scaled errors over the last days,
    `relative_error` that of what is published beside the better seasonal-naive one. `replicas_wanted` is
    never less than `replicas`.
    """

    model: str
    tier: str
    start: datetime
    published: str | None
    reason: str
    expected: list[float]
    high: list[float]
    peak_at: datetime | None
    errors: dict[str, float]
    relative_error: float | None
    tokens_per_replica: float
    replicas: int
    replicas_wanted: int


class ForecastsOut(BaseModel):
    """The load of the next 24 hours, the busiest models first."""

    forecasts: list[ForecastOut]


@router.get("/forecast")
async def get_forecast(platform: ThePlatform) -> ForecastsOut:
    """Show what load is expected in the next 24 hours, and how many engines it calls for."""
    made = await platform.predictions.refresh()
    return ForecastsOut(forecasts=[_forecast_out(platform, each) for each in made])


@router.get("/memory")
async def get_memory(platform: ThePlatform) -> MemoryOut:
    """Show who has how much of the engines' memory, and what of it is its fair share."""
    residency = platform.residency
    return MemoryOut(
        budget=residency.budget_bytes or None,
        used=residency.charged_bytes,
        tenants=[_memory_share_out(share) for share in residency.shares()],
    )


def _forecast_out(platform: Platform, made: ModelForecast) -> ForecastOut:
    load = made.forecast
    replicas = sum(
        pool.deployment.replicas
        for pool in platform.residency.pools
        if (pool.deployment.name, pool.tier) == (made.model, made.tier)
    )
    return ForecastOut(
        model=made.model,
        tier=made.tier.value,
        start=load.start,
        published=load.published,
        reason=load.reason,
        expected=[round(value, 1) for value in load.expected],
        high=[round(value, 1) for value in load.high],
        peak_at=load.peak_at,
        errors=dict(load.errors),
        relative_error=load.relative_error,
        tokens_per_replica=made.tokens_per_replica,
        replicas=replicas,
        replicas_wanted=replicas_wanted(
            load.high, tokens_per_replica=made.tokens_per_replica, current=replicas, most=MAX_TENANT_REPLICAS
        ),
    )


def _memory_share_out(share: MemoryShare) -> MemoryShareOut:
    return MemoryShareOut(
        tenant_id=share.tenant_id,
        weight=share.weight,
        used=share.used_bytes,
        wanted=share.wanted_bytes,
        pinned=share.pinned_bytes,
        share=None if share.share is None else int(share.share.amount),
        why=None if share.share is None else share.share.bound.value,
    )
