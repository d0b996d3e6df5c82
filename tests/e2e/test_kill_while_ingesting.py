"""The platform is killed while events come in: what was acknowledged is there, and nothing counts twice."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
import time
import uuid
from datetime import UTC, datetime

import httpx2
import pytest

OWN = "/api/v1/usage/events"
KILLS = 2
# On a machine that is busy a start takes a minute.
pytestmark = pytest.mark.timeout(900)


def a_batch():
    moment = datetime.now(UTC).isoformat()
    return [
        {"source": "s", "id": uuid.uuid4().hex, "meter": "output_tokens", "quantity": 1, "event_time": moment}
        for _ in range(200)
    ]


def records_of(http):
    """Return the ids of all events in the books."""
    found, after = [], None
    while True:
        page = http.get("/api/v1/usage", params={"limit": 1000} | ({"after": after} if after else {})).json()
        found += [each["event_id"] for each in page["records"]]
        after = page["next_after"]
        if after is None:
            return found


def test_acknowledged_events_survive_kills_and_resent_ones_count_once(run_program):
    daemon = run_program("serve")
    key = daemon.open_account()
    sent, acknowledged = [], []

    def send():
        with daemon.http(key) as http:
            try:
                while True:
                    batch = a_batch()
                    sent.append(batch)
                    if http.post(OWN, json={"events": batch}).raise_for_status().json()["accepted"] == 200:
                        acknowledged.append(batch)
            except httpx2.TransportError:
                return

    for turn in range(KILLS):
        threads = [threading.Thread(target=send) for _ in range(3)]
        before = len(acknowledged)
        for thread in threads:
            thread.start()
        while len(acknowledged) < before + 3 + turn:
            threads[0].join(0.01)
        daemon.stop(signal.SIGKILL)
        for thread in threads:
            thread.join()
        daemon.start()
    with daemon.http(key) as http:
        kept = set(records_of(http))
        assert {each["id"] for batch in acknowledged for each in batch} <= kept
        for batch in sent:  # a batch is in the books as a whole or not at all
            assert len(kept & {each["id"] for each in batch}) in (0, 200)
            http.post(OWN, json={"events": batch}).raise_for_status()
        found = records_of(http)
        assert len(found) == len(set(found)) == 200 * len(sent)
        (total,) = http.get("/api/v1/usage").json()["totals"]
        assert total["quantity"] == 200 * len(sent)


def test_events_that_wait_for_the_database_survive_a_kill(run_program):
    daemon = run_program("serve")
    key = daemon.open_account()
    batches = [a_batch() for _ in range(3)]
    lock = sqlite3.connect(daemon.data_dir / "tritium.sqlite3", isolation_level=None, timeout=60)
    with daemon.http(key) as http, contextlib.closing(lock):
        lock.execute("BEGIN IMMEDIATE")  # somebody else writes: the database takes nothing
        for batch in batches:
            answer = http.post(OWN, json={"events": batch})
            assert (answer.status_code, len(answer.json()["deferred"])) == (202, 200)
        daemon.stop(signal.SIGKILL)
    daemon.start()
    with daemon.http(key) as http:
        while len(found := records_of(http)) < 600:
            time.sleep(0.1)
        assert sorted(found) == sorted(each["id"] for batch in batches for each in batch)
        for batch in batches:
            answer = http.post(OWN, json={"events": batch})
            assert (answer.status_code, len(answer.json()["duplicates"])) == (200, 200)
