"""Reads the page about spend caps out of a running platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.console.model import SpendAlertRow, SpendPage, SpendRow
from tritium_platform.quotas.spend_cap import MICRO
from tritium_platform.values import CalendarMonth, Money

if TYPE_CHECKING:
    from tritium_platform.compose import Platform
    from tritium_platform.quotas.spend_cap import SpendStatus


class PlatformSpending:
    """A `SpendSource` over a platform."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def spending(self) -> SpendPage:
        """Return every cap and its month, what is nearest to its cap first."""
        tenants = {each.id: each.organization_name for each in await self._platform.tenancy.list_tenants()}
        statuses = await self._platform.spending.statuses()
        rows = [
            _row(status, name=tenants[status.cap.tenant_id])
            for status in statuses
            if status.cap.tenant_id in tenants
        ]
        return SpendPage(
            period=str(CalendarMonth.of(self._platform.clock.now())),
            rows=tuple(sorted(rows, key=lambda row: (-row.percent, row.name))),
            num_without_cap=len(tenants) - len(rows),
        )


def _row(status: SpendStatus, *, name: str) -> SpendRow:
    cap, counter = status.cap, status.counter
    return SpendRow(
        tenant_id=cap.tenant_id,
        name=name,
        mode=cap.mode.value,
        cap=Money(cap.amount_minor, cap.currency),
        # As the API: what is used and held is rounded up, what is left is rounded down.
        used=Money(-(-counter.used // MICRO), cap.currency),
        held=Money(-(-counter.held // MICRO), cap.currency),
        remaining=Money(max(0, counter.remaining) // MICRO, cap.currency),
        percent=counter.used * 100 // counter.limit,
        alerts=tuple(SpendAlertRow(threshold, at) for threshold, at in sorted(status.alerts.items())),
        would_refuse=status.would_refuse,
    )
