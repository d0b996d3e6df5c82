"""Events while the database is away: durable at once, in the books afterwards, the first one first."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import make_url
from tritium_event_gateway import Gateway, an_event, cap, counted, entries, records, spent

from tritium_platform.adapters.event_codec import SpooledEvent, decode_events, encode_events
from tritium_platform.adapters.ingestion_trail import MOST_IDS
from tritium_platform.adapters.neighbours import Neighbours, events_in, spool_of_seat
from tritium_platform.adapters.shared_limiter import SharedLimiter
from tritium_platform.adapters.spool import read_spool, spool_files
from tritium_platform.adapters.sql import database as database_module
from tritium_platform.adapters.sql.database import Database
from tritium_platform.errors import (
    BitNetServiceError,
    InsufficientMemoryError,
    PlatformError,
)
from tritium_platform.metering.event import Sender, accept_events
from tritium_platform.quotas.spending import MICRO
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import uuid7, uuids7_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
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


async def test_a_group_that_is_too_much_comes_in_by_parts(
    books: Books, clock: ManualClock, gateway: Gateway
) -> None:
    tenant_id, sizes = uuid7(clock), []
    keep = books.events.keep

    async def scarce(events: Sequence[Any], *, identities: Sequence[bytes]) -> Any:
        if len(events) > 3:
            raise InsufficientMemoryError("no memory for so much")
        sizes.append(len(events))
        return await keep(events, identities=identities)

    gateway.fate.is_away = True
    await gateway.send(*(an_event(clock, tenant_id, str(number)) for number in range(20)))
    books.events.keep = scarce  # type: ignore[method-assign]
    gateway.fate.is_away = False
    await gateway.drained()
    del books.events.keep  # type: ignore[method-assign]
    assert len(await counted(books, clock, tenant_id)) == sum(sizes) == 20
    await gateway.ingestion.close()


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
    await neighbours.adopt_spools()
    limiter.close()
    assert await counted(books, clock, tenant_id) == {"1": 7}
    assert alive.shown("tritium_event_spool_bytes") == 0


def test_events_are_read_as_they_were_written(clock: ManualClock) -> None:
    tenants = [uuid7(clock), uuid7(clock)]
    sender = Sender(tiers=dict.fromkeys(tenants, TenantTier.TEAM), key_id="abcDEF012345")
    reported = [an_event(clock, tenant_id, name) for name in "ab" for tenant_id in tenants]
    judged: list[Any] = accept_events(reported, sender=sender, now=clock.now())
    written = [SpooledEvent(*each) for each in zip(judged, uuids7_bytes(4, clock=clock), strict=True)]
    data = encode_events(written)
    read = decode_events(data)
    assert encode_events(read) == data
    for (mine, identity), (theirs, same) in zip(written, read, strict=True):
        assert (identity, mine.record(UUID(bytes=identity))) == (same, theirs.record(UUID(bytes=same)))
        assert mine.key == theirs.key
    for wrong in (b"", b"\xc1", data[:-1], encode_events([])[:-1] + b"\x91\x80"):
        with pytest.raises(PlatformError, match="no events"):
            decode_events(wrong)


@pytest.fixture
def outage(
    sql_url: str, superuser_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], AbstractContextManager[None]]:
    """Makes the database go away for a while."""
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0)

    @contextmanager
    def locked() -> Iterator[None]:
        connection = sqlite3.connect(make_url(sql_url).database or "", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.close()

    @contextmanager
    def gone() -> Iterator[None]:
        name = make_url(sql_url).database
        server = (
            make_url(superuser_url(sql_url)).set(database="postgres").render_as_string(hide_password=False)
        )
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            try:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
                )
                yield
            finally:
                connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')

    return locked if sql_url.startswith("sqlite") else gone


async def test_a_database_that_is_really_away_comes_back_to_all_of_them(
    sql_url: str,
    outage: Callable[[], AbstractContextManager[None]],
    books_in: Callable[[Database], Books],
    clock: ManualClock,
    tmp_path: Path,
) -> None:
    database = Database(sql_url)  # after the patience was taken from it
    books, tenant_id = books_in(database), uuid7(clock)
    gateway = Gateway(books, clock, tmp_path / "events")
    await cap(gateway, tenant_id)
    assert await gateway.send(an_event(clock, tenant_id, "before")) == ["accepted"]
    with outage():
        assert await gateway.send(an_event(clock, tenant_id, "a")) == ["deferred"]
        together = [
            gateway.send(*(an_event(clock, tenant_id, f"{place}-{number}") for number in range(20)))
            for place in range(10)
        ]
        assert await asyncio.gather(*together) == [["deferred"] * 20] * 10
        assert await gateway.send(
            an_event(clock, tenant_id, "a", quantity=8), an_event(clock, tenant_id, "before", quantity=8)
        ) == ["deferred", "deferred"]
    await gateway.drained()
    quantities = await counted(books, clock, tenant_id)
    assert (len(quantities), set(quantities.values())) == (202, {7})
    assert await spent(gateway, tenant_id) == 202 * 7 * MICRO
    (entry,) = await entries(books, "usage.refuse", tenant_id)
    assert sorted(str(entry.details["ids"]).split("\n")) == ["a", "before"]
    assert await gateway.send(an_event(clock, tenant_id, "after")) == ["accepted"]
    await gateway.ingestion.close()
    await database.close()
