"""Events that wait for the database, and what goes wrong meanwhile: crashes, damage, disks that are full."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritium_event_gateway import Gateway, an_event, cap, counted, entries, records, spent

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.spool import Spool, read_spool, spool_files
from tritium_platform.errors import OverloadedError, PlatformError
from tritium_platform.quotas.spend_cap import MICRO
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Books


@pytest.fixture
def gateway(books: Books, clock: ManualClock, tmp_path: Path) -> Gateway:
    return Gateway(books, clock, tmp_path / "events")


async def test_after_a_crash_the_next_process_brings_in_what_waited_in_its_order(
    books: Books, clock: ManualClock, tmp_path: Path
) -> None:
    tenant_id = uuid7(clock)
    killed = Gateway(books, clock, tmp_path / "events", file_bytes=300)
    killed.fate.is_away = True
    for number in range(12):  # files of two frames or so
        await killed.send(
            an_event(clock, tenant_id, f"{number}"),
            an_event(clock, tenant_id, "same", quantity=number, event_time=datetime(2026, 11, 1, tzinfo=UTC)),
        )
        if number == 5:
            clock.advance(seconds=-3600)  # the order is not that of the clock
    await killed.kill()
    assert len(spool_files(killed.directory)) > 3
    alive = Gateway(books, clock, tmp_path / "events")
    await alive.spool.open()
    # Behind what is still to come in: it is none of another process's, and no other event's place is taken.
    assert await alive.send(an_event(clock, tenant_id, "same", quantity=99)) == ["deferred"]
    await alive.drained()
    assert await counted(books, clock, tenant_id) == {
        **{str(number): 7 for number in range(12)},
        "same": 0,
    }
    refused = await entries(books, "usage.refuse", tenant_id)
    assert sum(int(each.details["events"]) for each in refused) == 12
    assert spool_files(alive.directory) == []
    await alive.ingestion.close()


async def test_a_torn_frame_is_dropped_and_damage_stops_the_start(
    books: Books, clock: ManualClock, tmp_path: Path
) -> None:
    tenant_id = uuid7(clock)
    killed = Gateway(books, clock, tmp_path / "events")
    killed.fate.is_away = True
    for name in "abc":
        await killed.send(an_event(clock, tenant_id, name))
    await killed.kill()
    (path,) = spool_files(killed.directory)
    data = path.read_bytes()
    path.write_bytes(data[:30] + b"\0" + data[31:])
    with pytest.raises(PlatformError, match="damaged"):
        await Gateway(books, clock, tmp_path / "events").spool.open()
    path.write_bytes(data[:-1])
    alive = Gateway(books, clock, tmp_path / "events")
    await alive.spool.open()
    await alive.drained()
    assert await counted(books, clock, tenant_id) == {"a": 7, "b": 7}
    assert await alive.send(an_event(clock, tenant_id, "c")) == ["accepted"]
    await alive.ingestion.close()


async def test_a_spool_that_is_shorter_than_the_books_stops_the_start(
    books: Books, clock: ManualClock, tmp_path: Path
) -> None:
    killed = Gateway(books, clock, tmp_path / "events")
    killed.fate.is_away = True
    await killed.send(an_event(clock, uuid7(clock)))
    await killed.kill()
    (path,) = spool_files(killed.directory)
    alive = Gateway(books, clock, tmp_path / "events")
    async with books.unit_of_work():
        await alive.replay._positions.put(UUID(path.stem), position=path.stat().st_size + 1)
    with pytest.raises(PlatformError, match="shorter"):
        await alive.spool.open()


async def written(books: Books, clock: ManualClock, directory: Path) -> bytes:
    """Return the file of one event that waits."""
    gateway = Gateway(books, clock, directory)
    gateway.fate.is_away = True
    await gateway.send(an_event(clock, uuid7(clock)))
    await gateway.kill()
    (path,) = spool_files(directory)
    return path.read_bytes()


async def test_as_much_may_wait_as_is_allowed(books: Books, clock: ManualClock, tmp_path: Path) -> None:
    tenant_id = uuid7(clock)
    gateway = Gateway(books, clock, tmp_path / "events", most_bytes=1000)
    gateway.fate.is_away = True
    one = len(await written(books, clock, tmp_path / "one"))
    kept = 1000 // one
    for number in range(kept):
        await gateway.send(an_event(clock, tenant_id, str(number)))
    with pytest.raises(OverloadedError, match="Too many events"):
        await gateway.send(an_event(clock, tenant_id, str(kept)))
    assert sum(each.stat().st_size for each in spool_files(gateway.directory)) <= 1000 + 50
    gateway.fate.is_away = False
    await gateway.drained()
    assert await counted(books, clock, tenant_id) == {str(number): 7 for number in range(kept)}
    assert await gateway.send(an_event(clock, tenant_id, str(kept))) == ["accepted"]
    await gateway.ingestion.close()


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("fails", ["before anything", "in the middle", "at the sync"])
async def test_a_disk_that_fails_keeps_nothing_of_what_is_refused(
    *,
    books: Books,
    clock: ManualClock,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
    is_restarted: bool,
) -> None:
    tenant_id = uuid7(clock)
    gateway.fate.is_away = True
    await gateway.send(an_event(clock, tenant_id, "a"))
    append = Spool.append

    def fail(spool: Spool, payload: bytes) -> int:
        if fails == "in the middle":
            os.write(spool._descriptor, b"TSP1 and so on")
        if fails == "at the sync":
            append(spool, payload)
            spool.size -= len(payload) + 20
        raise OSError(errno.ENOSPC, "No space left on device")

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Spool, "append", fail)
            with pytest.raises(OverloadedError, match="cannot be kept"):
                await gateway.send(an_event(clock, tenant_id, "b"))
    assert len(spool_files(gateway.directory)) == 1  # and no empty one for every try
    assert await gateway.send(an_event(clock, tenant_id, "c")) == ["deferred"]
    if is_restarted:
        await gateway.kill()
        gateway = Gateway(books, clock, gateway.directory)
        await gateway.spool.open()
    gateway.fate.is_away = False
    await gateway.drained()
    assert await counted(books, clock, tenant_id) == {"a": 7, "c": 7}
    await gateway.ingestion.close()


async def test_what_cannot_be_taken_back_from_the_disk_is_not_brought_in(
    books: Books, clock: ManualClock, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant_id = uuid7(clock)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    gateway.fate.is_away = True
    await gateway.send(an_event(clock, tenant_id, "a"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        patch.setattr(os, "ftruncate", fail)
        with pytest.raises(OverloadedError, match="cannot be kept"):
            await gateway.send(an_event(clock, tenant_id, "b"))
    (path,) = spool_files(gateway.directory)
    assert len(read_spool(path).frames) == 2
    gateway.fate.is_away = False
    await gateway.drained()
    assert await counted(books, clock, tenant_id) == {"a": 7}
    await gateway.ingestion.close()


async def test_a_directory_that_cannot_be_made_is_told(
    books: Books, clock: ManualClock, gateway: Gateway
) -> None:
    tenant_id = uuid7(clock)
    gateway.directory.write_text("in the way")
    gateway.fate.failures = ["before"]
    with pytest.raises(OverloadedError, match="cannot be kept"):
        await gateway.send(an_event(clock, tenant_id))
    assert await gateway.send(an_event(clock, tenant_id)) == ["accepted"]
    await gateway.ingestion.close()


async def test_closing_brings_in_what_it_can_and_leaves_the_rest(
    books: Books, clock: ManualClock, gateway: Gateway, tmp_path: Path
) -> None:
    tenant_id = uuid7(clock)
    gateway.fate.is_away = True
    await gateway.send(an_event(clock, tenant_id, "a"))
    await gateway.ingestion.close()
    assert await records(books, clock, tenant_id) == []
    with pytest.raises(OverloadedError, match="closed"):
        await gateway.send(an_event(clock, tenant_id, "b"))
    second = Gateway(books, clock, tmp_path / "events")
    await second.spool.open()
    await second.ingestion.close()
    await second.ingestion.close()
    assert await counted(books, clock, tenant_id) == {"a": 7}
    assert spool_files(gateway.directory) == []


STEPS = st.lists(
    st.sampled_from(["away", "back", "kill", "drain", "before", "after"])
    | st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), min_size=1, max_size=4),
    max_size=14,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, file_bytes=st.sampled_from([1, 400, 10**6]))
async def test_whatever_happens_each_counts_once_and_the_first_one_stays(
    books: Books, tmp_path_factory: pytest.TempPathFactory, steps: list[Any], file_bytes: int
) -> None:
    """The twin: a table of the first quantity under each id, in the order in which events were sent."""
    clock = ManualClock()
    tenant_id, moment = uuid7(clock), clock.now()
    directory = tmp_path_factory.mktemp("spool")
    gateway = Gateway(books, clock, directory, file_bytes=file_bytes)
    await cap(gateway, tenant_id)
    firsts: dict[str, int] = {}
    refused: list[str] = []
    for step in steps:
        if step in ("away", "back"):
            gateway.fate.is_away = step == "away"
        elif step in ("before", "after"):
            gateway.fate.failures.append(step)
        elif step == "kill":
            is_away = gateway.fate.is_away
            await gateway.kill()
            gateway = Gateway(books, clock, directory, file_bytes=file_bytes)
            gateway.fate.is_away = is_away
            await gateway.spending.refresh()
            await gateway.spool.open()
        elif step == "drain":
            gateway.fate.is_away = False
            await gateway.drained()
        else:
            events = [
                an_event(clock, tenant_id, name, quantity=quantity, event_time=moment)
                for name, quantity in step
            ]
            for (name, quantity), outcome in zip(step, await gateway.send(*events), strict=True):
                is_first = name not in firsts
                expected = "accepted" if is_first else "duplicate" if firsts[name] == quantity else "conflict"
                firsts.setdefault(name, quantity)
                assert outcome in ("deferred", expected)
                if outcome == "deferred" and expected == "conflict":
                    refused.append(name)
    gateway.fate.is_away = False
    await gateway.drained()
    await gateway.ingestion.close()
    assert spool_files(directory) == []
    assert await counted(books, clock, tenant_id) == firsts
    assert await spent(gateway, tenant_id) == sum(firsts.values()) * MICRO
    named_ids = [
        name
        for each in await entries(books, "usage.refuse", tenant_id)
        for name in str(each.details["ids"]).split("\n")
    ]
    assert sorted(named_ids) == sorted(refused)
    noted = await entries(books, "usage.ingest", tenant_id)
    assert sum(int(each.details["events"]) for each in noted) == len(firsts)
