"""What is recorded is what was delivered, to the token, however customers leave and processes die.

A short form runs with all tests; `make soak-exactness` walks TRITIUM_EXACT_REQUESTS (100,000) and kills every
few thousand; `make soak-memory` watches the memory of TRITIUM_MEMORY_REQUESTS (200,000). TRITIUM_SOAK_SEED
repeats the draws.
"""

from __future__ import annotations

import os
import random
import secrets
import sqlite3
import statistics
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

WALKERS = Path(__file__).with_name("walkers.py")
AT_ONCE = 8
LONG = int(os.environ.get("TRITIUM_EXACT_REQUESTS", "100000"))
MEMORY = int(os.environ.get("TRITIUM_MEMORY_REQUESTS", "200000"))
SEED = os.environ.get("TRITIUM_SOAK_SEED") or secrets.token_hex(4)


def start(directory, *, seed, count):
    command = [sys.executable, WALKERS, directory, directory / "delivered", seed, str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def delivered_in(directory):
    """The tokens of each request that ended; the last line may be cut."""
    path = directory / "delivered"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return dict(line.split() for line in lines if line.endswith("\n"))


def rows_of(directory, statement):
    with closing(sqlite3.connect(directory / "tritium.sqlite3")) as connection:
        return connection.execute(statement).fetchall()


def walk_with_kills(directory, *, requests, between):
    """Walk until so many requests ended, killing after about `between` of them; return how often."""
    chance, kills = random.Random(SEED), 0
    while (left := requests - len(delivered_in(directory))) > 0:
        process = start(directory, seed=f"{SEED} {kills}", count=left)
        goal = len(delivered_in(directory)) + chance.randint(1, 2 * between)
        while process.poll() is None and len(delivered_in(directory)) < goal:
            time.sleep(chance.uniform(0, 0.05))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.stdout.close()
        assert process.wait() in {0, -9}
    process = start(directory, seed=SEED, count=AT_ONCE)  # brings in what the last one left in its spool
    process.communicate()
    assert process.returncode == 0
    return kills


def require_exact(directory, *, kills):
    delivered = delivered_in(directory)
    recorded = dict(rows_of(directory, "SELECT event_id, output_tokens FROM usage_records"))
    for event_id, tokens in delivered.items():
        assert recorded[event_id] == int(tokens), (event_id, SEED)
    # What a kill cut off may be in the books though nobody noted that it ended: never more than ran then.
    assert len(recorded) - len(delivered) <= kills * AT_ONCE
    assert rows_of(directory, "SELECT count(*) FROM audit_outbox") == [(len(recorded),)]
    assert rows_of(directory, "SELECT sum(count) FROM health_outcomes") == [(len(recorded),)]
    time.sleep(5)  # what died held a lease; then it is over
    start(directory, seed=SEED, count=0).communicate()
    assert rows_of(directory, "SELECT used, held FROM quota_counters") == [(len(recorded), 0)]


def test_usage_is_exact_after_kills_and_disconnects(tmp_path):
    kills = walk_with_kills(tmp_path, requests=600, between=120)
    require_exact(tmp_path, kills=kills)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_usage_is_exact_over_many_kills_and_disconnects(tmp_path):
    started = time.monotonic()
    kills = walk_with_kills(tmp_path, requests=LONG, between=2000)
    require_exact(tmp_path, kills=kills)
    ended = len(delivered_in(tmp_path))
    print(f"\n{ended} requests, {kills} kills, {time.monotonic() - started:.0f} s, seed {SEED}")  # noqa: T201


def slope_of(samples):
    """The growth over the second half, as a share of the memory in its middle (a line by least squares)."""
    half = samples[len(samples) // 2 :]
    slope, _ = statistics.linear_regression(range(len(half)), half)
    return slope * len(half) / statistics.mean(half)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_memory_stays_as_it_is(tmp_path):
    process = start(tmp_path, seed=SEED, count=MEMORY)
    out, _ = process.communicate()
    samples = [int(line) for line in out.split()]
    slope = slope_of(samples)
    print(f"\n{MEMORY} requests, {samples[len(samples) // 2]} to {samples[-1]} bytes, slope {slope:.2%}")  # noqa: T201
    assert process.returncode == 0
    assert slope <= 0.01
