"""Takes events in: what arrives while transactions run is written together by the next one.

An answer is given after the commit. While the database is away, events go into a spool and are answered when
they are durable there; what arrives while some wait in it goes behind them, so that the first event under a
key stays the first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Protocol, cast

import structlog

from tritium_platform.errors import BitNetServiceError, OverloadedError
from tritium_platform.metering.event import UsageEvent, accept_events
from tritium_platform.metering.event_writer import Ingested

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.metering.event import ReportedEvent, Sender
    from tritium_platform.metering.event_writer import EventWriter, Outcome
    from tritium_platform.values import Clock

_log = structlog.get_logger(__name__)
MOST_AT_ONCE = 10_000
MOST_WAITING = 200_000
# While one transaction is in the database, the next one is made ready.
MOST_WRITERS = 2


class EventSpool(Protocol):
    """Keeps events on this machine while the database is away, and brings them into the books afterwards."""

    async def catch_up(self) -> bool:
        """Return whether no events wait in it, after a moment if they are few."""

    async def append(self, events: Sequence[UsageEvent]) -> None:
        """Keep events behind those that wait; OverloadedError if it cannot: none of them is kept then."""

    async def close(self) -> None:
        """Bring in what the database takes, and end; the rest waits for the next process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Events that wait together, and who waits for what becomes of them."""

    events: Sequence[UsageEvent]
    is_confirmed: bool
    done: asyncio.Future[list[Outcome]] = field(default_factory=asyncio.Future)

    def fits(self, first: _Batch, *, size: int) -> bool:
        """Tell whether it may be written with another one, and what is with that."""
        return self.is_confirmed == first.is_confirmed and size + len(self.events) <= MOST_AT_ONCE


class Ingestion:
    """Writes events in groups, a few transactions at a time; close it with `await ingestion.close()`.

    Without a `spool` no event is taken in while the database is away.
    """

    def __init__(self, *, writer: EventWriter, clock: Clock, spool: EventSpool | None = None) -> None:
        self._writer = writer
        self._clock = clock
        self._spool = spool
        self._waiting: deque[_Batch] = deque()
        self._count = 0
        self._writers: set[asyncio.Task[None]] = set()

    async def ingest(self, reported: Sequence[ReportedEvent], *, sender: Sender) -> list[Outcome]:
        """Return what became of each event, or why it is refused, once all that was accepted is durable.

        Raises:
            OverloadedError: too many wait, or the database is away and the spool takes nothing. Whether they
                were counted is not known then: send the same ones again.
        """
        judged = await asyncio.to_thread(accept_events, reported, sender=sender, now=self._clock.now())
        events = [each for each in judged if isinstance(each, UsageEvent)]
        outcomes = await self._written(events, is_confirmed=sender.is_confirmed) if events else []
        if len(events) == len(judged):
            return outcomes
        of_events = iter(outcomes)
        return [each if isinstance(each, BitNetServiceError) else next(of_events) for each in judged]

    async def close(self) -> None:
        """Wait until what was sent is written, and bring in what waits if the database takes it."""
        await asyncio.gather(*self._writers)
        if self._spool is not None:
            await self._spool.close()

    async def _written(self, events: Sequence[UsageEvent], *, is_confirmed: bool) -> list[Outcome]:
        if self._count + len(events) > MOST_WAITING:
            raise OverloadedError("Too many events wait to be written: send them again in a moment.")
        batch = _Batch(events=events, is_confirmed=is_confirmed)
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
                while self._waiting and self._waiting[0].fits(group[0], size=size):
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
        outcomes = await self._taken_in(
            [event for batch in group for event in batch.events],
            is_confirmed=group[0].is_confirmed,
        )
        ends = list(accumulate((len(batch.events) for batch in group), initial=0))
        return [outcomes[start:end] for start, end in pairwise(ends)]

    async def _taken_in(self, events: Sequence[UsageEvent], *, is_confirmed: bool) -> list[Outcome]:
        """Write events into the books, or behind those that wait for the database."""
        spool = self._spool
        if spool is None:
            if not is_confirmed:
                raise OverloadedError("The database does not answer: try again in a moment.")
            return await self._writer.write(events)
        if is_confirmed and await spool.catch_up():
            try:
                return await self._writer.write(events)
            except OverloadedError as error:  # if they were written after all, they are duplicates later
                _log.warning("events_deferred", events=len(events), reason=error.message)
        await spool.append(events)
        return [Ingested.DEFERRED] * len(events)


def _fail(group: Sequence[_Batch], error: Exception) -> None:
    for batch in group:
        if not batch.done.done():
            batch.done.set_exception(error)
            batch.done.exception()  # who went away must not cause a warning
