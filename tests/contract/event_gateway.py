"""A gateway that takes events in, over a database that goes away when a test wants it.

Loaded by path from conftest.py and event_worker.py: test folders are not packages.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tritium_platform.adapters.capped_ingestion import CappedIngestion
from tritium_platform.adapters.event_replay import EventReplay
from tritium_platform.adapters.ingestion_trail import AuditedIngestion
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.spend_store import MemorySpendStore
from tritium_platform.adapters.memory.spool_positions import MemorySpoolPositions
from tritium_platform.adapters.metrics import Metrics
from tritium_platform.adapters.spooled_events import SpooledEvents
from tritium_platform.adapters.sql.spend_store import SqlSpendStore
from tritium_platform.adapters.sql.spool_positions import SqlSpoolPositions
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.model import MeterPrice, PriceVersion
from tritium_platform.errors import BitNetServiceError, OverloadedError
from tritium_platform.metering.event import ReportedEvent, Sender
from tritium_platform.metering.event_writer import EventWriter
from tritium_platform.metering.ingestion import Ingestion
from tritium_platform.metering.model import Meter
from tritium_platform.quotas.model import QuotaMeter
from tritium_platform.quotas.spend_cap import SpendCap
from tritium_platform.quotas.spending import SpendService
from tritium_platform.tenancy.confirmation import Confirmation
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path
    from uuid import UUID

    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock
    from tritium_platform.metering.event_writer import Outcome

_inside: ContextVar[bool] = ContextVar("inside", default=False)


class Fate:
    """A database that goes away: for good, or once before or after it has committed."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.is_away = False
        self.failures: list[str] = []
        self.most: int | None = None

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[None]:
        if _inside.get():
            async with self.books.unit_of_work():
                yield
            return
        failure = self.failures.pop(0) if self.failures else ""
        if self.is_away or failure == "before":
            raise OverloadedError("away", retry_after=0)
        token = _inside.set(True)
        try:
            async with self.books.unit_of_work():
                yield
        finally:
            _inside.reset(token)
        if failure == "after":
            raise OverloadedError("nobody knows", retry_after=0)


class Gateway:
    """A gateway that takes events in over some books, with a spool in a directory."""

    def __init__(self, books: Books, clock: ManualClock, directory: Path, **spool: Any) -> None:
        self.books, self.clock, self.directory = books, clock, directory
        self.fate, self.metrics = Fate(books), Metrics()
        database: Any = books.database
        is_memory = isinstance(database, MemoryDatabase)
        self.spending = SpendService(
            store=(MemorySpendStore if is_memory else SqlSpendStore)(database),
            reservations=books.reservations,
            trail=books.outbox,  # type: ignore[arg-type]  # every outbox takes intents
            unit_of_work=books.unit_of_work,
            clock=clock,
            reservation_seconds=900,
        )
        prices = BillingService(prices=books.prices, clock=clock)
        trail = AuditedIngestion(intents=books.outbox, clock=clock)  # type: ignore[arg-type]  # the same
        writer = EventWriter(
            store=books.events,
            trail=trail,
            unit_of_work=self.fate.unit_of_work,
            clock=clock,
            caps=CappedIngestion(spending=self.spending, prices=prices, clock=clock),
        )
        self.replay = EventReplay(
            writer=writer,
            trail=trail,
            positions=(MemorySpoolPositions if is_memory else SqlSpoolPositions)(database),
            unit_of_work=self.fate.unit_of_work,
            caps=self,
            senders=Confirmation(books.tenants),
            telemetry=self.metrics,
        )
        self.spool = SpooledEvents(directory, store=self.replay, clock=clock, telemetry=self.metrics, **spool)
        self.ingestion = Ingestion(writer=writer, clock=clock, spool=self.spool)

    async def refresh(self) -> None:
        if self.fate.is_away:
            raise OverloadedError("away", retry_after=0)
        await self.spending.refresh()

    async def send(
        self, *events: ReportedEvent, key_id: str | None = None, is_confirmed: bool = True
    ) -> list[str]:
        tenants = {each.tenant_id for each in events if each.tenant_id}
        tiers = dict.fromkeys(tenants, TenantTier.TEAM)
        sender = Sender(tiers=tiers, key_id=key_id, is_confirmed=is_confirmed)
        return named(await self.ingestion.ingest(events, sender=sender))

    async def drained(self) -> None:
        while self.spool.is_waiting():
            await asyncio.sleep(0.001)

    async def kill(self) -> None:
        """Stop as kill -9 does: nothing more is brought in, and the files lie as they are."""
        self.spool._is_closed = True
        if self.spool._replay is not None:
            self.spool._replay.cancel()
            await asyncio.gather(self.spool._replay, return_exceptions=True)

    def shown(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def named(outcomes: Sequence[Outcome]) -> list[str]:
    return [each.code if isinstance(each, BitNetServiceError) else each.value for each in outcomes]


def an_event(clock: ManualClock, tenant_id: UUID, name: str = "1", **changes: Any) -> ReportedEvent:
    fields = {
        "source": "engine-7",
        "id": name,
        "meter": "output_tokens",
        "quantity": 7,
        "event_time": clock.now(),
        "tenant_id": tenant_id,
        "dimensions": {"model": "größte-✓"},
    }
    return ReportedEvent(**{**fields, **changes})


async def records(books: Books, clock: ManualClock, tenant_id: UUID) -> list[Any]:
    month = CalendarMonth.of(clock.now())
    return list(await books.usage.list(tenant_id, start=month.start, end=month.end, limit=10_000))


async def counted(books: Books, clock: ManualClock, tenant_id: UUID) -> dict[str, int]:
    found = await records(books, clock, tenant_id)
    quantities = {each.event_id: each.quantities.output_tokens for each in found}
    assert len(quantities) == len(found)
    return quantities


async def entries(books: Books, action: str, tenant_id: UUID) -> list[Any]:
    found = await books.outbox.pending(limit=10_000)
    return [each for each in found if (each.action, each.tenant_id) == (action, tenant_id)]


async def cap(gateway: Gateway, tenant_id: UUID) -> None:
    """Cap a tenant; a token costs a cent."""
    await BillingService(prices=gateway.books.prices, clock=gateway.clock).publish_prices(
        PriceVersion(
            currency="USD",
            valid_from=datetime(2026, 1, 1, tzinfo=UTC),
            prices={TenantTier.TEAM: {Meter.OUTPUT_TOKENS: MeterPrice(Fraction(1))}},
        )
    )
    limit = SpendCap(tenant_id=tenant_id, amount_minor=10**6, currency="USD")
    await gateway.spending.set_cap(limit, spent=0, actor="test")


async def spent(gateway: Gateway, tenant_id: UUID) -> int:
    period = str(CalendarMonth.of(gateway.clock.now()))
    counter = await gateway.books.reservations.counter(tenant_id, meter=QuotaMeter.SPEND, period=period)
    return counter.used if counter else 0
