"""Writes events into the books: each once for ever, with who brought it and what it costs.

Within a group as in the table, the first event under a key is the one. Thousands of events take tens of
milliseconds of computing: that is done in threads, for others are served meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from tritium_platform.errors import BitNetServiceError, ConflictError
from tritium_platform.values import uuids7_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritium_platform.metering.event import UsageEvent
    from tritium_platform.values import Clock, UnitOfWork

Author = tuple[UUID, str | None]


class Ingested(StrEnum):
    """What became of an event."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    """The same event is in the books already."""
    DEFERRED = "deferred"
    """It is durable on this machine, and comes into the books when the database is back."""


Outcome = Ingested | BitNetServiceError


class EventStore(Protocol):
    """Keeps events as usage records; (tenant_id, source, id) is unique for ever."""

    async def keep(self, events: Sequence[UsageEvent], *, identities: Sequence[bytes]) -> Mapping[int, bytes]:
        """Keep events with different keys; return the digests of taken keys by the places of their events.

        `identities` are the ids of the rows, 16 bytes each. A key is taken, too, if its row came under the
        same id in an earlier transaction.
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


class EventWriter:
    """Writes groups of events, each in one transaction. Without `caps` nobody's spending is capped."""

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
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._caps = caps

    async def write(
        self, events: Sequence[UsageEvent], *, identities: Sequence[bytes] | None = None
    ) -> list[Outcome]:
        """Write events; return what became of each.

        `identities` are the ids of their rows, 16 bytes each; without them they get new ones.

        Raises:
            OverloadedError: the database is away. Whether they were counted is not known then.
        """
        arranged = await asyncio.to_thread(_arranged, events)
        firsts = arranged.firsts
        if identities is None:
            ids = uuids7_bytes(len(firsts), clock=self._clock)
        else:
            ids = [identities[place] for place in arranged.origins]
        async with self._unit_of_work():
            taken = await self._store.keep(firsts, identities=ids)
            if len(taken) < len(firsts):
                await self._trail.note(_authors(firsts, taken=taken))
                await self._count_spending(firsts, taken=taken)
        return _outcomes(events, arranged=arranged, taken=taken)

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
    """Events by their keys.

    Attributes:
        firsts: the first event under each key, in the order in which they are written.
        origins: the place of each of `firsts` among the events.
        repeats: the places of all others, with the place in `firsts` of the one under their key.
    """

    firsts: Sequence[UsageEvent]
    origins: Sequence[int]
    repeats: Mapping[int, int]


def _arranged(events: Sequence[UsageEvent]) -> _Arranged:
    """Sort events by their keys, those under the same one as they arrived.

    Of two transactions with the same events one waits for the other: in one order they form no ring.
    """
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
    events: Sequence[UsageEvent], *, arranged: _Arranged, taken: Mapping[int, bytes]
) -> list[Outcome]:
    outcomes: list[Outcome] = [Ingested.ACCEPTED] * len(events)
    for first, kept in taken.items():
        place = arranged.origins[first]
        outcomes[place] = _repeated(events[place], kept=kept)
    for place, first in arranged.repeats.items():
        kept = taken.get(first) or arranged.firsts[first].body_sha256
        outcomes[place] = _repeated(events[place], kept=kept)
    return outcomes


def _repeated(event: UsageEvent, *, kept: bytes) -> Outcome:
    """Return what becomes of an event under whose key there is one, by the digest of that one."""
    if event.body_sha256 == kept:
        return Ingested.DUPLICATE
    return ConflictError(
        "Another event was already counted under this source and id.",
        source=event.kind.source,
        event_id=event.id,
    )
