"""Events while the database is away: durable at once, in the books afterwards, the first one first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pytest
from tritium_event_gateway import Gateway, an_event, cap, counted, entries, records, spent

from tritium_platform.adapters.event_codec import SpooledEvent, decode_events, encode_events
from tritium_platform.adapters.ingestion_trail import MOST_IDS
from tritium_platform.adapters.neighbours import Neighbours, events_in, spool_of_seat
from tritium_platform.adapters.shared_limiter import SharedLimiter
from tritium_platform.adapters.spool import read_spool, spool_files
from tritium_platform.errors import (
    BitNetServiceError,
    InsufficientMemoryError,
    OverloadedError,
    PlatformError,
)
from tritium_platform.metering.event import Sender, accept_events
from tritium_platform.quotas.spend_cap import MICRO
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import uuid7, uuids7_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock


@pytest.fixture
def gateway(books: Books, clock: ManualClock, tmp_path: Path) -> Gateway:
    return Gateway(books, clock, tmp_path / "events")


async def test_events_wait_for_the_database_and_come_in_as_they_arrived(
    books: Books, clock: ManualClock, gateway: Gateway
) -> None:
    tenant_id, arrived = uuid7(clock), clock.now()
    gateway.fate.is_away = True
    events = [an_event(clock, tenant_id, name) for name in ("a", "b", "a")]
    assert await gateway.send(*events, key_id="abcDEF012345") == ["deferred"] * 3
    assert await records(books, clock, tenant_id) == []
    (path,) = spool_files(gateway.directory)
    (frame,) = read_spool(path).frames
    kept = {each.event.id: each.identity for each in reversed(decode_events(frame.payload))}
    assert gateway.shown("tritium_event_spool_bytes") == path.stat().st_size
    clock.advance(seconds=3600)
    gateway.fate.is_away = False
    await gateway.drained()
    found = await records(books, clock, tenant_id)
    assert {each.event_id: each.id.bytes for each in found} == kept
    assert {(each.key_id, each.report.received_at) for each in found} == {("abcDEF012345", arrived)}
    assert {(each.model, each.tier) for each in found} == {("größte-✓", TenantTier.TEAM)}
    (entry,) = await entries(books, "usage.ingest", tenant_id)
    assert (entry.key_id, dict(entry.details)) == ("abcDEF012345", {"events": 2})
    assert await entries(books, "usage.refuse", tenant_id) == []
    assert spool_files(gateway.directory) == []
    assert (gateway.shown("tritium_event_spool_bytes"), gateway.shown("tritium_events_deferred_total")) == (
        0,
        3,
    )
    assert await gateway.send(events[0], an_event(clock, tenant_id, "c")) == ["duplicate", "accepted"]
    await gateway.ingestion.close()


async def test_after_one_failure_events_are_written_at_once_again_however_many_arrive(
    books: Books, clock: ManualClock, gateway: Gateway
) -> None:
    tenant_id = uuid7(clock)
    gateway.fate.failures = ["before"]
    assert await gateway.send(an_event(clock, tenant_id, "first")) == ["deferred"]
    names, answers = [f"{number:03}" for number in range(200)], []

    async def send_without_a_pause(mine: Sequence[str]) -> None:
        for name in mine:
            answers.extend(await gateway.send(an_event(clock, tenant_id, name)))

    # Each sends its next one while those of the others are brought in or written.
    await asyncio.gather(*(send_without_a_pause(names[place::4]) for place in range(4)))
    assert answers.count("accepted") > len(names) // 2
    assert answers[-1] == "accepted"
    await gateway.ingestion.close()
    assert await counted(books, clock, tenant_id) == dict.fromkeys(("first", *names), 7)


async def test_what_is_refused_is_refused_at_once_and_the_rest_waits(
    books: Books, clock: ManualClock, gateway: Gateway
) -> None:
    tenant_id = uuid7(clock)
    gateway.fate.is_away = True
    wrong = an_event(clock, tenant_id, "w", meter="seconds")
    assert await gateway.send(an_event(clock, tenant_id, "a"), wrong) == ["deferred", "validation"]
    gateway.fate.is_away = False
    await gateway.ingestion.close()
    assert await counted(books, clock, tenant_id) == {"a": 7}


async def test_the_first_event_under_a_key_stays_and_the_others_are_named(
    books: Books, clock: ManualClock, gateway: Gateway
) -> None:
    tenant_id, names = uuid7(clock), [f"{number:03}" for number in range(MOST_IDS + 1)]
    assert await gateway.send(an_event(clock, tenant_id, "known")) == ["accepted"]
    gateway.fate.is_away = True
    await gateway.send(*(an_event(clock, tenant_id, name) for name in names))
    others = [an_event(clock, tenant_id, name, quantity=8) for name in ("known", *names)]
    assert await gateway.send(*others, key_id="abcDEF012345") == ["deferred"] * len(others)
    gateway.fate.failures = ["after"] * 3  # nobody is named twice because an answer was lost
    gateway.fate.is_away = False
    await gateway.drained()
    assert await counted(books, clock, tenant_id) == dict.fromkeys(("known", *names), 7)
    found = await entries(books, "usage.refuse", tenant_id)
    assert sorted("\n".join(str(each.details["ids"]) for each in found).split("\n")) == [*names, "known"]
    assert sorted(int(each.details["events"]) for each in found) == [2, MOST_IDS]
    assert {
        (each.key_id, each.details["source"], each.details["code"], each.outcome.value) for each in found
    } == {("abcDEF012345", "engine-7", "conflict", "failure")}
    assert gateway.shown("tritium_events_refused_total", code="conflict") == len(others)
    await gateway.ingestion.close()


async def test_what_arrives_while_some_wait_goes_behind_them(
    books: Books, clock: ManualClock, gateway: Gateway
) -> None:
    tenant_id = uuid7(clock)
    gateway.fate.failures = ["before"] * 3
    assert await gateway.send(an_event(clock, tenant_id)) == ["deferred"]
    assert await gateway.send(an_event(clock, tenant_id, quantity=8)) == ["deferred"]
    await gateway.drained()
    assert await counted(books, clock, tenant_id) == {"1": 7}
    assert len(await entries(books, "usage.refuse", tenant_id)) == 1
    await gateway.ingestion.close()


@pytest.mark.parametrize("failures", [["after"], ["before", "after"], ["after", "after", "before", "after"]])
async def test_an_answer_that_is_lost_counts_nothing_twice(
    books: Books, clock: ManualClock, gateway: Gateway, failures: list[str]
) -> None:
    tenant_id = uuid7(clock)
    await cap(gateway, tenant_id)
    gateway.fate.failures = list(failures)
    assert await gateway.send(an_event(clock, tenant_id, "a"), an_event(clock, tenant_id, "b")) == [
        "deferred",
        "deferred",
    ]
    await gateway.drained()
    assert await counted(books, clock, tenant_id) == {"a": 7, "b": 7}
    assert await spent(gateway, tenant_id) == 14 * MICRO
    (entry,) = await entries(books, "usage.ingest", tenant_id)
    assert dict(entry.details) == {"events": 2}
    await gateway.ingestion.close()


async def test_a_row_of_an_earlier_transaction_is_taken_under_its_own_id_too(
    books: Books, clock: ManualClock
) -> None:
    """As when a commit comes to its end after its spool's position was looked at."""
    tenant_id = uuid7(clock)
    sender = Sender(tiers={tenant_id: TenantTier.TEAM})
    (event,) = accept_events([an_event(clock, tenant_id)], sender=sender, now=clock.now())
    assert not isinstance(event, BitNetServiceError)
    (identity,) = uuids7_bytes(1, clock=clock)
    assert await books.events.keep([event], identities=[identity]) == {}
    assert await books.events.keep([event], identities=[identity]) == {0: event.body_sha256}


async def test_a_cap_that_others_set_meanwhile_counts_what_waited(
    books: Books, clock: ManualClock, gateway: Gateway, tmp_path: Path
) -> None:
    tenant_id, other = uuid7(clock), Gateway(books, clock, tmp_path / "other")
    gateway.fate.is_away = True
    await gateway.send(an_event(clock, tenant_id))
    await cap(other, tenant_id)
    gateway.fate.is_away = False
    await gateway.drained()
    assert await spent(gateway, tenant_id) == 7 * MICRO
    await gateway.ingestion.close()


async def test_an_event_that_the_database_refuses_keeps_nothing_else_back(
    sql_books: Books, clock: ManualClock, tmp_path: Path
) -> None:
    tenant_id = uuid7(clock)
    gateway = Gateway(sql_books, clock, tmp_path / "events")
    sender = Sender(tiers={tenant_id: TenantTier.TEAM})
    events = [an_event(clock, tenant_id, name) for name in "abcde"]
    judged: list[Any] = accept_events(events, sender=sender, now=clock.now())
    judged[2] = type(judged[2])(
        **{name: getattr(judged[2], name) for name in judged[2].__struct_fields__} | {"quantity": -1}
    )
    gateway.fate.is_away = True
    await gateway.spool.append(judged)
    gateway.fate.is_away = False
    await gateway.drained()
    assert await counted(sql_books, clock, tenant_id) == dict.fromkeys("abde", 7)
    (entry,) = await entries(sql_books, "usage.refuse", tenant_id)
    assert (entry.details["ids"], entry.details["events"]) == ("c", 1)
    accepted = await entries(sql_books, "usage.ingest", tenant_id)
    assert sum(int(each.details["events"]) for each in accepted) == 4
    await gateway.ingestion.close()


class Scarce:
    """An event store that has no memory for more than three events, and goes away after some."""

    def __init__(self, gateway: Gateway, *, goes_after: int) -> None:
        self.gateway, self.goes_after = gateway, goes_after
        self.sizes: list[int] = []

    async def keep(self, events: Sequence[Any], *, identities: Sequence[bytes]) -> Any:
        if len(self.sizes) == self.goes_after:
            self.gateway.fate.is_away = True
            raise OverloadedError("away", retry_after=0)
        if len(events) > 3:
            raise InsufficientMemoryError("no memory for so much")
        self.sizes.append(len(events))
        return await self.gateway.books.events.keep(events, identities=identities)


async def test_a_group_that_is_too_much_comes_in_by_parts_and_goes_on_with_the_next_one(
    books: Books, clock: ManualClock, gateway: Gateway, tmp_path: Path
) -> None:
    tenant_id = uuid7(clock)
    gateway.fate.is_away = True
    await gateway.send(*(an_event(clock, tenant_id, str(number)) for number in range(20)))
    await gateway.kill()
    sizes: list[int] = []
    for goes_after in (3, 100):
        alive = Gateway(books, clock, tmp_path / "events")
        scarce = Scarce(alive, goes_after=goes_after)
        alive.replay._writer._store = scarce  # type: ignore[assignment]
        await alive.spool.open()
        while alive.spool.is_waiting() and not alive.fate.is_away:
            await asyncio.sleep(0.001)
        await alive.kill()
        sizes += scarce.sizes
    assert len(await counted(books, clock, tenant_id)) == sum(sizes) == 20
    assert max(sizes) <= 3


async def test_a_group_that_is_in_the_books_is_not_looked_at_again(
    books: Books, clock: ManualClock, gateway: Gateway
) -> None:
    tenant_id = uuid7(clock)
    await gateway.send(an_event(clock, tenant_id))
    sender = Sender(tiers={tenant_id: TenantTier.TEAM})
    (event,) = accept_events([an_event(clock, tenant_id, quantity=8)], sender=sender, now=clock.now())
    assert not isinstance(event, BitNetServiceError)
    (identity,) = uuids7_bytes(1, clock=clock)
    spool_id = uuid7(clock)
    for position in (100, 100, 60):
        await gateway.replay.apply([SpooledEvent(event, identity)], spool_id=spool_id, position=position)
    assert await gateway.replay.position(spool_id) == 100
    assert gateway.shown("tritium_events_refused_total", code="conflict") == 1
    assert len(await entries(books, "usage.refuse", tenant_id)) == 1


async def test_what_a_dead_gateway_left_is_adopted(books: Books, clock: ManualClock, tmp_path: Path) -> None:
    tenant_id = uuid7(clock)
    dead = Gateway(books, clock, events_in(spool_of_seat(tmp_path, 1)))
    dead.fate.is_away = True
    await dead.send(an_event(clock, tenant_id))
    await dead.kill()
    alive, nothing = Gateway(books, clock, events_in(tmp_path)), None
    limiter = SharedLimiter(tmp_path / "limits")
    neighbours = Neighbours(
        limiter,
        spool_dir=tmp_path,
        store=nothing,  # type: ignore[arg-type]  # no settlements were left behind
        events=alive.replay,
        telemetry=alive.metrics,
        clock=clock,
    )
    alive.fate.is_away = True
    for _ in range(2):
        with pytest.raises(OverloadedError):
            await neighbours.adopt_spools()
        assert alive.shown("tritium_event_spool_bytes") == 0  # it is not ours
    alive.fate.is_away = False
    await neighbours.adopt_spools()
    limiter.close()
    assert await counted(books, clock, tenant_id) == {"1": 7}
    assert alive.shown("tritium_event_spool_bytes") == 0


def test_events_are_read_as_they_were_written(clock: ManualClock) -> None:
    tenants = [uuid7(clock), uuid7(clock)]
    judged: list[Any] = []
    for is_confirmed in (False, True, False):
        tiers = dict.fromkeys(tenants, TenantTier.TEAM)
        sender = Sender(tiers=tiers, key_id="abcDEF012345", is_confirmed=is_confirmed)
        reported = [an_event(clock, tenant_id, name) for name in "ab" for tenant_id in tenants]
        judged += accept_events(reported, sender=sender, now=clock.now())
    written = [SpooledEvent(*each) for each in zip(judged, uuids7_bytes(12, clock=clock), strict=True)]
    data = encode_events(written)
    read = decode_events(data)
    assert encode_events(read) == data
    for (mine, identity), (theirs, same) in zip(written, read, strict=True):
        assert (identity, mine.record(UUID(bytes=identity))) == (same, theirs.record(UUID(bytes=same)))
        assert (mine.key, mine.kind.is_confirmed) == (theirs.key, theirs.kind.is_confirmed)
    frame = msgspec.msgpack.decode(data)
    assert len(frame["kinds"]) == 2  # a release that knows no others does not find the kinds of these events
    assert max(row[0] for row in frame["events"]) > 2
    assert {row[3] for row in frame["events"]} == {None}  # where one that has other keys looks for them
    for row in frame["events"]:
        row[3] = b"a key that no release has any more"
    assert encode_events(decode_events(msgspec.msgpack.encode(frame))) == data
    for wrong in (b"", b"\xc1", data[:-1], encode_events([])[:-1] + b"\x91\x80"):
        with pytest.raises(PlatformError, match="no events"):
            decode_events(wrong)
