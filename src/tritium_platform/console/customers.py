"""Reads the pages about customers out of a running platform."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tritium_platform.console.model import CustomerPage, CustomerRow
from tritium_platform.insight.analytics import Step
from tritium_platform.values import Money

if TYPE_CHECKING:
    from uuid import UUID

    from tritium_platform.compose import Platform
    from tritium_platform.tenancy.model import Tenant

MOST_CUSTOMERS = 200
DAYS = 14


class PlatformCustomers:
    """A `CustomerSource` over a platform."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def customers(self) -> list[CustomerRow]:
        """Return the tenants by their health, the worst first and those without any last."""
        tenants = await self._platform.tenancy.list_tenants()
        rows = [await self._row(tenant) for tenant in tenants[:MOST_CUSTOMERS]]
        return sorted(rows, key=lambda row: (row.health.score is None, row.health.score, row.name))

    async def customer(self, tenant_id: UUID) -> CustomerPage:
        """Return what there is to see of a tenant; NotFoundError if there is none."""
        platform = self._platform
        tenant = await platform.tenancy.get_tenant(tenant_id)
        now = platform.clock.now()
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        days = await platform.analytics.series(
            tenant_id,
            start=midnight - timedelta(days=DAYS - 1),
            end=now,
            step=Step.DAY,
            dimension=None,
            limit=DAYS,
        )
        spend = await platform.spending.status(tenant_id)
        return CustomerPage(
            row=await self._row(tenant),
            summary=await platform.analytics.summarize(tenant_id),
            days=tuple(days),
            kept=tuple(await platform.scores.history(tenant_id, limit=DAYS)),
            cap=Money(spend.cap.amount_minor, spend.cap.currency) if spend else None,
        )

    async def _row(self, tenant: Tenant) -> CustomerRow:
        return CustomerRow(
            tenant_id=tenant.id,
            name=tenant.organization_name,
            tier=tenant.tier.value,
            status=tenant.status.value,
            health=await self._platform.scores.score(tenant.id),
        )
