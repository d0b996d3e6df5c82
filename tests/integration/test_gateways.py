"""Eight gateways on one machine: what a tenant may do is what it may do at all of them together."""

from __future__ import annotations

import contextlib
import json
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
import tritium_test_programs as programs

from tritium_platform.compose import initialize_platform
from tritium_platform.config import PlatformConfig
from tritium_platform.errors import ResourceError, ValidationError

PROGRAM = Path(__file__).with_name("gateway_program.py")
MODEL = Path(__file__).resolve().parents[2] / "examples" / "models" / "scripture-llama-6m"
GATEWAYS = 8
RATE = 100
HELD = 7
SECOND = 1_000_000_000

pytestmark = pytest.mark.service


class Machine:
    """A server, the gateways beside it, and the time."""

    def __init__(self, directory, database_url):
        self.clock, self._log = directory / "clock", directory / "log"
        self._arguments = [directory / "data", database_url, self.clock]
        self._now = 10**15
        self.move(seconds=0)
        self.processes, self.urls = [], []
        self._clients = contextlib.ExitStack()

    def move(self, *, seconds):
        self._now += seconds * SECOND
        with self.clock.open("r+b" if self.clock.exists() else "wb") as file:
            file.write(self._now.to_bytes(8, "little"))

    def start(self, *roles):
        begun = [programs.start(PROGRAM, role, *self._arguments, log=self._log) for role in roles]
        self.processes += begun
        for each in begun:
            facts = json.loads(each.stdout.readline())
            self.urls.append(facts["url"])
            self.admin = facts["admin"]

    def http(self, number, key):
        client = httpx2.Client(
            base_url=self.urls[number], headers={"authorization": f"Bearer {key}"}, timeout=60
        )
        return self._clients.enter_context(client)

    def stop(self):
        self._clients.close()
        for each in self.processes:
            each.send_signal(signal.SIGTERM)
        for each in self.processes:
            each.wait(60)
            each.stdout.close()

    def tenant(self, **limits):
        """Make a tenant, and return its key."""
        admin = self.http(0, self.admin)
        wish = {"organization_name": "Acme", "tier": "business", "limit_overrides": limits}
        tenant_id = admin.post("/api/v1/tenants", json=wish).raise_for_status().json()["id"]
        made = admin.post(f"/api/v1/tenants/{tenant_id}/keys", json={"name": "k"}).raise_for_status()
        key = made.json()["key"]
        owner = self.http(0, key)
        owner.post("/api/v1/models", json={"name": "m", "path": str(MODEL)}).raise_for_status()
        return key


def ask(client, *, model="m", tokens=1, stream=False):
    body = {"model": model, "prompt": "In the", "max_tokens": tokens, "stream": stream}
    return client.post("/v1/completions", json=body)


def deploy(client, name="m"):
    wish = {"model": "m", "name": name}
    return client.post("/api/v1/deployments", json=wish).raise_for_status().json()["id"]


@pytest.fixture(scope="module")
def machine(tmp_path_factory, postgresql_url):
    made = Machine(tmp_path_factory.mktemp("machine"), postgresql_url)
    try:
        made.start("server")
        made.start(*["gateway"] * (GATEWAYS - 1))
        yield made
    finally:
        made.stop()


def known_everywhere(machine, harness, key, name="m"):
    for number in range(len(machine.urls)):
        client = machine.http(number, key)
        harness.wait_until(
            lambda client=client: client.get(f"/api/v1/deployments/{name}").json()["state"] == "ready"
        )


def test_a_hundred_a_minute_are_a_hundred_at_eight_gateways_together(machine, harness):
    key = machine.tenant(requests_per_minute=RATE)
    deploy(machine.http(0, key))
    known_everywhere(machine, harness, key)
    machine.move(seconds=60)  # whatever this took of the rate is back
    clients = [machine.http(number, key) for number in range(GATEWAYS)]
    with ThreadPoolExecutor(GATEWAYS) as pool:
        answers = [
            answer
            for answers in pool.map(lambda client: [ask(client) for _ in range(RATE // 5)], clients)
            for answer in answers
        ]
    assert Counter(answer.status_code for answer in answers) == {200: RATE, 429: 3 * RATE // 5}
    for refused in (answer for answer in answers if answer.status_code == 429):
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["x-ratelimit-limit-requests"] == str(RATE)
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert refused.headers["x-ratelimit-reset-requests"] == "1m0s"
        error = refused.json()["error"]
        assert (error["code"], error["recovery"]) == ("rate_limit_exceeded", "retry_after")
    # Whoever waits as told is admitted, at any gateway; what is admitted now is what has come back since.
    for number in range(3):
        machine.move(seconds=1)
        assert ask(clients[-1 - number]).status_code == 200
    assert [ask(client).status_code for client in clients[:3]] == [200, 200, 429]
    usage = machine.http(0, key)

    def completions():
        records = usage.get("/api/v1/usage?limit=1000").raise_for_status().json()["records"]
        return sum(record["operation"] == "completion" for record in records)

    harness.wait_until(lambda: completions() == RATE + 5)


def test_what_one_gateway_deploys_names_and_deletes_the_others_follow(machine, harness):
    key = machine.tenant()
    first, last = machine.http(0, key), machine.http(GATEWAYS - 1, key)
    deploy(last, name="mine")
    harness.wait_until(lambda: ask(first, model="mine").status_code == 200)
    last.put("/api/v1/aliases/chat", json={"target": "mine"}).raise_for_status()
    harness.wait_until(lambda: ask(first, model="chat").status_code == 200)
    last.delete("/api/v1/aliases/chat").raise_for_status()
    last.delete("/api/v1/deployments/mine").raise_for_status()
    harness.wait_until(lambda: ask(first, model="chat").status_code == 404)
    harness.wait_until(lambda: ask(first, model="mine").status_code == 404)


def test_places_of_a_killed_gateway_are_free_at_once_and_what_it_finished_is_in_the_books(machine, harness):
    key = machine.tenant(max_concurrent_requests=6)
    deploy(machine.http(0, key))
    known_everywhere(machine, harness, key)
    asker = machine.http(0, key)
    body = {"model": "m", "prompt": "In the", "max_tokens": HELD, "stream": True}
    pieces = []  # an iterator that nobody holds hangs up
    with contextlib.ExitStack() as streams:
        for number in (1, 1, 2, 2, 3, 3):
            stream = machine.http(number, key).stream("POST", "/v1/completions", json=body)
            pieces.append(streams.enter_context(stream).iter_bytes())
            next(pieces[-1])  # its first token: it runs
        refused = ask(asker)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "6 concurrent requests" in refused.json()["error"]["message"]
        assert refused.headers["ratelimit"].count('"concurrent-requests";r=0') == 1
        machine.processes[1].kill()
        machine.processes[1].wait()
        assert ask(asker).status_code == 200
        assert ask(machine.http(2, key)).status_code == 200
    last = machine.http(4, key)
    assert [ask(last).status_code for _ in range(4)] == [200] * 4
    machine.processes[4].kill()  # its settlements come into the books with the server's next look

    def completions():
        records = asker.get("/api/v1/usage?limit=1000").raise_for_status().json()["records"]
        outcomes = [record["outcome"] for record in records if record["operation"] == "completion"]
        return outcomes.count("success")

    harness.wait_until(lambda: completions() == 6)


async def test_a_gateway_is_refused_on_sqlite_and_without_a_server(tmp_path, postgresql_url):
    with pytest.raises(ValidationError, match="Several gateways need PostgreSQL"):
        await initialize_platform(PlatformConfig(data_dir=tmp_path / "a"), is_beside_server=True)
    config = PlatformConfig(data_dir=tmp_path / "b", database_url=postgresql_url)
    with pytest.raises(ResourceError, match="No server runs"):
        await initialize_platform(config, is_beside_server=True)
    assert not (tmp_path / "b").exists()
