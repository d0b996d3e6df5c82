"""The other gateways of a data directory: whether there are any, and what those that died have left."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import structlog

from tritium_platform.adapters.spool import spool_files
from tritium_platform.adapters.spooled_events import SpooledEvents
from tritium_platform.adapters.spooled_settlements import SpooledSettlements
from tritium_platform.errors import PlatformError

if TYPE_CHECKING:
    from pathlib import Path

    from tritium_platform.adapters.event_replay import EventReplay
    from tritium_platform.adapters.shared_limiter import SharedLimiter
    from tritium_platform.adapters.spooled_events import SpoolGauge
    from tritium_platform.settlement import SettlementStore
    from tritium_platform.values import Clock

_log = structlog.get_logger(__name__)
_PREFIX = "gateway-"
_NAME = re.compile(rf"{_PREFIX}\d+", re.ASCII)


class Neighbours:
    """Gateways that share limits, database and data directory with this one.

    Args:
        limiter: gives every gateway a seat.
        spool_dir: where the spools of gateways lie, each in the directory of its seat.
        store: brings settlements into the books.
        events: brings events into the books.
        telemetry: is told how many events wait.
        clock: the time.
    """

    def __init__(
        self,
        limiter: SharedLimiter,
        *,
        spool_dir: Path,
        store: SettlementStore,
        events: EventReplay,
        telemetry: SpoolGauge,
        clock: Clock,
    ) -> None:
        self._limiter = limiter
        self._spool_dir = spool_dir
        self._store = store
        self._events = events
        self._telemetry = telemetry
        self._clock = clock

    def are_there(self) -> bool:
        """Tell whether another gateway lives at this moment."""
        return not self._limiter.is_alone()

    async def adopt_spools(self) -> int:
        """Bring what dead gateways have left behind into the books; return how many settlements that were.

        Raises:
            PlatformError: a spool is damaged; those of other gateways are in the books.
        """
        count = 0
        failure: PlatformError | None = None
        for directory in await asyncio.to_thread(_left_behind, self._spool_dir):
            with self._limiter.vacant(int(directory.name.removeprefix(_PREFIX))) as is_vacant:
                if is_vacant:
                    try:
                        count += await self._adopt(directory)
                    except PlatformError as error:
                        _log.error("spool_not_adopted", directory=directory.name, reason=error.message)
                        failure = failure or error
        if count:
            _log.warning("settlements_adopted", count=count)
        if failure is not None:
            raise failure
        return count

    async def _adopt(self, directory: Path) -> int:
        left = SpooledSettlements(directory, store=self._store, clock=self._clock)
        count = await left.recover()
        events = SpooledEvents(
            events_in(directory), store=self._events, clock=self._clock, telemetry=self._telemetry
        )
        num_bytes = await events.adopt()
        if num_bytes:
            _log.warning("events_adopted", directory=directory.name, bytes=num_bytes)
        return count


def events_in(directory: Path) -> Path:
    """Return where a gateway whose spool lies in a directory keeps events that wait for the database."""
    return directory / "events"


def spool_of_seat(spool_dir: Path, seat: int) -> Path:
    """Return where the gateway of a seat has its spool."""
    return spool_dir / f"{_PREFIX}{seat}"


def _left_behind(spool_dir: Path) -> list[Path]:
    seats = (each for each in sorted(spool_dir.glob(f"{_PREFIX}*")) if _NAME.fullmatch(each.name))
    return [each for each in seats if spool_files(each) or spool_files(events_in(each))]
