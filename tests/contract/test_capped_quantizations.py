"""Quantizations are held to spend caps: reserved when they are accepted, counted when they are done."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.spend_store import MemorySpendStore
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.spend_store import SqlSpendStore
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.model import MeterPrice, PriceVersion
from tritium_platform.errors import OverloadedError, SpendCapReachedError, StorageQuotaExceededError
from tritium_platform.metering.model import Meter
from tritium_platform.metering.service import MeteringService
from tritium_platform.quotas.model import QuotaMeter
from tritium_platform.quotas.service import QuotaService
from tritium_platform.quotas.spend_cap import MICRO, SpendCap, SpendMode
from tritium_platform.quotas.spending import SpendService
from tritium_platform.serving import quantization_work
from tritium_platform.serving.job import JobState, QuantizationJob
from tritium_platform.serving.model import ModelKind
from tritium_platform.serving.quantization import PlannedQuantization, QuantizationService
from tritium_platform.serving.quantization_work import QuantizationWork, WorkBooks
from tritium_platform.serving.registry import RegistryService
from tritium_platform.serving.uploads import UploadService
from tritium_platform.tenancy.model import TIER_LIMITS, TenantContext, TenantTier

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock

# 40 cents for a model of 120 parameters.
PARAMETERS, COST = 120, 40 * MICRO
PRICES = {Meter.QUANTIZED_PARAMETERS: MeterPrice(Fraction(1, 3))}
TENANT = UUID(int=9)
CONTEXT = TenantContext(
    tenant_id=TENANT,
    organization_name="Acme",
    tier=TenantTier.TEAM,
    limits=TIER_LIMITS[TenantTier.TEAM],
    key_id="key",
    scopes=frozenset(),
)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


class Work(QuantizationWork):
    """Quantizes nothing: the models are there."""

    def _parameters(self, job: QuantizationJob) -> int:
        del job
        return PARAMETERS


class Queue:
    async def enqueue(self, job_id: UUID) -> None:
        """Nobody works but the test."""


def service_of(books: Books, clock: ManualClock) -> SpendService:
    database: Any = books.database
    store = MemorySpendStore if isinstance(database, MemoryDatabase) else SqlSpendStore
    return SpendService(
        store=store(database),
        reservations=books.reservations,
        trail=books.outbox,  # type: ignore[arg-type]  # every outbox takes intents
        unit_of_work=books.unit_of_work,
        clock=clock,
        reservation_seconds=900,
    )


@dataclass
class Shop:
    """A gateway and a worker over the same books, each with a view of the caps of its own."""

    books: Books
    clock: ManualClock
    directory: Path
    prices: dict[Meter, MeterPrice] = field(default_factory=lambda: PRICES)

    def __post_init__(self) -> None:
        self.spending = service_of(self.books, self.clock)
        billing = BillingService(prices=self.books.prices, clock=self.clock)
        self.billing = billing
        quotas = QuotaService(store=self.books.reservations, clock=self.clock)
        models = self.directory / "models"
        registry = RegistryService(store=self.books.models, roots=(), clock=self.clock)
        uploads = UploadService(
            directory=self.directory / "uploads", limit=1, quotas=quotas, clock=self.clock
        )
        self.quantizations = QuantizationService(
            jobs=self.books.jobs,
            queue=Queue(),
            uploads=uploads,
            registry=registry,
            quotas=quotas,
            spending=self.spending,
            prices=billing,
            unit_of_work=self.books.unit_of_work,
            models_dir=models,
            clock=self.clock,
        )
        books = WorkBooks(
            jobs=self.books.jobs,
            models=self.books.models,
            quotas=quotas,
            spending=service_of(self.books, self.clock),
            prices=billing,
            metering=MeteringService(store=self.books.usage),
            outbox=self.books.outbox,  # type: ignore[arg-type]
            unit_of_work=self.books.unit_of_work,
            clock=self.clock,
        )
        self.work = Work(books=books, jobs_dir=self.directory / "jobs", models_dir=models)

    async def open(self) -> Shop:
        version = PriceVersion(
            currency="USD", valid_from=datetime(2026, 1, 1, tzinfo=UTC), prices={TenantTier.TEAM: self.prices}
        )
        await self.billing.publish_prices(version)
        return self

    async def cap(self, amount: int, **values: Any) -> None:
        cap = SpendCap(tenant_id=TENANT, amount_minor=amount, currency="USD", **values)
        await self.spending.set_cap(cap, spent=0, actor="test")

    async def ask(self, name: str = "small", *, size: int = 100) -> QuantizationJob:
        planned = PlannedQuantization(
            source="here", path="/here", size_bytes=size, parameters=PARAMETERS, name=name, config={}
        )
        return await self.quantizations.submit(CONTEXT, planned=planned)

    async def begin(self, job: QuantizationJob) -> None:
        running = await self.quantizations.get(TENANT, job.id)
        if not running.state.is_final:
            begun = replace(running, state=JobState.RUNNING)
            assert await self.books.jobs.move(begun, expected=[running.state])

    async def finish(self, job: QuantizationJob) -> dict[str, Any]:
        await self.begin(job)
        (self.directory / "models" / str(TENANT) / str(job.id)).mkdir(parents=True, exist_ok=True)
        return await self.work.finish(job.id)

    async def counter(self, period: str = "2026-11") -> tuple[int, int]:
        found = await self.books.reservations.counter(TENANT, meter=QuotaMeter.SPEND, period=period)
        return (found.used, found.held) if found else (0, 0)

    async def alerts(self) -> list[int]:
        entries = await self.books.outbox.pending(limit=10_000)
        found = [each.details["threshold"] for each in entries if each.action == "spend.alert"]
        return sorted(int(str(each)) for each in found)


@pytest.fixture
async def shop(books: Books, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(quantization_work, "inspect_checkpoint", lambda _: (ModelKind.GENERATE, 50))
    return await Shop(books, clock, tmp_path).open()


async def test_what_a_quantization_costs_is_reserved_at_once_and_used_when_it_is_done(shop: Shop) -> None:
    await shop.cap(100)
    first, second = await shop.ask("first"), await shop.ask("second")
    assert await shop.counter() == (0, 2 * COST)
    with pytest.raises(SpendCapReachedError) as caught:
        await shop.ask("third")
    assert caught.value.details["remaining"] == "0.20 USD"
    assert await shop.alerts() == [100]
    assert {job.id for job in await shop.quantizations.list(TENANT)} == {first.id, second.id}
    assert await shop.finish(first) == {"model": "first"}
    assert await shop.counter() == (COST, COST)
    assert await shop.finish(second) == {"model": "second"}
    assert await shop.counter() == (2 * COST, 0)
    assert await shop.alerts() == [50, 80, 100]
    with pytest.raises(SpendCapReachedError):
        await shop.ask("fourth")


async def test_the_work_of_a_refused_one_keeps_nothing(shop: Shop) -> None:
    await shop.cap(100)
    with pytest.raises(StorageQuotaExceededError):
        await shop.ask(size=2**60)
    assert await shop.counter() == (0, 0)
    await shop.cap(39)
    with pytest.raises(SpendCapReachedError):
        await shop.ask()
    assert await shop.counter() == (0, 0)
    storage = await shop.quantizations._quotas.storage.usage(CONTEXT)
    assert (storage.used, storage.held) == (0, 0)
    assert await shop.quantizations.list(TENANT) == []


async def test_a_job_that_failed_or_was_cancelled_gives_its_money_back(shop: Shop) -> None:
    await shop.cap(100)
    waiting, failed = await shop.ask("waiting"), await shop.ask("failed")
    await shop.quantizations.cancel(TENANT, waiting.id)
    assert await shop.counter() == (0, COST)
    await shop.begin(failed)
    for _ in range(2):
        await shop.work.stop(failed.id, {"stopped": "failed", "code": "quantization"})
    assert await shop.counter() == (0, 0)
    assert await shop.alerts() == []
    assert await shop.ask("again")


async def test_a_cap_set_while_a_job_runs_counts_it_when_it_is_done_beyond_the_cap_too(shop: Shop) -> None:
    job = await shop.ask()
    assert await shop.counter() == (0, 0)
    await shop.cap(30)
    await shop.finish(job)
    assert await shop.counter() == (COST, 0)
    assert await shop.alerts() == [50, 80, 100]
    assert (await shop.finish(job))["stopped"] == "succeeded"
    assert await shop.counter() == (COST, 0)


async def test_a_cap_taken_away_while_a_job_runs_leaves_nothing_held(shop: Shop) -> None:
    await shop.cap(100)
    job = await shop.ask()
    await shop.spending.remove_cap(TENANT, actor="test")
    await shop.finish(job)
    assert await shop.counter() == (0, 0)
    assert await shop.alerts() == []


async def test_a_job_counts_in_the_month_it_is_billed_in(shop: Shop) -> None:
    await shop.cap(100)
    job = await shop.ask()
    shop.clock.advance(seconds=(DECEMBER - shop.clock.now()).total_seconds())
    await shop.finish(job)
    assert [await shop.counter("2026-11"), await shop.counter("2026-12")] == [(0, 0), (COST, 0)]
    assert await shop.alerts() == []
    assert await shop.ask("next")


async def test_shadow_mode_counts_and_refuses_nothing(shop: Shop) -> None:
    await shop.cap(50, mode=SpendMode.SHADOW)
    jobs = [await shop.ask(name) for name in ("first", "second")]
    assert await shop.counter() == (0, 2 * COST)
    for job in jobs:
        await shop.finish(job)
    status = await shop.spending.status(TENANT)
    assert status is not None
    assert (status.counter.used, status.would_refuse) == (2 * COST, 1)
    assert await shop.alerts() == [50, 80, 100]


async def test_computing_time_that_has_a_price_is_counted_when_it_is_known(
    books: Books, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization_work, "inspect_checkpoint", lambda _: (ModelKind.GENERATE, 50))
    prices = {**PRICES, Meter.COMPUTE_MS: MeterPrice(Fraction(1, 50))}
    shop = await Shop(books, clock, tmp_path, prices).open()
    await shop.cap(45)
    job = await shop.ask()
    assert await shop.counter() == (0, COST)
    await books.jobs.record_layer(
        job.id,
        quantization_work.JobLayer(
            index=0, name="layer", strategy="standard", planes=1, loss=0.1, seconds=0.5
        ),
    )
    await shop.finish(job)
    assert await shop.counter() == (COST + 10 * MICRO, 0)


async def test_a_job_whose_end_is_not_kept_costs_nothing_yet(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.cap(100)
    job = await shop.ask()

    async def fail(*_: object) -> None:
        raise OverloadedError("The database went away.")

    with monkeypatch.context() as patched:
        patched.setattr(shop.books.outbox, "add", fail)
        with pytest.raises(OverloadedError):
            await shop.finish(job)
    assert await shop.counter() == (0, COST)
    await shop.finish(job)
    assert await shop.counter() == (COST, 0)


async def test_of_many_asked_at_several_gateways_at_once_as_many_run_as_the_cap_leaves(
    sql_books: Books, sql_url: str, clock: ManualClock, books_in: Any, tmp_path: Path
) -> None:
    others = [Database(sql_url, pool_size=3) for _ in range(2)]
    shops = [await Shop(each, clock, tmp_path).open() for each in (sql_books, *map(books_in, others))]
    await shops[0].cap(200)  # five of forty cents
    for shop in shops:
        await shop.spending.refresh()

    async def ask(number: int) -> bool:
        try:
            await shops[number % 3].ask(f"model {number}")
        except SpendCapReachedError:
            return False
        return True

    try:
        assert sum(await asyncio.gather(*map(ask, range(12)))) == 5
        assert await shops[0].counter() == (0, 5 * COST)
        assert len(await shops[0].quantizations.list(TENANT)) == 5
    finally:
        for each in others:
            await each.close()
