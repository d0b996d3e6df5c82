"""Price lists: which one is in force, and what one use costs by it."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

from tritium_platform.billing.pricing import calculate_usage_cost
from tritium_platform.errors import ConflictError, PlatformError
from tritium_platform.metering.model import Meter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tritium_platform.billing.model import CostBreakdown, PriceVersion
    from tritium_platform.metering.model import UsageRecord, UsageTotal
    from tritium_platform.tenancy.model import TenantTier
    from tritium_platform.values import CalendarMonth, Clock

CACHE_SECONDS = 30
TOKEN_METERS = (Meter.INPUT_TOKENS, Meter.OUTPUT_TOKENS, Meter.EMBEDDING_TOKENS)


class PriceStore(Protocol):
    """Keeps price versions; one per `valid_from`, never changed."""

    async def add(self, version: PriceVersion) -> bool:
        """Keep a version; False if one that starts at the same instant is kept already."""

    async def list(self) -> Sequence[PriceVersion]:
        """Return all versions by `valid_from`, oldest first."""


def version_in_force(versions: Sequence[PriceVersion], *, at: datetime) -> PriceVersion | None:
    """Return the latest version that was valid at an instant, else the earliest there is."""
    ordered = sorted(versions, key=lambda version: version.valid_from)
    valid = [version for version in ordered if version.valid_from <= at]
    return valid[-1] if valid else next(iter(ordered), None)


class BillingService:
    """Publishes price lists and prices uses by them.

    The published versions are read again after `CACHE_SECONDS`, so that pricing a request costs no query.
    """

    def __init__(self, *, prices: PriceStore, clock: Clock) -> None:
        self._prices = prices
        self._clock = clock
        self._versions: Sequence[PriceVersion] = ()
        self._fresh_until = -1

    async def publish_prices(self, version: PriceVersion) -> bool:
        """Add a price version; False if exactly this one was published before.

        Raises:
            ConflictError: other prices were published for the same start.
        """
        is_new = await self._prices.add(version)
        self._fresh_until = -1
        if not is_new and version.id not in {kept.id for kept in await self._prices.list()}:
            raise ConflictError(
                f"Other prices are already published from {version.valid_from.isoformat()} on, and published "
                "prices never change: give the new ones a later valid_from.",
                field="valid_from",
            )
        return is_new

    async def prices_for(self, period: CalendarMonth) -> PriceVersion:
        """Return the version that prices a month: the one in force at its first instant.

        Raises:
            PlatformError: no prices were ever published.
        """
        version = await self.find_prices(period)
        if version is None:
            raise PlatformError("No prices are published: publish a price list before serving.")
        return version

    async def find_prices(self, period: CalendarMonth) -> PriceVersion | None:
        """Return the version that prices a month; None if no prices were ever published."""
        now = self._clock.monotonic_nanoseconds()
        if now >= self._fresh_until:
            self._versions = await self._prices.list()
            self._fresh_until = now + CACHE_SECONDS * 1_000_000_000
        return version_in_force(self._versions, at=period.start)

    async def most(self, tokens: int, *, tier: TenantTier, period: CalendarMonth) -> Fraction:
        """Return the most that some tokens can cost, in minor units: all of them of the dearest kind."""
        version = await self.prices_for(period)
        return tokens * max(version.price_of(meter, tier=tier).unit_price for meter in TOKEN_METERS)

    async def list_price(self, totals: Sequence[UsageTotal], *, period: CalendarMonth) -> Fraction:
        """Return what sums of uses come to by the price list, without what is included, in minor units."""
        version = await self.prices_for(period)
        prices = [version.price_of(each.meter, tier=each.tier).unit_price * each.quantity for each in totals]
        return sum(prices, Fraction(0))

    async def price(self, record: UsageRecord, *, period: CalendarMonth) -> CostBreakdown:
        """Price one use without regard to what is included in the month."""
        return calculate_usage_cost(record, price_version=await self.prices_for(period))
