"""Price lists: which one stands, and what a use costs by it."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from uuid import UUID

import pytest

from tritium_platform.adapters.memory.billing_store import MemoryPriceStore
from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.metering_store import MemoryUsageStore
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.model import MeterPrice, PriceVersion
from tritium_platform.errors import ConflictError, PlatformError
from tritium_platform.metering.model import Meter, OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth, uuid7

TENANT = UUID(int=7)
NOVEMBER = CalendarMonth(2026, 11)


class Shop:
    """Billing over usage in memory."""

    def __init__(self) -> None:
        database = MemoryDatabase()
        self.clock = ManualClock()
        self.usage = MemoryUsageStore(database)
        self.billing = BillingService(prices=MemoryPriceStore(database), clock=self.clock)

    async def publish(self, cents: int, *, valid_from: datetime, included: int = 0) -> PriceVersion:
        price = {Meter.OUTPUT_TOKENS: MeterPrice(Fraction(cents, 3), included)}
        version = PriceVersion("USD", valid_from, dict.fromkeys(TenantTier, price))
        await self.billing.publish_prices(version)
        return version

    async def use(self, tokens: int, *, at: datetime, tier: TenantTier = TenantTier.TEAM) -> UsageRecord:
        record = UsageRecord(
            id=uuid7(self.clock),
            tenant_id=TENANT,
            source="gateway",
            event_id=str(uuid7(self.clock)),
            operation=OperationType.CHAT,
            tier=tier,
            outcome="success",
            occurred_at=at,
            quantities=UsageQuantities(output_tokens=tokens),
            resources=ResourceUsage(),
        )
        await self.usage.insert(record)
        return record


@pytest.fixture
def shop() -> Shop:
    return Shop()


async def test_a_month_is_priced_by_the_version_in_force_when_it_began(shop: Shop) -> None:
    old = await shop.publish(1, valid_from=datetime(2026, 1, 1, tzinfo=UTC))
    new = await shop.publish(2, valid_from=datetime(2026, 11, 1, 0, 0, 1, tzinfo=UTC))
    assert (await shop.billing.prices_for(NOVEMBER)).id == old.id
    assert (await shop.billing.prices_for(NOVEMBER.next())).id == new.id
    assert (await shop.billing.prices_for(CalendarMonth(2025, 1))).id == old.id
    latest = await shop.publish(3, valid_from=CalendarMonth(2027, 1).start)
    assert (await shop.billing.prices_for(CalendarMonth(2026, 12))).id == new.id
    assert (await shop.billing.prices_for(CalendarMonth(2027, 1))).id == latest.id


async def test_published_prices_never_change(shop: Shop) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    version = await shop.publish(1, valid_from=start)
    assert not await shop.billing.publish_prices(version)
    with pytest.raises(ConflictError, match="later valid_from"):
        await shop.publish(2, valid_from=start)
    assert (await shop.billing.prices_for(NOVEMBER)).id == version.id


async def test_prices_of_another_process_are_seen_after_a_while(shop: Shop) -> None:
    await shop.publish(1, valid_from=datetime(2026, 1, 1, tzinfo=UTC))
    await shop.billing.prices_for(NOVEMBER)
    price = {TenantTier.TEAM: {Meter.OUTPUT_TOKENS: MeterPrice(Fraction(9))}}
    newer = PriceVersion("USD", datetime(2026, 2, 1, tzinfo=UTC), price)
    await shop.billing._prices.add(newer)
    shop.clock.advance(seconds=30)
    assert (await shop.billing.prices_for(NOVEMBER)).id == newer.id


async def test_one_use_is_priced_exactly(shop: Shop) -> None:
    await shop.publish(1, valid_from=datetime(2026, 1, 1, tzinfo=UTC))
    record = await shop.use(10, at=NOVEMBER.start)
    cost = await shop.billing.price(record, period=NOVEMBER)
    assert (cost.total, cost.currency) == (Fraction(10, 3), "USD")


async def test_without_any_prices_it_says_so(shop: Shop) -> None:
    with pytest.raises(PlatformError, match="No prices"):
        await shop.billing.prices_for(NOVEMBER)
