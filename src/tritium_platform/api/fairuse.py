"""Fair use: what tenants used beside their shares, and what was done about it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel

from tritium_platform.api.deps import Caller, ThePlatform, admin, admin_key, tenant_key

if TYPE_CHECKING:
    from tritium_platform.quotas.fairuse import FairUseMeasure, FairUseReading

router = APIRouter(prefix="/api/v1/account/fair-use", tags=["account"], dependencies=[tenant_key])
operator_router = APIRouter(prefix="/api/v1/fair-use", tags=["fair use"], dependencies=[admin_key, admin])


class ReadingOut(BaseModel):
    """What a tenant used of one thing in the last quarter of an hour, its share of it, and why."""

    tenant_id: UUID
    rule: str
    used: int
    share: float
    is_beyond: bool
    explanation: str


class MeasureOut(BaseModel):
    """What was done about a tenant's use; nothing follows from a dry run, nor from what is lifted."""

    id: UUID
    tenant_id: UUID
    rule: str
    action: str
    reason: str
    used: int
    share: float
    starts_at: datetime
    ends_at: datetime
    is_dry_run: bool
    lifted_at: datetime | None
    lifted_because: str | None


class FairUseOut(BaseModel):
    """What was used beside the shares, and the newest measures, newest first; `mode` says what follows."""

    mode: str
    readings: list[ReadingOut]
    measures: list[MeasureOut]


@router.get("")
async def get_own_fair_use(platform: ThePlatform, caller: Caller) -> FairUseOut:
    """Show the caller's use beside its shares, and what was done about it."""
    readings = [each for each in await platform.fair_use.read() if each.tenant_id == caller.tenant_id]
    measures = await platform.fair_use.list(tenant_id=caller.tenant_id)
    return _fair_use_out(platform.fair_use.mode.value, readings, list(measures))


@operator_router.get("")
async def get_fair_use(platform: ThePlatform) -> FairUseOut:
    """Show every tenant's use beside its shares, and what was done about it."""
    readings, measures = await platform.fair_use.read(), await platform.fair_use.list()
    return _fair_use_out(platform.fair_use.mode.value, list(readings), list(measures))


@operator_router.delete("/measures/{measure_id}")
async def lift_measure(
    platform: ThePlatform,
    measure_id: UUID,
    because: Annotated[str, Query(min_length=1, max_length=400)],
) -> MeasureOut:
    """Lift a measure: nothing follows from it any more, and it does not count against the tenant."""
    return _measure_out(await platform.fair_use.lift(measure_id, because=because))


def _fair_use_out(mode: str, readings: list[FairUseReading], measures: list[FairUseMeasure]) -> FairUseOut:
    return FairUseOut(
        mode=mode,
        readings=[
            ReadingOut(
                tenant_id=each.tenant_id,
                rule=each.rule.value,
                used=each.used,
                share=float(each.share),
                is_beyond=each.is_beyond,
                explanation=each.explanation,
            )
            for each in readings
        ],
        measures=[_measure_out(measure) for measure in measures],
    )


def _measure_out(measure: FairUseMeasure) -> MeasureOut:
    return MeasureOut(
        id=measure.id,
        tenant_id=measure.tenant_id,
        rule=measure.rule.value,
        action=measure.action.value,
        reason=measure.reason,
        used=measure.used,
        share=float(measure.share),
        starts_at=measure.starts_at,
        ends_at=measure.ends_at,
        is_dry_run=measure.is_dry_run,
        lifted_at=measure.lifted_at,
        lifted_because=measure.lifted_because,
    )
