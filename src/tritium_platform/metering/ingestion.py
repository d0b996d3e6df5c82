"""Takes events in: what arrives while a transaction runs is written together by the next one.

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
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import structlog

from tritium_platform.errors import BitNetServiceError, ConflictError, OverloadedError
from tritium_platform.metering.event import accept_events
from tritium_platform.values import uuids7

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from tritium_platform.metering.event import EventKey, ReportedEvent, Sender, UsageEvent
    from tritium_platform.values import Clock, UnitOfWork

_log = structlog.get_logger(__name__)
MOST_AT_ONCE = 20_000
MOST_WAITING = 200_000
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
        self, events: Sequence[UsageEvent], *, identities: Sequence[UUID], received_at: datetime
    ) -> Mapping[EventKey, bytes]:
        """Keep events with different keys; return the digests of the keys that were taken before."""


class IngestionTrail(Protocol):
    """Writes down, in the transaction of the events, whose events came by which key."""

    async def note(self, accepted: Mapping[Author, int]) -> None:
        """Write down how many events of each tenant each key added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Events that wait together, and who waits for what becomes of them."""

    events: Sequence[UsageEvent]
    done: asyncio.Future[list[Outcome]] = field(default_factory=asyncio.Future)


class Ingestion:
    """Writes events in groups, one transaction at a time; close it with `await ingestion.close()`."""

    def __init__(
        self, *, store: EventStore, trail: IngestionTrail, unit_of_work: UnitOfWork, clock: Clock
    ) -> None:
        self._store = store
        self._trail = trail
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._waiting: deque[_Batch] = deque()
        self._count = 0
        self._writer: asyncio.Task[None] | None = None

    async def ingest(self, reported: Sequence[ReportedEvent], *, sender: Sender) -> list[Outcome]:
        """Return what became of each event, or why it is refused, once all that was accepted is durable.

        Raises:
            OverloadedError: too many wait, or the database is away. Whether they were counted is not known
                then: send the same ones again.
        """
        judged = await asyncio.to_thread(accept_events, reported, sender=sender, now=self._clock.now())
        events = [each for each in judged if not isinstance(each, BitNetServiceError)]
        outcomes = iter(await self._written(events) if events else [])
        return [each if isinstance(each, BitNetServiceError) else next(outcomes) for each in judged]

    async def close(self) -> None:
        """Wait until what was sent is written."""
        if self._writer is not None:
            await self._writer

    async def _written(self, events: Sequence[UsageEvent]) -> list[Outcome]:
        if self._count + len(events) > MOST_WAITING:
            raise OverloadedError("Too many events wait to be written: send them again in a moment.")
        batch = _Batch(events=events)
        self._waiting.append(batch)
        self._count += len(events)
        if self._writer is None or self._writer.done():
            # Of nobody's request: neither its transaction nor its trace is that of what others sent.
            self._writer = asyncio.create_task(self._write_all(), name="ingestion", context=Context())
        return await batch.done

    async def _write_all(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft()]
            size = len(group[0].events)
            while self._waiting and size + len(self._waiting[0].events) <= MOST_AT_ONCE:
                group.append(self._waiting.popleft())
                size += len(group[-1].events)
            await self._write(group)
            self._count -= size

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
        first, ordered = await asyncio.to_thread(_firsts, group)
        identities = uuids7(len(ordered), clock=self._clock)
        now = self._clock.now()
        async with self._unit_of_work():
            taken = await self._store.keep(ordered, identities=identities, received_at=now)
            accepted = Counter(
                (event.tenant_id, event.key_id) for key, event in first.items() if key not in taken
            )
            if accepted:
                await self._trail.note(accepted)
        return await asyncio.to_thread(_outcomes, group, first=first, taken=taken)


def _firsts(group: Sequence[_Batch]) -> tuple[dict[EventKey, UsageEvent], list[UsageEvent]]:
    """Return the first event under each key, by key and in the order in which they are written."""
    first: dict[EventKey, UsageEvent] = {}
    for batch in group:
        for event in batch.events:
            first.setdefault(event.key, event)
    # Of two processes with the same events one waits for the other: in one order they form no ring.
    return first, sorted(first.values(), key=attrgetter("source", "id"))


def _outcomes(
    group: Sequence[_Batch], *, first: Mapping[EventKey, UsageEvent], taken: Mapping[EventKey, bytes]
) -> list[list[Outcome]]:
    return [[_outcome(event, first=first, taken=taken) for event in batch.events] for batch in group]


def _outcome(
    event: UsageEvent, *, first: Mapping[EventKey, UsageEvent], taken: Mapping[EventKey, bytes]
) -> Outcome:
    key = event.key
    kept = taken.get(key)
    if kept is None and first[key] is event:
        return Ingested.ACCEPTED
    is_same = event.body_sha256 == (kept or first[key].body_sha256)
    if is_same:
        return Ingested.DUPLICATE
    return ConflictError(
        "Another event was already counted under this source and id.", source=event.source, event_id=event.id
    )


def _fail(group: Sequence[_Batch], error: Exception) -> None:
    for batch in group:
        if not batch.done.done():
            batch.done.set_exception(error)
            batch.done.exception()  # who went away must not cause a warning
