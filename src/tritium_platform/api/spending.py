"""Spend caps: what a tenant may spend in a month, what is left of it, and the alerts of the month."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from tritium_platform.api.deps import Caller, ThePlatform, admin, admin_key, tenant_key
from tritium_platform.api.spend_schemas import SpendCapOut, spend_cap_out
from tritium_platform.errors import NotFoundError, ValidationError
from tritium_platform.quotas.spend_cap import SpendCap, SpendMode, micro
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from tritium_platform.compose import Platform

router = APIRouter(prefix="/api/v1/account/spend-cap", tags=["account"], dependencies=[tenant_key])
operator_router = APIRouter(
    prefix="/api/v1/tenants/{tenant_id}/spend-cap", tags=["tenants"], dependencies=[admin_key, admin]
)


class NewSpendCap(BaseModel):
    """A cap in minor units of the price list's currency; a cap in shadow mode refuses nothing and counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    amount_minor: Annotated[int, Field(strict=True)]
    currency: str
    mode: SpendMode = SpendMode.ENFORCE


@router.get("")
async def get_own_spend_cap(platform: ThePlatform, caller: Caller) -> SpendCapOut:
    """Show the caller's spend cap, what is left of it this month, and the alerts."""
    return await _shown(platform, caller.tenant_id)


@operator_router.get("")
async def get_spend_cap(platform: ThePlatform, tenant_id: UUID) -> SpendCapOut:
    """Show a tenant's spend cap, what is left of it this month, and the alerts."""
    return await _shown(platform, tenant_id)


@operator_router.put("")
async def set_spend_cap(platform: ThePlatform, tenant_id: UUID, wish: NewSpendCap) -> SpendCapOut:
    """Cap what a tenant spends in a month, from the next request on; what it spent this month counts."""
    await cap_tenant(
        platform,
        SpendCap(tenant_id=tenant_id, amount_minor=wish.amount_minor, currency=wish.currency, mode=wish.mode),
    )
    return await _shown(platform, tenant_id)


@operator_router.delete("", status_code=204)
async def remove_spend_cap(platform: ThePlatform, tenant_id: UUID) -> None:
    """Take a tenant's spend cap away."""
    if not await platform.spending.remove_cap(tenant_id, actor="operator"):
        raise _without_cap()


async def cap_tenant(platform: Platform, cap: SpendCap) -> None:
    """Set a cap, with what the month came to so far; ValidationError if prices are in another currency."""
    await platform.tenancy.get_tenant(cap.tenant_id)
    month = CalendarMonth.of(platform.clock.now())
    prices = await platform.books.billing.prices_for(month)
    if cap.currency != prices.currency:
        raise ValidationError(f"Prices are in {prices.currency}, and so are caps.", field="currency")
    totals = await platform.books.metering.totals(cap.tenant_id, start=month.start, end=month.end)
    spent = await platform.books.billing.list_price(totals, period=month)
    await platform.spending.set_cap(cap, spent=micro(spent), actor="operator")


async def _shown(platform: Platform, tenant_id: UUID) -> SpendCapOut:
    status = await platform.spending.status(tenant_id)
    if status is None:
        raise _without_cap()
    return spend_cap_out(status)


def _without_cap() -> NotFoundError:
    return NotFoundError("There is no spend cap.", kind="spend_cap")
