"""A month that is cut is the same in memory and in SQL: to the microsecond, and with every plan at hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tritium_platform.adapters.memory.billing_store import MemoryPriceStore
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.audit.note import NoteSigner
from tritium_platform.billing.contract import UNTAXED
from tritium_platform.billing.desk import open_desk, open_payments
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.model import MeterPrice, PriceVersion
from tritium_platform.billing.rating.plan_json import plan_from_dict
from tritium_platform.metering.model import Meter, OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth, Interval, uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import Books

SEPTEMBER, OCTOBER = CalendarMonth(2026, 9), CalendarMonth(2026, 10)
TICK = timedelta(microseconds=1)
CUT = datetime(2026, 9, 17, 14, 30, 0, 1, tzinfo=timezone(timedelta(hours=2)))


def a_plan(name: str, *, unit_price: str) -> dict[str, Any]:
    price = {"kind": "per_unit", "unit_price": unit_price}
    seat = {"name": "seat", "price": {"kind": "flat", "amount": "700"}, "is_prorated": True}
    charges = [{"name": "output", "meter": "output_tokens", "price": price}, seat]
    return {"name": name, "currency": "EUR", "charges": charges}


def a_list(month: int, *, unit_price: int) -> PriceVersion:
    price = {TenantTier.TEAM: {Meter.OUTPUT_TOKENS: MeterPrice(Fraction(unit_price), 0)}}
    return PriceVersion("EUR", datetime(2026, month, 1, tzinfo=UTC), price)


class Shop:
    """What bills one tenant over a set of books; its price lists are its own."""

    def __init__(self, books: Books) -> None:
        self.clock: Any = books.money.clock
        self.tenant_id = uuid7(self.clock)
        self.usage = books.usage
        self.prices = BillingService(prices=MemoryPriceStore(MemoryDatabase()), clock=self.clock)
        self.desk = open_desk(
            books.money,
            plan_store=books.plans,
            prices=self.prices,
            tenants=self,
            signer=NoteSigner("example/audit", private_key=Ed25519PrivateKey.from_private_bytes(b"7" * 32)),
            grace_days=None,
            payments=open_payments(books.money, events=books.notices),
        )

    async def list_tenants(self) -> list[Any]:
        return []

    async def sign(self, plan: dict[str, Any], *, starts_at: datetime) -> None:
        plan_id = await self.desk.plans.publish(plan_from_dict(plan), actor="test")
        await self.desk.plans.conclude(
            self.tenant_id,
            plan=plan_id,
            starts_at=starts_at,
            ends_at=None,
            payment_days=14,
            tax=UNTAXED,
            actor="test",
        )

    async def use(self, tokens: int, *, at: datetime) -> None:
        record = UsageRecord(
            id=uuid7(self.clock),
            tenant_id=self.tenant_id,
            source="test",
            event_id=str(uuid7(self.clock)),
            operation=OperationType.CHAT,
            tier=TenantTier.TEAM,
            outcome="success",
            occurred_at=at,
            quantities=UsageQuantities(output_tokens=tokens),
            resources=ResourceUsage(),
        )
        await self.usage.insert(record)

    async def bill(self, period: CalendarMonth) -> list[tuple[Any, ...]]:
        """Finalize a month, and return its lines with the uses that are behind each."""
        while self.clock.now() < period.end:
            self.clock.advance(seconds=86_400)
        (draft,) = await self.desk.invoices.generate(self.tenant_id, period=period, actor="test")
        invoice = await self.desk.invoices.finalize(draft.id, actor="test")
        return [
            (
                line.get("starts_at", "")[8:],
                line["charge"],
                line["net_minor"],
                await self._behind(invoice, line["number"]),
            )
            for line in (await self.desk.invoices.body(invoice))["lines"]
        ]

    async def _behind(self, invoice: Any, number: int) -> Sequence[int]:
        events, _ = await self.desk.invoices.line_events(invoice, number=number, limit=9)
        return sorted(event.quantity for event in events)


@pytest.fixture
def shop(books: Books) -> Shop:
    return Shop(books)


async def test_a_part_begins_with_its_instant_and_ends_before_the_next_ones(shop: Shop) -> None:
    await shop.sign(a_plan("first", unit_price="3"), starts_at=SEPTEMBER.start)
    await shop.sign(a_plan("second", unit_price="5"), starts_at=CUT)
    for tokens, at in ((1, SEPTEMBER.start), (2, CUT - TICK), (4, CUT), (8, SEPTEMBER.end - TICK)):
        await shop.use(tokens, at=at)
    first, second = "01T00:00:00.000000Z", "17T12:30:00.000001Z"
    assert await shop.bill(SEPTEMBER) == [
        (first, "output", 9, [1, 2]),
        (first, "seat", 385, []),
        (second, "output", 60, [4, 8]),
        (second, "seat", 315, []),
    ]
    filed = await shop.desk.books.invoices.charged(shop.tenant_id, SEPTEMBER)
    early, late = Interval(SEPTEMBER.start, CUT), Interval(CUT, SEPTEMBER.end)
    assert [line.interval for line in filed] == [early, early, late, late]
    await shop.use(16, at=CUT - TICK)
    await shop.use(32, at=CUT)
    assert await shop.bill(OCTOBER) == [
        ("", "seat", 700, []),
        (first, "output", 48, [16]),
        (second, "output", 160, [32]),
    ]


async def test_a_late_use_of_a_gap_finds_a_list_that_no_invoice_ever_named(shop: Shop) -> None:
    await shop.prices.publish_prices(a_list(1, unit_price=3))
    await shop.sign(a_plan("first", unit_price="5"), starts_at=CUT)
    assert [line[:2] for line in await shop.bill(SEPTEMBER)] == [("17T12:30:00.000001Z", "seat")]
    await shop.prices.publish_prices(a_list(2, unit_price=7))
    await shop.use(2, at=SEPTEMBER.start)
    assert (await shop.bill(OCTOBER))[1:] == [("01T00:00:00.000000Z", "team.output_tokens", 14, [2])]
