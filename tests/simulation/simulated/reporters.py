"""One seed of reported events: lives of a gateway that takes them in, each cut short but the last.

Time, threads, disk and database are those of the other simulation; the code is the real one. A reporter sends
an event until it is answered, also in the next life, and only then the next one: so the first one under an id
is the one that counts, whatever fails meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter, defaultdict
from uuid import UUID

import structlog

from simulated.clock import START, Calendar, WorldClock
from simulated.database import WorldDatabase
from simulated.disk import Disk
from simulated.loop import PowerCut, VirtualLoop
from tritium_platform.adapters import spool
from tritium_platform.adapters.event_replay import EventReplay
from tritium_platform.adapters.ingestion_trail import AuditedIngestion
from tritium_platform.adapters.memory.audit_outbox import MemoryAuditOutbox
from tritium_platform.adapters.memory.event_store import MemoryEventStore
from tritium_platform.adapters.memory.spool_positions import MemorySpoolPositions
from tritium_platform.adapters.memory.tenancy_store import MemoryTenantStore
from tritium_platform.adapters.spooled_events import SpooledEvents
from tritium_platform.errors import BitNetServiceError
from tritium_platform.metering.event import ReportedEvent, Sender
from tritium_platform.metering.event_writer import EventWriter
from tritium_platform.metering.ingestion import Ingestion
from tritium_platform.tenancy.confirmation import Confirmation
from tritium_platform.tenancy.model import Tenant, TenantTier
from tritium_platform.values import uuid7, uuids7_bytes

TENANT = UUID(int=1)
SENDERS = [Sender(tiers={TENANT: TenantTier.TEAM}, is_confirmed=each) for each in (True, True, True, False)]
MOST_BYTES, FILE_BYTES = 3000, 600
ON_TIME, TOO_LATE = {"accepted", "duplicate", "deferred"}, {"conflict", "deferred"}


class Nobody:
    """Caps and metrics are no matter here."""

    async def refresh(self):
        """Nothing."""

    def events_waiting(self, change):
        """Nothing."""

    def events_deferred(self, count):
        """Nothing."""

    def events_refused(self, count, *, code):
        """Nothing."""


class Reporter:
    """Sends its events one after the other; it outlives every process."""

    def __init__(self, name, chance):
        self._name = name
        self._left = [(chance.choice("abcd"), chance.randint(1, 2)) for _ in range(chance.randint(3, 12))]
        self.firsts = {}
        self.late = Counter()

    async def report(self, ingestion, chance):
        """Send what is not answered yet, until it is."""
        while self._left:
            name, quantity = self._left[0]
            is_first = self.firsts.setdefault(name, quantity) == quantity
            event = ReportedEvent(
                source=self._name,
                id=name,
                meter="output_tokens",
                quantity=quantity,
                event_time=START,
                tenant_id=TENANT,
            )
            try:
                (outcome,) = await ingestion.ingest([event], sender=chance.choice(SENDERS))
            except BitNetServiceError:  # nobody knows
                await asyncio.sleep(chance.random())
                continue
            said = outcome.code if isinstance(outcome, BitNetServiceError) else outcome.value
            assert said in (ON_TIME if is_first else TOO_LATE), (
                f"{event} is {said} behind {self.firsts[name]}"
            )
            if not is_first and said == "deferred":
                self.late[self._name, name] += 1
            self._left.pop(0)
            await asyncio.sleep(chance.random() * 0.3)


class Reports:
    """Everything that is drawn for a seed, and everything that outlives a process."""

    def __init__(self, seed):
        self._chance = random.Random(f"reports {seed}")
        self._seed = seed
        self._tables, self._names, self._now = defaultdict(dict), {}, 0.0
        self._calendar = Calendar()
        self._tables["tenants"][TENANT] = Tenant(TENANT, "Acme", TenantTier.BUSINESS, START)
        self._reporters = [Reporter(name, self._chance) for name in ("x", "y")]

    def run(self):
        """Live it; AssertionError if what was acknowledged is not what is in the books."""
        with _seams():
            for crash in range(self._chance.choice([1, 1, 2, 3])):
                self._live(name=f"{self._seed} {crash}", dies_after=int(2 ** self._chance.uniform(3, 9)))
            self._live(name=f"{self._seed} last", dies_after=None)
        self._check()

    def _live(self, *, name, dies_after):
        chance = random.Random(f"life of {name}")
        loop = VirtualLoop(now=self._now, chance=chance, dies_after=dies_after)
        faults = chance.choice([0.0, 0.1, 0.4])
        disk = Disk(loop.threads, chance, faults=faults / 10, names=self._names)
        database = WorldDatabase(self._tables, chance=chance, faults=faults, on_commit=lambda *_: None)
        spool.os = disk
        uuid7.__kwdefaults__["entropy"] = uuids7_bytes.__kwdefaults__["entropy"] = chance.randbytes
        clock = WorldClock(loop, self._calendar)
        is_cut = False
        try:
            loop.run_until_complete(self._inhabit(database, disk, clock, chance, is_last=dies_after is None))
        except PowerCut:
            is_cut = chance.random() < 0.5
        finally:
            self._tables, self._now = database.committed, loop.time() + 1
            database.is_dead = disk.is_dead = True
            loop.bury()
        self._names = disk.after(is_power_cut=is_cut, chance=chance)

    async def _inhabit(self, database, disk, clock, chance, *, is_last):
        events, ingestion = _gateway(database, disk, clock)
        await events.open()
        reports = [asyncio.create_task(each.report(ingestion, chance)) for each in self._reporters]
        if is_last:
            await asyncio.sleep(chance.random() * 5)
            database.faults = disk.faults = 0.0
        await asyncio.gather(*reports)
        while is_last and events.is_waiting():
            await asyncio.sleep(0.1)
        await ingestion.close()

    def _check(self):
        firsts = {
            (each._name, name): quantity for each in self._reporters for name, quantity in each.firsts.items()
        }
        kept = {
            (each.source, each.event_id): each.quantities.output_tokens
            for each in self._tables["usage_records"].values()
        }
        assert kept == firsts, f"the books have {kept}, the first ones were {firsts}"
        intents = [intent for intent, _ in self._tables["audit_outbox"].values()]
        added = sum(each.details["events"] for each in intents if each.action == "usage.ingest")
        assert added == len(kept), f"the log says {added} of {len(kept)}"
        named = Counter(
            (each.details["source"], name)
            for each in intents
            if each.action == "usage.refuse"
            for name in each.details["ids"].split("\n")
        )
        late = sum((each.late for each in self._reporters), Counter())
        assert late <= named, f"{late - named} were acknowledged and nobody was told"
        assert not [name for name in self._names if name.startswith("/events")], "files were left behind"


def _gateway(database, disk, clock):
    trail = AuditedIngestion(intents=MemoryAuditOutbox(database), clock=clock)
    writer = EventWriter(
        store=MemoryEventStore(database), trail=trail, unit_of_work=database.unit_of_work, clock=clock
    )
    replay = EventReplay(
        writer=writer,
        trail=trail,
        positions=MemorySpoolPositions(database),
        unit_of_work=database.unit_of_work,
        caps=Nobody(),
        senders=Confirmation(MemoryTenantStore(database)),
        telemetry=Nobody(),
    )
    events = SpooledEvents(
        disk.Path("/events"),
        store=replay,
        clock=clock,
        telemetry=Nobody(),
        most_bytes=MOST_BYTES,
        file_bytes=FILE_BYTES,
    )
    return events, Ingestion(writer=writer, clock=clock, spool=events)


@contextlib.contextmanager
def _seams():
    """Put back afterwards what a life replaces, and be silent."""
    kept = spool.os, uuid7.__kwdefaults__["entropy"], uuids7_bytes.__kwdefaults__["entropy"]
    configuration = structlog.get_config()
    logging.disable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        yield
    finally:
        spool.os, uuid7.__kwdefaults__["entropy"], uuids7_bytes.__kwdefaults__["entropy"] = kept
        structlog.configure(**configuration)
        logging.disable(logging.NOTSET)
