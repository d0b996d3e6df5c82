"""Loads the oracle and what is drawn by their paths: test folders are not packages."""

from __future__ import annotations

import importlib.util
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tritium_platform.adapters.memory.audit_outbox import MemoryAuditOutbox
from tritium_platform.adapters.memory.billing_store import MemoryPriceStore
from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.invoice_store import MemoryBilledUsageStore, MemoryInvoiceStore
from tritium_platform.adapters.memory.metering_store import MemoryUsageStore
from tritium_platform.adapters.memory.money_stores import (
    MemoryCreditStore,
    MemoryJournalStore,
    MemoryOperationStore,
    MemoryPlanStore,
)
from tritium_platform.adapters.memory.payment_store import MemoryNoticeStore, MemoryPaymentStore
from tritium_platform.audit.note import NoteSigner
from tritium_platform.billing.books import BillingBooks
from tritium_platform.billing.contract import UNTAXED
from tritium_platform.billing.desk import open_desk, open_payments
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.billing.rating.plan_json import plan_from_dict
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.tenancy.model import Tenant, TenantTier
from tritium_platform.values import CalendarMonth, uuid7

HERE = Path(__file__).resolve().parent

for name in ("plans", "oracle", "cut_months"):
    known = f"tritium_billing_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, HERE / f"{name}.py")
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])


class Shop:
    """All services of money in memory, with one tenant and a clock that the test owns."""

    def __init__(self, start=datetime(2026, 9, 10, tzinfo=UTC), *, seller=None, providers=()):
        self.database = MemoryDatabase()
        self.clock = ManualClock(start)
        self.tenant_id = uuid7(self.clock)
        self.usage = MemoryUsageStore(self.database)
        self.prices = BillingService(prices=MemoryPriceStore(self.database), clock=self.clock)
        self.outbox = MemoryAuditOutbox(self.database)
        books = BillingBooks(
            unit_of_work=self.database.unit_of_work,
            invoices=MemoryInvoiceStore(self.database),
            usage=MemoryBilledUsageStore(self.database),
            journal=MemoryJournalStore(self.database),
            credits=MemoryCreditStore(self.database),
            operations=MemoryOperationStore(self.database),
            payments=MemoryPaymentStore(self.database),
            outbox=self.outbox,
            clock=self.clock,
        )
        self.desk = open_desk(
            books,
            plan_store=MemoryPlanStore(self.database),
            prices=self.prices,
            tenants=self,
            signer=NoteSigner(
                "tritium.example/audit", private_key=Ed25519PrivateKey.from_private_bytes(b"7" * 32)
            ),
            grace_days=None,
            seller=seller,
            payments=open_payments(books, events=MemoryNoticeStore(self.database), providers=providers),
        )

    async def list_tenants(self):
        return [Tenant(self.tenant_id, "Acme", TenantTier.TEAM, self.clock.now())]

    async def sign(self, plan, *, tax=UNTAXED, starts_at=None):
        """Publish a plan and conclude a contract about it."""
        plan_id = await self.desk.plans.publish(plan_from_dict(plan), actor="test")
        return await self.desk.plans.conclude(
            self.tenant_id,
            plan=plan_id,
            starts_at=starts_at or self.clock.now(),
            ends_at=None,
            payment_days=14,
            tax=tax,
            actor="test",
        )

    async def use(self, tokens, *, at=None, tier=TenantTier.TEAM, model="small", event="", **more):
        """Record a use; return it."""
        record = UsageRecord(
            id=uuid7(self.clock),
            tenant_id=self.tenant_id,
            source="gateway",
            event_id=event or str(uuid7()),
            operation=OperationType.CHAT,
            tier=tier,
            outcome="success",
            occurred_at=at or self.clock.now(),
            quantities=UsageQuantities(output_tokens=tokens, **more),
            resources=ResourceUsage(),
            model=model,
        )
        await self.usage.insert(record)
        return record

    async def bill(self, period):
        """Make the draft of a month and finalize it, some time after its end; return invoice and body."""
        while self.clock.now() < period.end:
            self.clock.advance(seconds=86_400)
        (draft,) = await self.desk.invoices.generate(self.tenant_id, period=period, actor="test")
        invoice = await self.desk.invoices.finalize(draft.id, actor="test")
        return invoice, await self.desk.invoices.body(invoice)


@pytest.fixture
def shop():
    """The services of money, in memory."""
    return Shop()


@pytest.fixture
def make_shop():
    """Makes services of money, each with books of its own."""
    return Shop


@pytest.fixture
def life(shop):
    """Plays a life with everything in it; returns the journal."""

    async def play():
        await shop.prices.publish_prices(default_price_version())
        periods = [CalendarMonth(2026, month) for month in (9, 10, 11, 12)]
        made = []
        for period in periods:
            await shop.use(10**9, at=max(period.start, shop.clock.now()))
            made.append((await shop.bill(period))[0])
        key = {"key": None, "actor": "test"}
        await shop.desk.settlement.record_payment(made[0].id, amount_minor=100, reference="wire", **key)
        await shop.desk.credit_notes.credit(made[0].id, amounts={1: 50}, reason="sorry", **key)
        await shop.desk.settlement.void(made[1].id, actor="test")
        await shop.desk.settlement.write_off(made[2].id, actor="test")
        await shop.desk.grants.grant(
            shop.tenant_id, currency="USD", amount_minor=500, reason="prepaid", **key
        )
        await shop.use(10**9)
        await shop.bill(periods[-1].next())
        return await shop.desk.whole_journal()

    return play
