"""Settlements through a spool: each is in the books exactly once, wherever it was cut off."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.spool_positions import MemorySpoolPositions
from tritium_platform.adapters.metrics import Metrics
from tritium_platform.adapters.neighbours import Neighbours, spool_of_seat
from tritium_platform.adapters.settlement_codec import decode_settlements, encode_settlements
from tritium_platform.adapters.settlement_store import GroupSettlement, RoomStores
from tritium_platform.adapters.shared_limiter import SharedLimiter
from tritium_platform.adapters.spool import spool_files
from tritium_platform.adapters.spooled_settlements import SpooledSettlements
from tritium_platform.adapters.sql.spool_positions import SqlSpoolPositions
from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.errors import OverloadedError, PlatformError
from tritium_platform.insight.health import OutcomeCount, OutcomeKind
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.quotas.model import QuotaCounter, QuotaMeter, Reservation
from tritium_platform.settlement import Settlement
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock

FROM, UNTIL = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
MONTH = "2026-11"


@pytest.fixture
def store(books: Books, clock: ManualClock) -> GroupSettlement:
    database = books.database
    is_memory = isinstance(database, MemoryDatabase)
    return GroupSettlement(
        RoomStores(
            unit_of_work=books.unit_of_work,
            usage=books.usage,
            reservations=books.reservations,
            intents=books.outbox,  # type: ignore[arg-type]  # both kinds add, too
            outcomes=books.outcomes,
            positions=MemorySpoolPositions(database) if is_memory else SqlSpoolPositions(database),
            clock=clock,
        )
    )


class Shop:
    """A tenant with a lease, and settlements that use it up."""

    def __init__(self, books: Books, clock: ManualClock, *, amount: int = 100) -> None:
        self.books, self.clock, self.tenant_id = books, clock, uuid7(clock)
        self.lease = Reservation(
            id=uuid7(clock),
            tenant_id=self.tenant_id,
            meter=QuotaMeter.REQUESTS,
            period=MONTH,
            amount=amount,
            created_at=clock.now(),
            expires_at=clock.now() + timedelta(seconds=60),
        )

    async def open(self) -> None:
        assert (await self.books.reservations.hold(self.lease, limit=1000))[0]

    def settlement(
        self, *, tokens: int = 3, requests: int = 1, reservation: UUID | None = None
    ) -> Settlement:
        identity, event_id, now = uuid7(self.clock), uuid7(self.clock), self.clock.now()
        return Settlement(
            record=UsageRecord(
                id=identity,
                tenant_id=self.tenant_id,
                source="gateway",
                event_id=event_id.hex,
                operation=OperationType.CHAT,
                tier=TenantTier.TEAM,
                outcome="success",
                occurred_at=now,
                quantities=UsageQuantities(output_tokens=tokens),
                resources=ResourceUsage(compute_time_ms=1),
                model="m",
                key_id="abcDEF012345",
            ),
            event_id=event_id,
            subject=ResourceIdentifier("deployment", "ä"),
            request_id=event_id.hex,
            cost="1/3",
            code=None,
            kind=OutcomeKind.SUCCESS,
            latency_bucket=4,
            reservation_id=reservation or self.lease.id,
            is_leased=reservation is None,
            requests=requests,
        )

    async def require(self, settlements: Sequence[Settlement]) -> None:
        """All of them are in the books, each once, and nothing else is."""
        records = await self.books.usage.list(self.tenant_id, start=FROM, end=UNTIL, limit=10_000)
        assert sorted(each.id for each in records) == sorted(each.record.id for each in settlements)
        intents = [
            each for each in await self.books.outbox.pending(limit=10_000) if each.tenant_id == self.tenant_id
        ]
        assert sorted(each.id for each in intents) == sorted(each.record.id for each in settlements)
        used = sum(each.requests for each in settlements)
        counter = await self.books.reservations.counter(
            self.tenant_id, meter=QuotaMeter.REQUESTS, period=MONTH
        )
        assert counter == QuotaCounter(1000, used, self.lease.amount - used)
        outcomes = await self.books.outcomes.between(self.tenant_id, start=FROM, end=UNTIL)
        assert list(outcomes) == [OutcomeCount(OutcomeKind.SUCCESS, 4, len(settlements))]


def test_a_settlement_is_read_as_it_was_written(books: Books, clock: ManualClock) -> None:
    settlements = [Shop(books, clock).settlement(tokens=tokens) for tokens in range(3)]
    assert decode_settlements(encode_settlements(settlements)) == settlements
    for wrong in (b"", b"\xc1", encode_settlements(settlements)[:-1], b"\x91\x80"):
        with pytest.raises(PlatformError, match="no settlements"):
            decode_settlements(wrong)


async def test_a_group_is_applied_once_whatever_is_tried_again(
    books: Books, store: GroupSettlement, clock: ManualClock
) -> None:
    shop, spool_id = Shop(books, clock), uuid7(clock)
    await shop.open()
    first, second = [shop.settlement() for _ in range(3)], [shop.settlement(requests=0), shop.settlement()]
    for _ in range(2):
        await store.apply(first, spool_id=spool_id, position=10)
    await store.apply(second, spool_id=spool_id, position=25)
    await store.apply(first, spool_id=spool_id, position=10)
    assert await store.position(spool_id) == 25
    await shop.require([*first, *second])
    await store.forget(spool_id)
    assert await store.position(spool_id) == 0


async def test_what_was_reserved_alone_is_settled_or_given_back(
    books: Books, store: GroupSettlement, clock: ManualClock
) -> None:
    shop = Shop(books, clock)
    await shop.open()
    alone = [replace(shop.lease, id=uuid7(clock), amount=1) for _ in range(2)]
    for each in alone:
        await books.reservations.hold(each, limit=1000)
    settlements = [
        shop.settlement(reservation=alone[0].id),
        shop.settlement(reservation=alone[1].id, requests=0),
    ]
    await store.apply(settlements, spool_id=uuid7(clock), position=1)
    counter = await books.reservations.counter(shop.tenant_id, meter=QuotaMeter.REQUESTS, period=MONTH)
    assert counter == QuotaCounter(1000, 1, 100)


class Unlucky(GroupSettlement):
    """A store whose database goes away, before or after it has committed."""

    def __init__(self, store: GroupSettlement, *, failures: list[str]) -> None:
        super().__init__(store._stores)
        self.failures = failures

    async def apply(self, settlements: Sequence[Settlement], *, spool_id: UUID, position: int) -> None:
        failure = self.failures.pop() if self.failures else ""
        if failure == "before":
            raise OverloadedError("away", retry_after=0)
        await super().apply(settlements, spool_id=spool_id, position=position)
        if failure == "after":
            raise OverloadedError("nobody knows", retry_after=0)


async def test_a_database_that_goes_away_at_any_moment_gets_everything_once(
    books: Books, store: GroupSettlement, clock: ManualClock, tmp_path: Path
) -> None:
    shop = Shop(books, clock)
    await shop.open()
    unlucky = Unlucky(store, failures=["after", "before", "after", "before"])
    journal = SpooledSettlements(tmp_path / "spool", store=unlucky, clock=clock, spool_bytes=2000)
    settlements = [shop.settlement(tokens=tokens) for tokens in range(40)]
    for start in range(0, 40, 8):
        await asyncio.gather(*(journal.append(each) for each in settlements[start : start + 8]))
        await asyncio.sleep(0.02)
    await journal.drained()
    await shop.require(settlements)
    await journal.close()
    assert spool_files(tmp_path / "spool") == []


class Scarce(GroupSettlement):
    """A store that has no memory for more than some settlements at once.

    `says` when it finds that out: before or after they are in the books.
    """

    def __init__(self, store: GroupSettlement, *, books: Books, most: int, says: str = "before") -> None:
        super().__init__(store._stores)
        self.database, self.most, self.says = books.database, most, says
        self.taken: list[int] = []
        self.goes_after: int | None = None

    async def apply(self, settlements: Sequence[Settlement], *, spool_id: UUID, position: int) -> None:
        if len(self.taken) == self.goes_after:
            raise OverloadedError("away", retry_after=0)
        is_too_much = len(settlements) > self.most
        if is_too_much and self.says == "before":
            await self.run_out()
        await super().apply(settlements, spool_id=spool_id, position=position)
        if is_too_much:
            await self.run_out()
        self.taken.append(len(settlements))

    async def run_out(self) -> None:
        """Fail as each database does."""
        if isinstance(self.database, MemoryDatabase) or self.database.is_sqlite:
            async with self.database.unit_of_work():
                raise MemoryError
        async with self.database.write() as connection:
            await connection.exec_driver_sql(
                "DO $$ BEGIN RAISE EXCEPTION 'out of memory' USING ERRCODE = '53200'; END $$"
            )


@pytest.mark.parametrize(("most", "says"), [(1, "before"), (3, "before"), (16, "before"), (3, "after")])
async def test_a_group_that_is_too_much_at_once_comes_in_by_parts_each_once(
    *, books: Books, store: GroupSettlement, clock: ManualClock, tmp_path: Path, most: int, says: str
) -> None:
    shop = Shop(books, clock)
    await shop.open()
    scarce = Scarce(store, books=books, most=most, says=says)
    journal = SpooledSettlements(tmp_path / "spool", store=scarce, clock=clock, spool_bytes=4000)
    settlements = [shop.settlement(tokens=tokens) for tokens in range(60)]
    for start in range(0, 60, 20):  # frames of one settlement and of many
        await asyncio.gather(*(journal.append(each) for each in settlements[start : start + 20]))
    await journal.drained()
    await shop.require(settlements)
    assert max(scarce.taken) <= most
    assert sum(scarce.taken) == 60
    await journal.close()
    assert spool_files(tmp_path / "spool") == []


@pytest.mark.parametrize("goes_after", [1, 2, 5, 19])
async def test_a_crash_in_the_middle_of_a_parted_frame_leaves_the_rest_to_the_next_process(
    books: Books, store: GroupSettlement, clock: ManualClock, tmp_path: Path, goes_after: int
) -> None:
    shop = Shop(books, clock)
    await shop.open()
    scarce = Scarce(store, books=books, most=1)
    scarce.goes_after = goes_after
    journal = SpooledSettlements(tmp_path / "spool", store=scarce, clock=clock)
    settlements = [shop.settlement(tokens=tokens) for tokens in range(20)]
    await asyncio.gather(*(journal.append(each) for each in settlements))
    while len(scarce.taken) < goes_after:
        journal._is_urgent.set()
        await asyncio.sleep(0.01)
    await kill(journal)
    await shop.require(settlements[:goes_after])
    least = Scarce(store, books=books, most=2)
    assert await SpooledSettlements(tmp_path / "spool", store=least, clock=clock).recover() == 20 - goes_after
    await shop.require(settlements)
    assert spool_files(tmp_path / "spool") == []


async def test_one_settlement_that_is_too_much_waits_and_is_not_given_up(
    books: Books, store: GroupSettlement, clock: ManualClock, tmp_path: Path
) -> None:
    shop = Shop(books, clock)
    await shop.open()
    scarce = Scarce(store, books=books, most=0)
    journal = SpooledSettlements(tmp_path / "spool", store=scarce, clock=clock)
    settlements = [shop.settlement() for _ in range(5)]
    await asyncio.gather(*(journal.append(each) for each in settlements))
    waiting = asyncio.create_task(journal.drained())
    await asyncio.sleep(0.1)
    assert not await books.usage.list(shop.tenant_id, start=FROM, end=UNTIL, limit=9)
    scarce.most = 2
    await waiting
    await shop.require(settlements)
    await journal.close()


async def test_what_gathered_behind_a_group_whose_answer_was_lost_does_not_bring_it_in_again(
    books: Books, store: GroupSettlement, clock: ManualClock, tmp_path: Path
) -> None:
    shop, more = Shop(books, clock), asyncio.Event()
    await shop.open()

    class Forgetful(Unlucky):
        async def apply(self, settlements: Sequence[Settlement], *, spool_id: UUID, position: int) -> None:
            try:
                await super().apply(settlements, spool_id=spool_id, position=position)
            except OverloadedError:
                await more.wait()
                raise

    journal = SpooledSettlements(tmp_path / "spool", store=Forgetful(store, failures=["after"]), clock=clock)
    first, second = shop.settlement(), shop.settlement()
    await journal.append(first)
    drained = asyncio.create_task(journal.drained())
    while await store.position(UUID((await journal_file(tmp_path / "spool")).stem)) == 0:
        await asyncio.sleep(0.01)
    await journal.append(second)
    more.set()
    await drained
    await journal.drained()
    await shop.require([first, second])
    await journal.close()


async def journal_file(directory: Path) -> Path:
    """Wait for the first spool of a directory."""
    while not (found := spool_files(directory)):
        await asyncio.sleep(0.01)
    return found[0]


async def test_a_database_that_is_away_at_the_end_does_not_keep_a_process_from_ending(
    books: Books, store: GroupSettlement, clock: ManualClock, tmp_path: Path
) -> None:
    class AwayAtTheEnd(Unlucky):
        async def forget(self, spool_id: UUID) -> None:
            raise OverloadedError("away", retry_after=0)

    shop = Shop(books, clock)
    await shop.open()
    journal = SpooledSettlements(tmp_path / "spool", store=AwayAtTheEnd(store, failures=[]), clock=clock)
    kept = shop.settlement()
    await journal.append(kept)
    await journal.close()
    assert await SpooledSettlements(tmp_path / "spool", store=store, clock=clock).recover() == 0
    await shop.require([kept])


async def kill(journal: SpooledSettlements) -> None:
    """Stop a journal as kill -9 does: nothing more is brought in, and its files lie as they are."""
    assert journal._drain is not None
    journal._drain.cancel()
    await asyncio.gather(journal._drain, return_exceptions=True)
    with journal._wake:
        journal._is_closing = True
        journal._wake.notify()


@pytest.mark.parametrize("drained", [0, 3, 7])
async def test_after_a_crash_the_next_process_brings_in_what_is_missing(
    books: Books, store: GroupSettlement, clock: ManualClock, tmp_path: Path, drained: int
) -> None:
    shop = Shop(books, clock)
    await shop.open()
    never = Unlucky(store, failures=["before"] * 10_000)
    directory = tmp_path / "spool"
    journal = SpooledSettlements(directory, store=never, clock=clock, spool_bytes=3000)
    settlements = [shop.settlement(tokens=tokens) for tokens in range(7)]
    for number, each in enumerate(settlements, start=1):
        await journal.append(each)
        if number == drained:
            never.failures.clear()
            await journal.drained()
            never.failures.extend(["before"] * 10_000)
    await kill(journal)
    recovered = SpooledSettlements(directory, store=store, clock=clock)
    assert await recovered.recover() == 7 - drained
    await shop.require(settlements)
    assert await recovered.recover() == 0
    await shop.require(settlements)
    assert spool_files(directory) == []


async def test_a_damaged_spool_of_one_dead_gateway_does_not_keep_out_that_of_another(
    books: Books, store: GroupSettlement, clock: ManualClock, tmp_path: Path
) -> None:
    shop = Shop(books, clock)
    await shop.open()
    never = Unlucky(store, failures=["before"] * 10_000)
    for seat in (1, 2):
        journal = SpooledSettlements(spool_of_seat(tmp_path, seat), store=never, clock=clock)
        left = [shop.settlement() for _ in range(3)]
        for each in left:
            await journal.append(each)
        await kill(journal)
    (damaged,) = spool_files(spool_of_seat(tmp_path, 1))
    data = damaged.read_bytes()
    damaged.write_bytes(b"\0" * 20 + data[20:])
    (tmp_path / "gateway-old").mkdir()  # put aside by hand: nobody's seat
    (tmp_path / "gateway-old" / damaged.name).write_bytes(data)
    limiter = SharedLimiter(tmp_path / "limits")
    nothing: Any = None  # no events were left behind
    neighbours = Neighbours(
        limiter, spool_dir=tmp_path, store=store, events=nothing, telemetry=Metrics(), clock=clock
    )
    with pytest.raises(PlatformError, match="damaged"):
        await neighbours.adopt_spools()
    await shop.require(left)
    limiter.close()


async def test_a_spool_that_is_shorter_than_the_books_or_damaged_stops_the_start(
    books: Books, store: GroupSettlement, clock: ManualClock, tmp_path: Path
) -> None:
    shop = Shop(books, clock)
    await shop.open()
    directory = tmp_path / "spool"
    journal = SpooledSettlements(directory, store=store, clock=clock)
    for _ in range(3):
        await journal.append(shop.settlement())
    await journal.drained()
    (path,) = spool_files(directory)
    data = path.read_bytes()
    for wrong, words in ((data[:-1], "shorter"), (b"\0" * 20 + data[20:], "damaged")):
        path.write_bytes(wrong)
        with pytest.raises(PlatformError, match=words):
            await SpooledSettlements(directory, store=store, clock=clock).recover()
    await journal.close()


async def test_what_cannot_be_written_is_refused_and_later_ones_are_taken_again(
    books: Books, store: GroupSettlement, clock: ManualClock, tmp_path: Path
) -> None:
    shop = Shop(books, clock)
    await shop.open()
    directory = tmp_path / "spool"
    directory.write_text("in the way")
    journal = SpooledSettlements(directory, store=store, clock=clock)
    with pytest.raises(PlatformError, match="cannot be written"):
        await journal.append(shop.settlement())
    directory.unlink()
    kept = shop.settlement()
    await journal.append(kept)
    await journal.drained()
    await shop.require([kept])
    await journal.close()
    with pytest.raises(PlatformError, match="closed"):
        await journal.append(shop.settlement())
