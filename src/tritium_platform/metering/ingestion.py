"""Takes events in: what arrives while transactions run is written together by the next one.

An answer is given after the commit. Within a group as in the table, the first event under a key is the one.
Thousands of events take tens of milliseconds of computing: that is done in threads, for others are served
meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextvars import Context
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Protocol, cast
from uuid import UUID

import structlog

from tritium_platform.errors import BitNetServiceError, ConflictError, OverloadedError
from tritium_platform.metering.event import UsageEvent, accept_events
from tritium_platform.values import uuids7_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from tritium_platform.metering.event import ReportedEvent, Sender
    from tritium_platform.values import Clock, UnitOfWork

_log = structlog.get_logger(__name__)
MOST_AT_ONCE = 10_000
MOST_WAITING = 200_000
# While one transaction is in the database, the next one is made ready.
MOST_WRITERS = 2
Author = tuple[UUID, str | None]


class Ingested(StrEnum):
    """What became of an event."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    """The same event is in the books already."""


Outcome = Ingested | BitNetServiceError


class EventStore(Protocol):
    """Keeps events as usage records; (tenant_id, source, id) is unique for ever."""

    async def keep(
        self, events: Sequence[UsageEvent], *, identities: Sequence[bytes], received_at: datetime
    ) -> Mapping[int, bytes]:
        """Keep events with different keys; return the digests of taken keys by the places of their events.

        `identities` are the ids of the rows, 16 bytes each.
        """


class IngestionTrail(Protocol):
    """Writes down, in the transaction of the events, whose events came by which key."""

    async def note(self, accepted: Mapping[Author, int]) -> None:
        """Write down how many events of each tenant each key added."""


class SpendCaps(Protocol):
    """Counts, in the transaction of the events, what they cost those whose spending is capped."""

    def is_capped(self, tenant_id: UUID) -> bool:
        """Tell whether a tenant has a cap."""

    async def count(self, events: Sequence[UsageEvent]) -> None:
        """Count new events of capped tenants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Events that wait together, and who waits for what becomes of them."""

    events: Sequence[UsageEvent]
    done: asyncio.Future[list[Outcome]] = field(default_factory=asyncio.Future)


class Ingestion:
    """Writes events in groups, a few transactions at a time; close it with `await ingestion.close()`.

    Without `caps` nobody's spending is capped.
    """

    def __init__(
        self,
        *,
        store: EventStore,
        trail: IngestionTrail,
        unit_of_work: UnitOfWork,
        clock: Clock,
        caps: SpendCaps | None = None,
    ) -> None:
        self._store = store
        self._trail = trail
        self._caps = caps
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._waiting: deque[_Batch] = deque()
        self._count = 0
        self._writers: set[asyncio.Task[None]] = set()

    async def ingest(self, reported: Sequence[ReportedEvent], *, sender: Sender) -> list[Outcome]:
        """Return what became of each event, or why it is refused, once all that was accepted is durable.

        Raises:
            OverloadedError: too many wait, or the database is away. Whether they were counted is not known
                then: send the same ones again.
        """
        judged = await asyncio.to_thread(accept_events, reported, sender=sender, now=self._clock.now())
        events = [each for each in judged if isinstance(each, UsageEvent)]
        outcomes = await self._written(events) if events else []
        if len(events) == len(judged):
            return outcomes
        of_events = iter(outcomes)
        return [each if isinstance(each, BitNetServiceError) else next(of_events) for each in judged]

    async def close(self) -> None:
        """Wait until what was sent is written."""
        await asyncio.gather(*self._writers)

    async def _written(self, events: Sequence[UsageEvent]) -> list[Outcome]:
        if self._count + len(events) > MOST_WAITING:
            raise OverloadedError("Too many events wait to be written: send them again in a moment.")
        batch = _Batch(events=events)
        self._waiting.append(batch)
        self._count += len(events)
        if len(self._writers) < MOST_WRITERS:
            # Of nobody's request: neither its transaction nor its trace is that of what others sent.
            writer = asyncio.create_task(self._write_all(), name="ingestion", context=Context())
            self._writers.add(writer)
        return await batch.done

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                group = [self._waiting.popleft()]
                size = len(group[0].events)
                while self._waiting and size + len(self._waiting[0].events) <= MOST_AT_ONCE:
                    group.append(self._waiting.popleft())
                    size += len(group[-1].events)
                await self._write(group)
                self._count -= size
        finally:
            # Here and not when the loop hears of the end: what arrives in between would wait for nobody.
            self._writers.remove(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _write(self, group: Sequence[_Batch]) -> None:
        try:
            results = await self._commit(group)
        except OverloadedError as error:  # the database is away: for each of them
            _fail(group, error)
        except Exception as error:  # noqa: BLE001 - whoever waits gets the reason
            if len(group) == 1:
                _fail(group, error)
                return
            _log.warning("ingestion_group_failed", batches=len(group), reason=type(error).__name__)
            for batch in group:  # what is wrong with one of them is not the others' fault
                await self._write([batch])
        else:
            for batch, result in zip(group, results, strict=True):
                if not batch.done.done():
                    batch.done.set_result(result)

    async def _commit(self, group: Sequence[_Batch]) -> list[list[Outcome]]:
        arranged = await asyncio.to_thread(_arranged, group)
        firsts = arranged.firsts
        async with self._unit_of_work():
            taken = await self._store.keep(
                firsts, identities=uuids7_bytes(len(firsts), clock=self._clock), received_at=self._clock.now()
            )
            if len(taken) < len(firsts):
                await self._trail.note(_authors(firsts, taken=taken))
                await self._count_spending(firsts, taken=taken)
        return _outcomes(group, arranged=arranged, taken=taken)

    async def _count_spending(self, firsts: Sequence[UsageEvent], *, taken: Mapping[int, bytes]) -> None:
        """Count what the new events of capped tenants cost; last, for others wait for these counters."""
        if self._caps is None:
            return
        capped = {kind for kind in {event.kind for event in firsts} if self._caps.is_capped(kind.tenant_id)}
        if capped:
            new = (event for place, event in enumerate(firsts) if place not in taken)
            await self._caps.count([event for event in new if event.kind in capped])


@dataclass(frozen=True, slots=True)
class _Arranged:
    """The events of a group by their keys.

    Attributes:
        firsts: the first event under each key, in the order in which they are written.
        origins: the place of each of `firsts` in the group.
        repeats: the places of all others, with the place in `firsts` of the one under their key.
    """

    firsts: Sequence[UsageEvent]
    origins: Sequence[int]
    repeats: Mapping[int, int]


def _arranged(group: Sequence[_Batch]) -> _Arranged:
    """Sort the events of a group by their keys, those under the same one as they arrived.

    Of two transactions with the same events one waits for the other: in one order they form no ring.
    """
    events = [event for batch in group for event in batch.events]
    keys = [event.key for event in events]
    origins: list[int] = []
    repeats: dict[int, int] = {}
    last: bytes | None = None
    for place in sorted(range(len(keys)), key=keys.__getitem__):
        if keys[place] == last:
            repeats[place] = len(origins) - 1
        else:
            last = keys[place]
            origins.append(place)
    return _Arranged([events[place] for place in origins], origins, repeats)


def _authors(firsts: Sequence[UsageEvent], *, taken: Mapping[int, bytes]) -> Mapping[Author, int]:
    """Count the events that were not taken by whose they are and which key brought them."""
    kinds = Counter([event.kind for event in firsts])
    kinds.subtract(firsts[place].kind for place in taken)
    authors: Counter[Author] = Counter()
    for kind, count in kinds.items():
        authors[kind.tenant_id, kind.key_id] += count
    return +authors


def _outcomes(
    group: Sequence[_Batch], *, arranged: _Arranged, taken: Mapping[int, bytes]
) -> list[list[Outcome]]:
    events = [event for batch in group for event in batch.events]
    outcomes: list[Outcome] = [Ingested.ACCEPTED] * len(events)
    for first, kept in taken.items():
        place = arranged.origins[first]
        outcomes[place] = _repeated(events[place], kept=kept)
    for place, first in arranged.repeats.items():
        kept = taken.get(first) or arranged.firsts[first].body_sha256
        outcomes[place] = _repeated(events[place], kept=kept)
    ends = list(accumulate((len(batch.events) for batch in group), initial=0))
    return [outcomes[start:end] for start, end in pairwise(ends)]


def _repeated(event: UsageEvent, *, kept: bytes) -> Outcome:
    """Return what becomes of an event under whose key there is one, by the digest of that one."""
    if event.body_sha256 == kept:
        return Ingested.DUPLICATE
    return ConflictError(
        "Another event was already counted under this source and id.",
        source=event.kind.source,
        event_id=event.id,
    )


def _fail(group: Sequence[_Batch], error: Exception) -> None:
    for batch in group:
        if not batch.done.done():
            batch.done.set_exception(error)
            batch.done.exception()  # who went away must not cause a warning
