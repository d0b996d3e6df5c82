"""One seed from its beginning to its end: some lives of the platform, each cut short but the last."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import logging
import random
import tempfile
import warnings
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import structlog

from simulated import books
from simulated.clock import Calendar, WorldClock
from simulated.customers import Customer
from simulated.database import WorldDatabase
from simulated.disk import Disk, DiskFiles
from simulated.engine import Engine
from simulated.loop import PowerCut, VirtualLoop
from simulated.operator import Operator
from simulated.process import RESERVATION_SECONDS, Process
from simulated.witness import Witness
from tritium_platform.adapters import spool, spooled_settlements
from tritium_platform.billing.rating.plan_json import plan_from_dict
from tritium_platform.billing.rating.tax import TaxStatus
from tritium_platform.tenancy.keys import generate_token
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import uuid7

NAMES = {"a": 1000, "b": 230, "c": 12}  # with leases, with leases at first, and without
LIMITS = {
    "requests_per_minute": 10**9,
    "tokens_per_minute": 10**12,
    "max_concurrent_requests": 4,
}
PLAN = {
    "name": "simulated",
    "currency": "EUR",
    "charges": [
        {
            "name": "output",
            "meter": "output_tokens",
            "price": {
                "kind": "graduated",
                "steps": [{"up_to": 10, "unit_price": "7/3"}, {"up_to": None, "unit_price": "13"}],
            },
        },
        {
            "name": "input",
            "meter": "input_tokens",
            "included": 3,
            "price": {"kind": "package", "size": 7, "amount": "9"},
        },
    ],
    "taxes": [
        {
            "jurisdiction": "DE",
            "category": "standard",
            "valid_from": "2026-01-01T00:00:00+00:00",
            "rate": "0.19",
        }
    ],
}


class BrokenBooksError(AssertionError):
    """An invariant does not hold: the seed, the reason, and what came before."""

    def __init__(self, world, reason):
        self.reason = reason
        lines = "\n".join(f"    {line}" for line in world.trace[-40:])
        super().__init__(
            f"seed {world.seed}: {reason}\n{lines}\n"
            f"replay it with: python tests/simulation/simulate.py --seed {world.seed} --trace"
        )


class World:
    """Everything that is drawn for a seed, and everything that outlives a process.

    Args:
        seed: decides all of it.
        start: what `prepare` made.
    """

    def __init__(self, seed, start):
        self.seed = seed
        self.trace = []
        self.tenants, self.limits = start.tenants, start.limits
        self.tables = start.tables
        self.names = {}
        self.calendar = Calendar()
        self.witness = Witness()
        self.unfinished = {}
        self.heads = []
        self.order = dict(start.order)
        self.is_time_turned = False
        self.now = 0.0
        self.lives = self.turns = 0
        self._keys = 0
        self._loop = self._quotas = None
        self._failure = None
        self._chance = random.Random(f"world {seed}")
        self._is_broken = self._chance.random() < 0.7  # else nothing fails but by crashes
        self._has_operator = self._chance.random() < 0.4
        self._crashes = self._chance.choice([0, 1, 1, 1, 2, 3])

    def run(self):
        """Live it; raise BrokenBooksError if an invariant does not hold."""
        with _seams(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what dies in the middle leaves coroutines that nobody awaits
            try:
                for crash in range(self._crashes):
                    budget = int(2 ** self._chance.uniform(3, 10.3))
                    self._live(dies_after=budget, name=f"{self.seed} {crash}")
                self._live(dies_after=None, name=f"{self.seed} last")
                self._check_end()
            except Exception as error:
                cause = self._failure or error  # what an invariant said first may come out as another error
                reason = str(cause) if isinstance(cause, AssertionError) else repr(cause)
                raise BrokenBooksError(self, reason) from error
        return self

    def note(self, line):
        """Add a line to the trace."""
        if self._loop is not None:
            self.now = self._loop.time()
        self.trace.append(f"{self.now:9.4f} {line}")

    def new_key(self):
        """Return an idempotency key that nobody had."""
        self._keys += 1
        return f"key{self._keys}"

    def digest(self):
        """Return the SHA-256 of everything that happened and of everything that is left."""
        left = [
            (name, sorted(map(repr, rows.items())))
            for name, rows in sorted(self.tables.items())
            if name != "api_keys"  # made at the start; their sets of scopes have no order
        ]
        files = [(name, hashlib.sha256(file.data).hexdigest()) for name, file in sorted(self.names.items())]
        return hashlib.sha256(json.dumps([self.trace, left, files]).encode()).hexdigest()

    # ------------------------------------------------------------------ one life
    def _live(self, *, dies_after, name):
        chance = random.Random(f"life {name}")
        loop = VirtualLoop(now=self.now, chance=chance, dies_after=dies_after)
        faults = chance.choice([0.01, 0.05]) if self._is_broken else 0.0
        disk = Disk(loop.threads, chance, faults=faults / 2, names=self.names)
        disk.on_rename = self._see_head
        database = WorldDatabase(self.tables, chance=chance, faults=faults, on_commit=self._committed)
        process = Process(
            database=database,
            disk=disk,
            files=DiskFiles(disk),
            clock=WorldClock(loop, self.calendar),
            chance=chance,
            lock_directory=_lock_directory(),
        )
        _connect(loop, disk, chance)
        engine = Engine(chance=chance, faults=faults)
        self.lives += 1
        self._loop = loop
        self.note(f"life {self.lives} begins")
        try:
            loop.run_until_complete(self._inhabit(process, engine, disk, chance, is_last=dies_after is None))
            is_cut = False
        except PowerCut:
            is_cut = chance.random() < 0.5
            self.note("the power went" if is_cut else "the process was killed")
        finally:
            self._bury(loop, process, database)
        self.names = disk.after(is_power_cut=is_cut, chance=chance)
        if self._failure is not None:
            raise self._failure
        self._check_restart()
        self.now += chance.uniform(0.1, 30)

    def _bury(self, loop, process, database):
        self.tables, self.now, self._loop = database.committed, loop.time(), None
        self._quotas = None
        self.turns += loop.turns
        database.is_dead = True
        database._on_commit = lambda before, after: None
        process.database = None
        process.release_lock()
        _connect(loop, _DeadDisk(), random.Random(0))
        loop.bury()

    async def _inhabit(self, process, engine, disk, chance, *, is_last):
        await self._insist_on_start(process)
        self._quotas = process.quotas
        people = [
            self._customer(process, engine, chance, tenant=tenant, acts=chance.randint(1, 4))
            for tenant in self.tenants
            for _ in range(chance.choice([1, 1, 2]))
        ]
        people.append(self._operator(process, chance, acts=chance.randint(2, 7)))
        people += self._finish(process, engine, chance)
        if self._is_broken and chance.random() < 0.5:
            people.append(self._engine_dies(engine, chance))
        await asyncio.gather(*people)
        if is_last:
            process.database.faults = disk.faults = engine.faults = 0.0
            await asyncio.gather(*self._finish(process, engine, chance))
            await process.journal.drained()
            if self._has_operator:
                await Operator(self, process, chance=chance).close_the_books()
        await process.close()
        if is_last:
            await self._restart_in_peace(process)

    async def _insist_on_start(self, process):
        """An operator starts what did not start again; only a wrong disk or database may be the reason."""
        for _ in range(30):
            try:
                return await process.open()
            except Exception as error:
                if not _is_excused(error):
                    raise AssertionError(f"it does not start: {error!r}") from error
                self.note(f"it did not start: {error}")
                process.release_lock()
                await asyncio.sleep(0.5)
        raise AssertionError("it does not start")

    async def _restart_in_peace(self, process):
        """What expired is swept by whoever runs later; nothing is left for it but that."""
        await asyncio.sleep(80 + 2 * RESERVATION_SECONDS)
        self.calendar.jump(timedelta(days=1))
        await process.quotas.sweep()

    async def _customer(self, process, engine, chance, *, tenant, acts):
        customer = Customer(self, process, engine, tenant=tenant, chance=chance)
        for _ in range(acts):
            await customer.act()

    async def _operator(self, process, chance, *, acts):
        operator = Operator(self, process, chance=chance)
        for _ in range(acts):
            await (operator.act() if self._has_operator else operator.meddle())

    def _finish(self, process, engine, chance):
        """Do again what an earlier life left without an answer."""
        left, self.unfinished = self.unfinished, {}
        operator = Operator(self, process, chance=chance)
        for key, what in left.items():
            if isinstance(key, str):
                yield operator.insist(what[0], key, *what[1:])
            else:
                customer = Customer(self, process, engine, tenant=what[0], chance=chance)
                yield customer.insist(key, tokens=what[1])

    async def _engine_dies(self, engine, chance):
        for _ in range(chance.randint(1, 3)):
            await asyncio.sleep(chance.random())
            engine.die()
            self.note("the engine died")

    # ------------------------------------------------------------------ what is looked at
    def _committed(self, before, after):
        intents = [row[0] for key, row in after["audit_outbox"].items() if key not in before["audit_outbox"]]
        for intent in sorted(intents, key=lambda each: (each.occurred_at, each.id)):
            self.order[str(intent.id)] = len(self.order)
            self.note(f"committed {intent.action} {intent.details.get('request_id', '')}")
        try:
            books.check_commit(before, after)
            if self._quotas is not None:
                books.check_leases(self._quotas._leases, after)
        except AssertionError as error:
            self._failure = self._failure or error
            raise

    def _see_head(self, path, content):
        if path.endswith("/checkpoint"):
            self.heads.append(books._head(content))

    def _check_restart(self):
        left = books.check_log(
            DiskFiles(Disk(None, None, names=self.names)),
            self.heads,
            self.tables["audit_outbox"],
            order=self.order,
            is_turned=self.is_time_turned,
        )
        self.witness.check(self.tables, is_final=False)
        return left

    def _check_end(self):
        left = self._check_restart()
        assert not left, f"I8: {len(left)} intents are not in the log"
        self.witness.check(self.tables, is_final=True)
        books.check_end(self.tables)
        if self._has_operator:
            books.check_billed(self.tables)
        assert not self.unfinished, f"nobody answered {self.unfinished}"
        spools = [name for name in self.names if name.startswith("/spool")]
        assert not spools, f"{spools} were left behind"


class _DeadDisk:
    """Nobody's disk."""

    def __getattr__(self, name):
        raise OSError(5, "the machine is off")


class Start:
    """What every seed begins with: three tenants with keys, prices and a contract."""

    def __init__(self):
        self.tables = defaultdict(dict)
        self.tenants = []
        self.limits = {name: LIMITS | {"monthly_quota": quota} for name, quota in NAMES.items()}
        self.order = {}


@functools.cache
def prepare():
    """Make what every seed begins with, once per process."""
    start, chance = Start(), random.Random("start")
    with _seams():
        loop = VirtualLoop(now=0.0, chance=chance)
        disk = Disk(loop.threads, chance)
        database = WorldDatabase(start.tables, chance=chance, faults=0.0, on_commit=lambda *_: None)
        process = Process(
            database=database,
            disk=disk,
            files=DiskFiles(disk),
            clock=WorldClock(loop, Calendar()),
            chance=chance,
            lock_directory=_lock_directory(),
        )
        _connect(loop, disk, chance)
        loop.run_until_complete(_found(process, start))
        start.tables = database.committed
        process.release_lock()
        loop.bury()
    start.tables["audit_outbox"].clear()  # the log of every seed begins empty
    return start


async def _found(process, start):
    await process.open()
    for name in NAMES:
        tenant = await process.tenancy.create_tenant(
            organization_name=name, tier=TenantTier.TEAM, limit_overrides=start.limits[name]
        )
        _, key = await process.tenancy.create_key(tenant.id, name="k")
        start.tenants.append((name, tenant.id, key))
    plan_id = await process.desk.plans.publish(plan_from_dict(PLAN), actor="start")
    for _, tenant_id, _ in start.tenants:
        await process.desk.plans.conclude(
            tenant_id,
            plan=plan_id,
            starts_at=process.clock.now(),
            ends_at=None,
            payment_days=20,
            tax=TaxStatus("DE"),
            actor="start",
        )
    await process.close()


# ------------------------------------------------------------ where the platform touches the machine
@contextlib.contextmanager
def _seams():
    """Put back afterwards what `_connect` replaces, and be silent."""
    kept = spool.os, spooled_settlements.threading
    entropy = uuid7.__kwdefaults__["entropy"], generate_token.__kwdefaults__["entropy"]
    configuration = structlog.get_config()
    logging.disable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        yield
    finally:
        spool.os, spooled_settlements.threading = kept
        uuid7.__kwdefaults__["entropy"], generate_token.__kwdefaults__["entropy"] = entropy
        structlog.configure(**configuration)
        logging.disable(logging.NOTSET)


def _connect(loop, disk, chance):
    """Give the spool this disk and these threads, and ids this randomness: the code stays its own."""
    spool.os = disk
    spooled_settlements.threading = loop.threads
    uuid7.__kwdefaults__["entropy"] = chance.randbytes
    generate_token.__kwdefaults__["entropy"] = chance.randbytes


@functools.cache
def _lock_directory():
    """A real directory: the lock of the audit log is the kernel's."""
    return Path(tempfile.mkdtemp(prefix="tritium-simulated-"))


def _is_excused(error):
    """Whether an error is one of the disk's or the database's, as they were told to fail."""
    while error is not None:
        if "Input/output error" in str(error) or "went away" in str(error):
            return True
        error = error.__cause__
    return False
