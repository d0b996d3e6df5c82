"""Brings events out of a spool into the books, together with the position of the spool.

What cannot be taken in has been acknowledged: it is named in the audit log, and keeps nothing else back.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Protocol

import structlog
from msgspec.structs import replace

from tritium_platform.adapters.ingestion_trail import RefusedEvents
from tritium_platform.errors import BitNetServiceError, ErrorCategory
from tritium_platform.tenancy.confirmation import Arrival

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from uuid import UUID

    from tritium_platform.adapters.event_codec import SpooledEvent
    from tritium_platform.adapters.ingestion_trail import AuditedIngestion
    from tritium_platform.adapters.settlement_store import SpoolPositions
    from tritium_platform.metering.event import EventKind, UsageEvent
    from tritium_platform.metering.event_writer import EventWriter
    from tritium_platform.tenancy.model import TenantTier
    from tritium_platform.values import UnitOfWork

_log = structlog.get_logger(__name__)


class Caps(Protocol):
    """Knows whose spending is capped."""

    async def refresh(self) -> None:
        """Read the caps as any process has written them."""


class Senders(Protocol):
    """Knows who was allowed to send at a moment that is over."""

    async def ask(self, arrivals: Collection[Arrival]) -> Mapping[Arrival, TenantTier | BitNetServiceError]:
        """Return the tier of each tenant, or why its key was not allowed to send at that moment."""


class RefusalCounter(Protocol):
    """Counts events that were acknowledged and are not in the books."""

    def events_refused(self, count: int, *, code: str) -> None:
        """Count some, by the code of the error."""


class EventReplay:
    """Applies groups of spooled events, each group once."""

    def __init__(
        self,
        *,
        writer: EventWriter,
        trail: AuditedIngestion,
        positions: SpoolPositions,
        unit_of_work: UnitOfWork,
        caps: Caps,
        senders: Senders,
        telemetry: RefusalCounter,
    ) -> None:
        self._writer = writer
        self._trail = trail
        self._positions = positions
        self._unit_of_work = unit_of_work
        self._caps = caps
        self._senders = senders
        self._telemetry = telemetry

    async def begin(self) -> None:
        """Find out whose spending is capped by now; OverloadedError if the database is away."""
        await self._caps.refresh()

    async def position(self, spool_id: UUID) -> int:
        """Return up to where a spool is in the books."""
        return await self._positions.get(spool_id)

    async def forget(self, spool_id: UUID) -> None:
        """Forget the position of a spool that is gone."""
        await self._positions.remove(spool_id)

    async def apply(self, events: Sequence[SpooledEvent], /, *, spool_id: UUID, position: int) -> None:
        """Bring events into the books unless they are there: the position is of the same transaction.

        Raises:
            BitNetServiceError: nothing can be written at this moment; or, of the category `permanent`, the
                books do not take one of several: part them.
        """
        codes: Mapping[int, str] | None = None
        while True:
            try:
                return await self._bring_in(events, codes, spool_id=spool_id, position=position)
            except BitNetServiceError as error:
                if codes is not None or len(events) > 1 or error.category is not ErrorCategory.PERMANENT:
                    raise
                codes = {0: error.code}

    async def _bring_in(
        self,
        events: Sequence[SpooledEvent],
        codes: Mapping[int, str] | None,
        *,
        spool_id: UUID,
        position: int,
    ) -> None:
        """Write events, and name those that are refused: with `codes`, by place, these and no others."""
        async with self._unit_of_work():
            if await self._positions.get(spool_id) >= position:
                return
            await self._positions.put(spool_id, position=position)
            refused = _sorted(await self._codes(events) if codes is None else codes, events=events)
            if refused:
                await self._trail.note_refused(refused)
                self._tell(refused)  # here: told twice is better than not at all

    async def _codes(self, events: Sequence[SpooledEvent]) -> Mapping[int, str]:
        """Write events; return the codes of those that are not taken in, by place."""
        kinds = await self._confirmed({each.event.kind for each in events})
        codes: dict[int, str] = {}
        written: list[int] = []
        allowed: list[UsageEvent] = []
        for place, (event, _) in enumerate(events):
            kind = kinds.get(event.kind, event.kind)
            if isinstance(kind, BitNetServiceError):
                codes[place] = kind.code
                continue
            written.append(place)
            allowed.append(event if kind is event.kind else replace(event, kind=kind))
        if written:
            identities = [events[place].identity for place in written]
            outcomes = await self._writer.write(allowed, identities=identities)
            for place, outcome in zip(written, outcomes, strict=True):
                if isinstance(outcome, BitNetServiceError):
                    codes[place] = outcome.code
        return codes

    async def _confirmed(
        self, kinds: Collection[EventKind]
    ) -> Mapping[EventKind, EventKind | BitNetServiceError]:
        """Return, of events whose senders could not be asked for, what they are or why they are refused."""
        arrivals = {
            kind: Arrival(kind.tenant_id, kind.key_id, kind.received_at)
            for kind in kinds
            if not kind.is_confirmed
        }
        answers = await self._senders.ask(set(arrivals.values())) if arrivals else {}
        return {
            kind: answer if isinstance(answer, BitNetServiceError) else kind.confirmed(answer)
            for kind, answer in ((kind, answers[arrival]) for kind, arrival in arrivals.items())
        }

    def _tell(self, refused: Sequence[RefusedEvents]) -> None:
        for each in refused:
            self._telemetry.events_refused(len(each.events), code=each.code)
            _log.error(
                "spooled_events_refused",
                tenant_id=str(each.tenant_id),
                source=each.source,
                code=each.code,
                events=len(each.events),
            )


def _sorted(codes: Mapping[int, str], *, events: Sequence[SpooledEvent]) -> Sequence[RefusedEvents]:
    """Sort events that the books do not take, the codes of whose errors are given by their places."""
    found: defaultdict[tuple[UUID, str | None, str, str], list[SpooledEvent]] = defaultdict(list)
    for place, code in codes.items():
        kind = events[place].event.kind
        found[kind.tenant_id, kind.key_id, kind.source, code].append(events[place])
    return [RefusedEvents(*whose, events=theirs) for whose, theirs in found.items()]
