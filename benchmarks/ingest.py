"""What taking in uses that others counted costs, over HTTP, as the table grows; and resending all of it.

    python benchmarks/ingest.py DATABASE_URL [--ids random|ordered] [--events N] [--batch N] [--clients N]
        [--turns] [--capped] [--record]

DATABASE_URL names an empty database: postgresql+psycopg://... or sqlite+aiosqlite:///PATH. It starts
`tritiumd serve` and sends batches as several tenants at once, each over a connection of its own. Ids are
random, which is the worst order for an index, or UUIDs of version 7, whose order is that of time. Bodies are
made before the clock runs; every answer came after its commit.
A machine that drifts looks like a table that costs more as it grows. With `--turns` a second server fills a
new, small database of the same PostgreSQL at every millionth row, in turns with the table that grows: small,
grown, near, near, grown, small. "Near" goes into the table that grows, too, with random ids whose keys lie in
a part of its index that has as many rows as the small table, so that caches can hold it. The role needs
CREATEDB for that.
`--record` keeps the figures in docs/measurements/ingest-IDS.json; `ingest_picture.py` draws them.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID

import psutil
import psycopg
from ingest_bodies import bodies, near_ids, ordered_ids, random_ids
from side_by_side.machine import describe_machine

from tritium_platform.cli.client import ServerClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


MEASUREMENTS = Path(__file__).resolve().parent.parent / "docs" / "measurements"
WINDOW = 200_000
WARM_UP = 10_000
TURN_EVERY, TURN_WINDOW, SMALL_WARM_UP = 1_000_000, 100_000, 50_000
QUIET_SECONDS = 2
TURNS = {
    "random": ("small", "grown", "near", "near", "grown", "small"),
    "ordered": ("small", "grown", "grown", "small"),
}


@dataclass(frozen=True)
class Account:
    """A tenant and its key."""

    tenant_id: UUID
    key: str


@dataclass(frozen=True)
class Server:
    """A server that runs, and the accounts of its clients."""

    process: psutil.Process
    address: str
    accounts: Sequence[Account]
    database_url: str

    def cpu_seconds(self) -> tuple[float, float]:
        """Return the processor seconds of the server and of its database connections."""
        return _cpu(self.process), sum(_cpu(each) for each in self._backends())

    def _backends(self) -> Iterator[psutil.Process]:
        if self.database_url.startswith("sqlite"):
            return
        with psycopg.connect(self.database_url.replace("+psycopg", "")) as connection:
            found = connection.execute(
                "SELECT pid FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchall()
        for (pid,) in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                yield psutil.Process(pid)


@contextlib.contextmanager
def serve(database_url: str, *, clients: int, capped: bool = False) -> Iterator[Server]:
    """Start the platform on a database, with one tenant per client; capped: all with a spend cap."""
    with tempfile.TemporaryDirectory() as data_dir:
        command = [sys.executable, "-m", "tritium_platform.cli", "serve", "--data-dir", data_dir]
        command += ["--database-url", database_url, "--port", "0", "--format", "json", "--log-level", "error"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            facts = json.loads(process.stdout.readline())
            try:
                accounts = [_open_account(facts, capped=capped) for _ in range(clients)]
                address = urlsplit(facts["url"]).netloc
                yield Server(psutil.Process(process.pid), address, accounts, database_url)
            finally:
                process.terminate()


def _open_account(facts: dict[str, str], *, capped: bool) -> Account:
    operator = ServerClient(facts["url"], key=facts["admin_key"])
    wish = {"organization_name": "Bench", "tier": "team", "limit_overrides": {"events_per_minute": 10**12}}
    tenant = operator.post("/api/v1/tenants", wish)
    if capped:
        cap = {"amount_minor": 10**9, "currency": "USD"}
        operator.put(f"/api/v1/tenants/{tenant['id']}/spend-cap", "", cap)
    key = operator.post(f"/api/v1/tenants/{tenant['id']}/keys", {"name": "bench"})["key"]
    return Account(UUID(tenant["id"]), key)


def send(server: Server, work: Sequence[bytes]) -> tuple[float, list[float], int, int]:
    """Send all bodies; return seconds, the time of each answer, how many were accepted and duplicates."""

    def client(place: int) -> list[tuple[float, int, int]]:
        connection = http.client.HTTPConnection(server.address, timeout=600)
        key = server.accounts[place].key
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        told = []
        for body in work[place :: len(server.accounts)]:
            began = time.perf_counter()
            connection.request("POST", "/api/v1/usage/events", body, headers)
            response = connection.getresponse()
            answer = json.load(response)
            if response.status != http.HTTPStatus.OK:
                raise RuntimeError(answer)
            told.append((time.perf_counter() - began, answer["accepted"], len(answer["duplicates"])))
        connection.close()
        return told

    started = time.perf_counter()
    places = range(len(server.accounts))
    with ThreadPoolExecutor(len(places)) as pool:
        told = [each for one in pool.map(client, places) for each in one]
    times, accepted, duplicates = zip(*told, strict=True)
    return time.perf_counter() - started, sorted(times), sum(accepted), sum(duplicates)


def measure(server: Server, work: Sequence[bytes], *, events: int, before: int) -> dict[str, Any]:
    """Send bodies and return what that took."""
    ours, theirs = server.cpu_seconds()
    client = time.process_time()
    seconds, times, accepted, duplicates = send(server, work)
    client = time.process_time() - client
    ours, theirs = (after - was for after, was in zip(server.cpu_seconds(), (ours, theirs), strict=True))
    return {
        "rows_before": before,
        "accepted": accepted,
        "duplicates": duplicates,
        "events_per_second": round(events / seconds),
        "server_us": round(ours / events * 1e6, 1),
        "database_us": round(theirs / events * 1e6, 1),
        "client_us": round(client / events * 1e6, 1),
        "answer_p50_ms": round(times[len(times) // 2] * 1000),
        "answer_p99_ms": round(times[len(times) * 99 // 100] * 1000),
        "load_average": round(os.getloadavg()[0], 1),
    }


class Table:
    """The uses in one server's database; it grows, and what that took is told."""

    def __init__(self, server: Server, *, batch: int, ids: str) -> None:
        self.server, self.batch, self.ids, self.rows = server, batch, ids, 0
        self.generator = random.Random()  # noqa: S311 - ids to measure with
        self.last: tuple[list[bytes], int] = ([], 0)

    def grow(self, count: int, *, within: range | None = None) -> dict[str, Any]:
        """Take in so many new uses; `within` says where the first four bytes of their keys lie."""
        sources = [self._ids(each.tenant_id, within=within) for each in self.server.accounts]
        self.last = bodies(count, batch=self.batch, sources=sources, generator=self.generator), count
        return self.resend(rows=count)

    def resend(self, *, rows: int = 0) -> dict[str, Any]:
        """Take in the last ones again; `rows` of them are new."""
        work, count = self.last
        found = measure(self.server, work, events=count, before=self.rows)
        self.rows += rows
        return found

    def _ids(self, tenant_id: UUID, *, within: range | None) -> Iterator[str]:
        if within:
            return near_ids(tenant_id, self.generator, within=within)
        return random_ids(self.generator) if self.ids == "random" else ordered_ids()


def run(
    url: str, *, ids: str, events: int, batch: int, clients: int, turns: bool, capped: bool
) -> list[dict[str, Any]]:
    """Fill the table and measure on the way; then send the last ones again."""
    found = []
    with small_databases(url) as new_database, serve(url, clients=clients, capped=capped) as server:
        grown = Table(server, batch=batch, ids=ids)
        for found_now in _fill(grown, events, new_database if turns else None):
            print(json.dumps(found_now), flush=True)
            found.append(found_now)
    for ratio in ratios(found):
        print(json.dumps(ratio))
    return found


def _fill(grown: Table, events: int, new_database: Callable[[], str] | None) -> Iterator[dict[str, Any]]:
    next_turn = 2 * WINDOW
    yield grown.grow(min(WARM_UP, events))
    while grown.rows < events:
        if new_database and grown.rows >= next_turn:
            yield from in_turns(grown, new_database())
            next_turn = (grown.rows // TURN_EVERY + 1) * TURN_EVERY
        else:
            yield grown.grow(min(WINDOW, events - grown.rows))
    yield grown.resend()


def in_turns(grown: Table, url: str) -> Iterator[dict[str, Any]]:
    """Measure a new small table and the one that grows, in turns, after what the other one left to do."""
    rows = grown.rows
    # A part of its own for each turn.
    begin = (rows // TURN_EVERY % 16) << 28
    near = range(begin, begin + (SMALL_WARM_UP << 32) // rows)
    with serve(url, clients=len(grown.server.accounts)) as server:
        small = Table(server, batch=grown.batch, ids=grown.ids)
        small.grow(SMALL_WARM_UP)
        for name in TURNS[grown.ids]:
            table = small if name == "small" else grown
            time.sleep(QUIET_SECONDS)
            yield {
                "turn_at": rows,
                "table": name,
                **table.grow(TURN_WINDOW, within=near if name == "near" else None),
            }


def ratios(found: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Say for each turn what the table that grows costs, over the small one."""
    for rows in sorted({each["turn_at"] for each in found if "turn_at" in each}):
        turn = [each for each in found if each.get("turn_at") == rows]
        for name in sorted({each["table"] for each in turn} - {"small"}):
            small, table = ([each for each in turn if each["table"] == which] for which in ("small", name))
            database = _mean(table, "database_us") / _mean(small, "database_us")
            whole = _mean(table, "database_us", "server_us") / _mean(small, "database_us", "server_us")
            yield {"turn_at": rows, "table": name, "database": round(database, 2), "whole": round(whole, 2)}


def _mean(windows: Sequence[dict[str, Any]], *parts: str) -> float:
    return float(statistics.mean(sum(each[part] for part in parts) for each in windows))


@contextlib.contextmanager
def small_databases(url: str) -> Iterator[Callable[[], str]]:
    """Yield what makes a database beside one of PostgreSQL; all go at the end, which takes a checkpoint."""
    made: list[str] = []
    address = url.replace("+psycopg", "")

    def make() -> str:
        made.append(f"{urlsplit(url).path[1:]}_{len(made)}")
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {made[-1]}")
        return urlsplit(url)._replace(path=f"/{made[-1]}").geturl()

    try:
        yield make
    finally:
        for name in made:
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name}")


def database_settings(url: str) -> dict[str, str]:
    """Return what decides whether PostgreSQL keeps the index of uses in its own memory."""
    if url.startswith("sqlite"):
        return {}
    names = ["max_wal_size", "shared_buffers", "wal_compression"]
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        return {name: connection.execute(f"SHOW {name}").fetchone()[0] for name in names}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database_url")
    parser.add_argument("--ids", choices=TURNS, default="random")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--turns", action="store_true", help="a small table in turns with the one that grows")
    parser.add_argument("--capped", action="store_true", help="every tenant has a spend cap")
    parser.add_argument("--record", action="store_true", help="keep the figures for the picture")
    options = parser.parse_args()
    if options.turns and options.database_url.startswith("sqlite"):
        parser.error("--turns needs PostgreSQL")
    found = run(
        options.database_url,
        ids=options.ids,
        events=options.events,
        batch=options.batch,
        clients=options.clients,
        turns=options.turns,
        capped=options.capped,
    )
    if options.record:
        command = "python benchmarks/ingest.py " + " ".join(sys.argv[1:])
        content = {
            "command": command,
            "machine": describe_machine(),
            "database": database_settings(options.database_url),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "runs": found,
        }
        path = MEASUREMENTS / f"ingest-{options.ids}.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
