"""Whose word about the caller's address `tritiumd` takes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time

import httpx2
import pytest
import tritium_test_programs as programs

ADDRESS = "192.0.2.77"


@pytest.fixture
def start(tmp_path):
    """Start `tritiumd serve` with some environment; return what it printed."""
    processes = []

    def run(**environment):
        command = ["tritiumd", "serve", "--data-dir", tmp_path, "--port", "0", "--format", "json"]
        environment = {**os.environ, **environment}
        process = programs.start(*command, log=tmp_path / "log", environment=environment)
        processes.append(process)
        return json.loads(process.stdout.readline())

    yield run
    for process in processes:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        process.stdout.close()


def guess(facts):
    """Try wrong keys at the console in the name of an address, on and on; yield the statuses."""
    with httpx2.Client(headers={"x-forwarded-for": ADDRESS}) as http:
        while True:
            yield http.post(f"{facts['console']}/login", data={"key": "wrong"}).status_code
            time.sleep(0.02)


def sources(facts):
    with httpx2.Client(headers={"authorization": f"Bearer {facts['admin_key']}"}) as http:
        events = http.get(f"{facts['url']}/api/v1/security/events").raise_for_status().json()
    return {event["source_ip"] for event in events}


def test_a_proxy_on_this_machine_says_who_asks_and_a_guesser_at_the_console_is_refused(start):
    facts = start()
    statuses = []
    for status in guess(facts):
        statuses.append(status)
        if statuses[-10:] == [429] * 10:
            break
    # As many as a rule counts, and as many as may wait for it while the database is busy.
    assert 20 <= statuses.count(401) <= 20 + 2 * 20
    assert set(statuses) == {401, 429}
    assert sources(facts) == {ADDRESS}


def test_whoever_is_not_trusted_cannot_speak_for_others(start):
    facts = start(TRITIUM_TRUSTED_PROXIES="[]")
    assert set(itertools.islice(guess(facts), 30)) == {401}
    assert sources(facts) == {"127.0.0.1"}
