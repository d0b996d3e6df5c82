"""Events while a real database is really away, and kills in between."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import tritium_test_programs as programs
from sqlalchemy import make_url
from tritium_event_gateway import Gateway, an_event, cap, counted, entries, spent

from tritium_platform.adapters.sql import database as database_module
from tritium_platform.adapters.sql.database import Database
from tritium_platform.quotas.spend_cap import MICRO
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock

WORKER = Path(__file__).with_name("event_worker.py")
KILLS = 4


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


async def test_killed_at_any_moment_it_loses_nothing_that_was_acknowledged(
    sql_books: Books, sql_url: str, clock: ManualClock, tmp_path: Path
) -> None:
    """The database of the worker goes away and comes back, so that kills meet the spool and the replay."""
    tenant_id, directory = uuid7(clock), tmp_path / "events"
    acknowledged: set[str] = set()
    await cap(Gateway(sql_books, clock, directory), tenant_id)
    for turn in range(KILLS):
        worker = programs.start(WORKER, sql_url, directory, tenant_id, turn, log=tmp_path / "log")
        said = ""
        while said.count("taken ") < 12 + 5 * turn:
            line = worker.stdout.readline().decode()
            assert line, "the worker ended by itself"
            said += line
        worker.kill()
        worker.wait()
        with worker.stdout:
            said += worker.stdout.read().decode()
        acknowledged |= set(re.findall(r"^taken (\S+)\.$", said, re.MULTILINE))
    alive = Gateway(sql_books, clock, directory)
    await alive.spool.open()
    await alive.drained()
    kept = await counted(sql_books, clock, tenant_id)
    assert acknowledged <= set(kept)
    assert len(acknowledged) >= 12 * KILLS
    assert len(set(kept) - acknowledged) <= KILLS  # what was cut off: one at a time
    assert await spent(alive, tenant_id) == sum(kept.values()) * MICRO
    noted = await entries(sql_books, "usage.ingest", tenant_id)
    assert sum(int(each.details["events"]) for each in noted) == len(kept)
    assert await entries(sql_books, "usage.refuse", tenant_id) == []
    await alive.ingestion.close()
