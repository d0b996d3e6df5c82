"""kill -9 at random times while customers are served, invoices finalized and paid: the books are right.

Two processes work on one database, SQLite and PostgreSQL: a gateway with its spool under load, and one that
bills. TRITIUM_KILL_CYCLES (10, two kills each) cycles per database with all tests; `make soak-kills` does
TRITIUM_KILL_SOAK_CYCLES (1,000) of them. TRITIUM_SOAK_SEED repeats the draws.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from tritium_platform.adapters.sql.migrate import synchronous_engine

HERE = Path(__file__).resolve().parent
CONTRACT = HERE.parent / "contract"
CYCLES = int(os.environ.get("TRITIUM_KILL_CYCLES", "10"))
MANY = int(os.environ.get("TRITIUM_KILL_SOAK_CYCLES", "1000"))
SEED = os.environ.get("TRITIUM_SOAK_SEED") or secrets.token_hex(4)
AT_ONCE = 8
ENDLESS = 10**9
LEASE_SECONDS = 5
PATIENCE = 600  # a machine under load stands still at times


def money_checks():
    """The checks of invoices, payments and journal that the contract suite has."""
    spec = importlib.util.spec_from_file_location("tritium_money_crash", CONTRACT / "test_money_crash.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Nursery:
    """Where processes come from; `nursery.py` has imported everything already."""

    def __init__(self, directory):
        self._directory = directory
        command = [sys.executable, HERE / "nursery.py"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._born = 0

    def bear(self, *command):
        """Start a script; return once it says that it is ready."""
        self._born += 1
        said = self._directory / f"said-{self._born}"
        said.touch()
        self._process.stdin.write(json.dumps([*map(str, command), str(said)]) + "\n")
        self._process.stdin.flush()
        life = Life(int(self._process.stdout.readline()), said)
        life.wait_until(lambda: "ready\n" in said.read_text())
        return life

    def close(self):
        """Nobody else is born here."""
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


class Life:
    """A process that was born in the nursery."""

    def __init__(self, number, said):
        self._number = number
        self._said = said

    def wait_until(self, claim):
        """Wait until something is so; the process must not end before it is."""
        deadline = time.monotonic() + PATIENCE
        while not claim():
            assert time.monotonic() < deadline, f"process {self._number} hangs"
            assert self.is_alive() or claim(), f"a process ended by itself, seed {SEED}"
            time.sleep(0.005)

    def is_alive(self):
        """Tell whether it is still there."""
        try:
            os.kill(self._number, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self):
        """Kill it; it must have been alive. Return the whole lines that it said."""
        os.kill(self._number, signal.SIGKILL)
        self.wait_for_its_end()
        lines = self._said.read_text().splitlines(keepends=True)
        self._said.unlink()
        return [line[:-1] for line in lines if line.endswith("\n")]

    def wait_for_its_end(self):
        """Wait until it is gone."""
        deadline = time.monotonic() + PATIENCE
        while self.is_alive():
            assert time.monotonic() < deadline, f"process {self._number} does not end"
            time.sleep(0.005)


class Rig:
    """A database, what was delivered and told, and the two processes."""

    def __init__(self, directory, url):
        self.directory = directory
        self.url = url or f"sqlite+aiosqlite:///{directory / 'tritium.sqlite3'}"
        self.told, self.paid = [], []
        self.kills = 0
        self.deliveries = directory / "delivered"
        self.payments = directory / "payments"
        self.payments.write_text("")
        self.nursery = Nursery(directory)

    def walk(self, seed, *, count=ENDLESS):
        """Start the gateway; return once it serves."""
        script = HERE / "walkers.py"
        return self.nursery.bear(script, self.directory, self.deliveries, seed, count, self.url)

    def bill(self, seed):
        """Start who bills; return once it works, with every payment made that may not have been."""
        return self.nursery.bear(CONTRACT / "money_worker.py", self.url, seed, self.payments)

    def cycle(self, chance, number):
        """Let both work for a moment, and kill each at a moment of its own."""
        started = [self.walk(f"{SEED} {number}"), self.bill(f"{SEED} {number}")]
        chance.shuffle(started)
        lines = []
        for process in started:
            time.sleep(chance.uniform(0.05, 0.5))
            lines += process.kill()
            self.kills += 1
        self.hear(lines)

    def bill_nothing(self):
        """Make the payments that the last kill may have cut, and no others."""
        script = CONTRACT / "money_worker.py"
        self.nursery.bear(script, self.url, "", self.payments, "only").wait_for_its_end()

    def hear(self, lines):
        """Note which invoices are final, and what was to be paid."""
        payments = [line for line in lines if line.startswith("paying ")]
        self.told += [line.split()[1] for line in lines if line.startswith("finalized ")]
        self.paid += [line.split()[1:] for line in payments]
        self.payments.write_text("".join(f"{line}\n" for line in payments))

    def rows(self, statement):
        """Return the rows of a statement."""
        engine = synchronous_engine(self.url)
        with engine.connect() as connection:
            found = [tuple(row) for row in connection.execute(text(statement))]
        engine.dispose()
        return found

    def require_exact(self):
        """What customers were given is what is recorded, counted and told; nothing is held."""
        lines = self.deliveries.read_text().splitlines(keepends=True)
        delivered = dict(line.split() for line in lines if line.endswith("\n"))
        (tenant_id,) = {row[0] for row in self.rows("SELECT tenant_id FROM quota_counters")}
        records = self.rows("SELECT tenant_id, event_id, output_tokens FROM usage_records")
        mine = {event: tokens for tenant, event, tokens in records if tenant == tenant_id}
        for event_id, tokens in delivered.items():
            assert mine[event_id] == int(tokens), (event_id, SEED)
        assert len(mine) - len(delivered) <= self.kills * AT_ONCE
        intents = [json.loads(row[0]) for row in self.rows("SELECT entry_json FROM audit_outbox")]
        uses = Counter(each["event_id"] for each in intents if each["action"].startswith("completion."))
        assert uses == Counter(str(UUID(event)) for event in mine)
        assert self.rows("SELECT sum(count) FROM health_outcomes") == [(len(mine),)]
        used = self.rows("SELECT sum(used), sum(held) FROM quota_counters")
        assert [tuple(map(int, row)) for row in used] == [(len(mine), 0)]
        return len(delivered)

    def require_paid_once(self):
        """Whatever was asked to be paid under a key is paid exactly once, with that amount."""
        found = self.rows("SELECT invoice_id, amount_minor FROM invoice_payments")
        assert Counter((UUID(str(each)), amount) for each, amount in found) == Counter(
            (UUID(invoice_id), int(amount)) for invoice_id, amount in self.paid
        )


def kill_often(rig, cycles):
    """Do the cycles, let everything come to rest, and check all of it."""
    chance, started = random.Random(SEED), time.monotonic()
    for number in range(cycles):
        rig.cycle(chance, number)
    rig.hear(rig.bill(f"{SEED} last").kill())  # it has paid what was left to be paid, and begun anew
    rig.bill_nothing()
    for pause in (0, LEASE_SECONDS):  # what died left a spool, and a lease that is over then
        time.sleep(pause)
        rig.walk(SEED, count=0).wait_for_its_end()
    rig.nursery.close()
    return rig.require_exact(), time.monotonic() - started


@pytest.mark.timeout(900)
def test_the_books_are_right_after_kills(tmp_path, database_url):
    rig = Rig(tmp_path, database_url)
    check_all(rig, CYCLES)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_the_books_are_right_after_very_many_kills(tmp_path, database_url):
    rig = Rig(tmp_path, database_url)
    answers, seconds, invoices = check_all(rig, MANY)
    print(  # noqa: T201 - a measurement
        f"\n{MANY} cycles, {rig.kills} kills, {answers} answers, {invoices} invoices finalized, "
        f"{len(rig.paid)} paid, {seconds:.0f} s, seed {SEED}"
    )


def check_all(rig, cycles):
    """Kill, and check uses, payments and invoices; return how many answers, seconds and invoices."""
    answers, seconds = kill_often(rig, cycles)
    rig.require_paid_once()
    money = money_checks()
    money.KILLS = 0
    money.check(rig.url, acknowledged=set(rig.told))
    return answers, seconds, len(rig.told)
