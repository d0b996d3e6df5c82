"""What events cost their tenants, counted against the tenants' spend caps."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Protocol

from tritium_platform.metering.model import UsageTotal
from tritium_platform.quotas.spend_cap import micro
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from fractions import Fraction
    from uuid import UUID

    from tritium_platform.metering.event import EventKind, UsageEvent
    from tritium_platform.values import Clock


class Spending(Protocol):
    """Knows whose spending is capped, and counts it."""

    def is_capped(self, tenant_id: UUID) -> bool:
        """Tell whether a tenant has a cap."""

    async def count(self, tenant_id: UUID, *, amount: int, period: str) -> None:
        """Count what was spent already."""


class Prices(Protocol):
    """Knows what things cost by the price list."""

    async def list_price(self, totals: Sequence[UsageTotal], *, period: CalendarMonth) -> Fraction:
        """Return what sums of uses come to, in minor units."""


class CappedIngestion:
    """Adds what a group of events costs to the counters of capped tenants: once per tenant and month.

    The price list that counts has one price per unit, so that the price of a sum is the sum of the prices.
    """

    def __init__(self, *, spending: Spending, prices: Prices, clock: Clock) -> None:
        self._spending = spending
        self._prices = prices
        self._clock = clock

    def is_capped(self, tenant_id: UUID) -> bool:
        """Tell whether a tenant has a cap."""
        return self._spending.is_capped(tenant_id)

    async def count(self, events: Sequence[UsageEvent]) -> None:
        """Count new events; those of a month that is over are billed only: its cap holds nobody any more."""
        now = CalendarMonth.of(self._clock.now())
        # In one order: of two groups of the same tenants one waits for the other, and they form no ring.
        for (tenant_id, month), totals in sorted(_totals(events).items()):
            if month < now:
                continue
            cost = micro(await self._prices.list_price(totals, period=month))
            if cost:
                await self._spending.count(tenant_id, amount=cost, period=str(month))


def _totals(events: Sequence[UsageEvent]) -> Mapping[tuple[UUID, CalendarMonth], Sequence[UsageTotal]]:
    """Add events up by tenant and month."""
    sums: Counter[tuple[EventKind, int, int]] = Counter()
    for event in events:
        sums[event.kind, event.event_time.year, event.event_time.month] += event.quantity
    totals = defaultdict(list)
    for (kind, year, month), quantity in sums.items():
        total = UsageTotal(kind.tier, kind.meter, quantity)
        totals[kind.tenant_id, CalendarMonth(year, month)].append(total)
    return totals
