"""A unit of work keeps everything or nothing, in every kind of database, also when the process dies."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.audit.model import ActionOutcome, AuditIntent, ResourceIdentifier
from tritium_platform.errors import (
    ConflictError,
    InsufficientMemoryError,
    OverloadedError,
    PlatformError,
    ResourceError,
    ValidationError,
)
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.metering.service import MeteringService
from tritium_platform.quotas.model import QuotaCounter
from tritium_platform.quotas.service import QuotaService
from tritium_platform.tenancy.model import ALL_SCOPES, TIER_LIMITS, TenantContext, TenantTier
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock

LIMIT = TIER_LIMITS[TenantTier.TEAM].monthly_quota


def the_context(clock: ManualClock) -> TenantContext:
    limits = TIER_LIMITS[TenantTier.TEAM]
    return TenantContext(uuid7(clock), "Ada", TenantTier.TEAM, limits, "abcDEF012345", ALL_SCOPES)


def the_record(clock: ManualClock, *, tenant_id: UUID, event_id: str, tokens: int = 3) -> UsageRecord:
    return UsageRecord(
        id=uuid7(clock),
        tenant_id=tenant_id,
        source="gateway",
        event_id=event_id,
        operation=OperationType.CHAT,
        tier=TenantTier.TEAM,
        outcome="success",
        occurred_at=clock.now(),
        quantities=UsageQuantities(output_tokens=tokens),
        resources=ResourceUsage(compute_time_ms=1),
    )


def the_intent(clock: ManualClock) -> AuditIntent:
    subject = ResourceIdentifier("model", "small")
    return AuditIntent(
        id=uuid7(clock),
        event_id=uuid7(clock),
        occurred_at=clock.now(),
        action="inference.complete",
        resource_affected=subject,
        outcome=ActionOutcome.SUCCESS,
    )


class Road:
    """The end of a request as the gateway writes it down."""

    def __init__(self, books: Books, clock: ManualClock) -> None:
        self.books = books
        self.clock = clock
        self.context = the_context(clock)
        self.quotas = QuotaService(store=books.reservations, clock=clock)
        self.metering = MeteringService(store=books.usage)

    async def run(self, event_id: str, *, tokens: int = 3, fail: bool = False) -> None:
        admission = await self.quotas.reserve(self.context, tokens=10)
        async with self.books.unit_of_work():
            await self.quotas.settle(self.context, admission=admission, tokens=tokens)
            await self.metering.record(
                the_record(self.clock, tenant_id=self.context.tenant_id, event_id=event_id, tokens=tokens)
            )
            await self.books.outbox.add(the_intent(self.clock))
            if fail:
                raise RuntimeError("the process stumbles")

    async def state(self) -> tuple[QuotaCounter, int, int]:
        month = CalendarMonth.of(self.clock.now())
        records = await self.books.usage.list(
            self.context.tenant_id, start=month.start, end=month.end, limit=1000
        )
        intents = await self.books.outbox.pending(limit=1000)
        return await self.quotas.usage_of_month(self.context), len(records), len(intents)


@pytest.fixture
def road(books: Books, clock: ManualClock) -> Road:
    return Road(books, clock)


async def test_settlement_usage_and_audit_are_kept_together(road: Road) -> None:
    await road.run("one")
    assert await road.state() == (QuotaCounter(LIMIT, 1, 0), 1, 1)


async def test_an_error_at_the_end_leaves_no_trace(road: Road) -> None:
    with pytest.raises(RuntimeError):
        await road.run("one", fail=True)
    assert await road.state() == (QuotaCounter(LIMIT, 0, 1), 0, 0)


async def test_a_conflicting_record_takes_the_settlement_back(road: Road) -> None:
    await road.run("one")
    with pytest.raises(ConflictError):
        await road.run("one", tokens=4)
    assert await road.state() == (QuotaCounter(LIMIT, 1, 1), 1, 1)


async def test_a_unit_inside_a_unit_belongs_to_the_outer_one(books: Books, clock: ManualClock) -> None:
    with pytest.raises(RuntimeError):  # noqa: PT012 - the block is what is tested
        async with books.unit_of_work():
            async with books.unit_of_work():
                await books.outbox.add(the_intent(clock))
            assert len(await books.outbox.pending(limit=5)) == 1
            raise RuntimeError("after the inner one ended well")
    assert not await books.outbox.pending(limit=5)


async def test_a_task_that_outlives_the_unit_it_began_in_writes_for_itself(
    books: Books, clock: ManualClock
) -> None:
    is_over = asyncio.Event()

    async def later() -> None:
        await is_over.wait()
        await books.outbox.add(the_intent(clock))

    async with books.unit_of_work():
        task = asyncio.create_task(later())
        await books.outbox.add(the_intent(clock))
    is_over.set()
    await task
    assert len(await books.outbox.pending(limit=5)) == 2


async def test_many_units_at_the_same_time_all_arrive(road: Road) -> None:
    ended = await asyncio.gather(
        *(road.run(str(number), fail=number % 3 == 0) for number in range(30)), return_exceptions=True
    )
    failed = sum(isinstance(each, RuntimeError) for each in ended)
    assert failed == 10
    assert await road.state() == (QuotaCounter(LIMIT, 20, 10), 20, 20)


async def test_a_cancelled_unit_leaves_no_trace_and_the_next_one_works(
    books: Books, clock: ManualClock
) -> None:
    is_inside = asyncio.Event()

    async def hang() -> None:
        async with books.unit_of_work():
            await books.outbox.add(the_intent(clock))
            is_inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(hang())
    await is_inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not await books.outbox.pending(limit=5)
    async with books.unit_of_work():
        await books.outbox.add(the_intent(clock))
    assert len(await books.outbox.pending(limit=5)) == 1


WRITER = """
    import asyncio, sys
    from datetime import UTC, datetime
    from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.adapters.sql.metering_store import SqlUsageStore
    from tritium_platform.audit.model import ActionOutcome, AuditIntent, ResourceIdentifier
    from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
    from tritium_platform.tenancy.model import TenantTier
    from tritium_platform.values import uuid7

    async def main():
        database = Database(sys.argv[1])
        usage, outbox = SqlUsageStore(database), SqlAuditOutbox(database)
        for number in range(100_000):
            async with database.unit_of_work():
                await usage.insert(UsageRecord(
                    id=uuid7(), tenant_id=UUID(int=1), source="gateway", event_id=str(number),
                    operation=OperationType.CHAT, tier=TenantTier.TEAM, outcome="success",
                    occurred_at=datetime(2026, 11, 1, tzinfo=UTC),
                    quantities=UsageQuantities(output_tokens=1), resources=ResourceUsage()))
                await outbox.add(AuditIntent(
                    id=uuid7(), event_id=uuid7(), occurred_at=datetime(2026, 11, 1, tzinfo=UTC),
                    action="inference.complete", resource_affected=ResourceIdentifier("request", str(number)),
                    outcome=ActionOutcome.SUCCESS))
            print(number, flush=True)

    asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_kill_9_and_nothing_is_half_written(sql_books: Books) -> None:
    url = sql_books.database.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", textwrap.dedent(WRITER), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        acknowledged = [writer.stdout.readline() for _ in range(25)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += writer.stdout.readlines()
    month = CalendarMonth(2026, 11)
    records = await sql_books.usage.list(UUID(int=1), start=month.start, end=month.end, limit=100_000)
    intents = await sql_books.outbox.pending(limit=100_000)
    kept = {record.event_id for record in records}
    assert len(acknowledged) >= 25
    assert {line.strip() for line in acknowledged if line.endswith("\n")} <= kept
    assert {intent.resource_affected.id for intent in intents} == kept


async def test_a_database_that_is_not_there_is_said_so(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "file").write_text("not a directory")
    for url in (
        f"sqlite+aiosqlite:///{tmp_path}/file/books.sqlite3",
        "postgresql+psycopg://nobody@127.0.0.1:1/nothing?connect_timeout=2",
    ):
        database = Database(url)
        with pytest.raises(OverloadedError, match="does not answer") as caught:
            await SqlUsageStore(database).insert(the_record(clock, tenant_id=uuid7(clock), event_id="one"))
        assert not any(word in caught.value.message for word in ("127.0.0.1", "nobody", "file"))
        await database.close()


async def test_an_error_of_a_statement_does_not_repeat_its_values(sql_books: Books) -> None:
    wrong = text("SELECT no_such_column FROM usage_records WHERE source = :source")
    with pytest.raises((OverloadedError, DBAPIError)) as caught:
        async with sql_books.database.read() as connection:
            await connection.execute(wrong, {"source": "hunter2"})
    assert "no_such_column" in str(caught.value.__cause__)
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


async def test_a_file_that_is_no_database_is_said_so(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "books.sqlite3"
    path.write_bytes(b"this is not a database at all" * 100)
    database = Database(f"sqlite+aiosqlite:///{path}")
    with pytest.raises(PlatformError):
        await SqlUsageStore(database).insert(the_record(clock, tenant_id=uuid7(clock), event_id="one"))
    await database.close()


async def test_a_full_disk_is_said_so_and_what_was_kept_stays(
    tmp_path: Path, migrated_sqlite: bytes, clock: ManualClock
) -> None:
    path = tmp_path / "books.sqlite3"
    path.write_bytes(migrated_sqlite)
    database = Database(f"sqlite+aiosqlite:///{path}", pool_size=1)
    usage, tenant_id, kept = SqlUsageStore(database), uuid7(clock), 0
    async with database.read() as connection:
        pages = (await connection.execute(text("PRAGMA page_count"))).scalar_one()
        await connection.execute(text(f"PRAGMA max_page_count = {pages + 4}"))
    with pytest.raises(ResourceError, match="full"):  # noqa: PT012 - until one does not fit
        for kept in range(10_000):
            await usage.insert(the_record(clock, tenant_id=tenant_id, event_id=str(kept)))
    month = CalendarMonth.of(clock.now())
    found = await usage.list(tenant_id, start=month.start, end=month.end, limit=10_000)
    assert {record.event_id for record in found} == {str(number) for number in range(kept)}
    assert kept > 0
    await database.close()


@pytest.mark.service
@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("53100", ResourceError),
        ("53200", InsufficientMemoryError),
        ("53000", InsufficientMemoryError),
        ("53300", OverloadedError),  # too many connections: a smaller request would not be let in either
        ("57P01", OverloadedError),
        ("25006", OverloadedError),
    ],
)
async def test_what_postgresql_has_used_up_is_told_apart_from_one_that_is_away(
    migrated_postgresql: str, state: str, error: type[Exception]
) -> None:
    database = Database(migrated_postgresql, pool_size=1)
    with pytest.raises(error) as caught:
        async with database.write() as connection:
            await connection.exec_driver_sql(
                f"DO $$ BEGIN RAISE EXCEPTION 'it is so' USING ERRCODE = '{state}'; END $$"
            )
    assert type(caught.value) is error
    await database.close()


async def test_what_sqlite_has_no_memory_for_is_told_as_that(sql_books: Books) -> None:
    async def run_out() -> None:
        async with sql_books.unit_of_work():
            raise MemoryError  # as the driver does for SQLITE_NOMEM

    with pytest.raises(InsufficientMemoryError):
        await run_out()


@pytest.mark.parametrize(
    "url", ["", "nonsense", "sqlite+aiosqlite://", "sqlite:///x", "mysql://x", "sqlite+aiosqlite:///:memory:"]
)
def test_other_databases_are_refused_by_name(url: str) -> None:
    with pytest.raises(ValidationError):
        Database(url)
