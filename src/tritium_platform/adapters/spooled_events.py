"""Events through a spool while the database is away: durable when `append` returns, in the books afterwards.

Files are brought in one after the other, oldest first, by one task: it is the first to notice that the
database is back. What arrives meanwhile goes behind. In memory lie the events of one group, and one file.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import Context
from typing import TYPE_CHECKING, Protocol, cast
from uuid import UUID

import structlog

from tritium_platform.adapters.event_codec import SpooledEvent, decode_events, encode_events
from tritium_platform.adapters.spool import (
    Spool,
    make_directory,
    read_spool,
    remove_spool,
    require_length,
    spool_files,
    spool_path,
)
from tritium_platform.adapters.spool_groups import GroupWriter, SpoolFrame, SpoolGroup
from tritium_platform.errors import BitNetServiceError, ErrorCategory, OverloadedError
from tritium_platform.values import uuid7, uuids7_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tritium_platform.adapters.event_replay import EventReplay
    from tritium_platform.metering.event import UsageEvent
    from tritium_platform.values import Clock

_log = structlog.get_logger(__name__)
AWAY_SECONDS = 0.5
DRAIN_SECONDS = 30.0
CATCH_UP_SECONDS = 1.0
MOST_AT_ONCE = 10_000
FILE_BYTES = 16 * 2**20
MOST_BYTES = 2**30


class SpoolGauge(Protocol):
    """Shows how much waits for the database."""

    def events_waiting(self, change: int) -> None:
        """Show that so many bytes more wait, or less."""

    def events_deferred(self, count: int) -> None:
        """Count events that went into the spool."""


class SpooledEvents:
    """The spool of one process; `directory` is its own. Call `open` first, and `close` at the end.

    Args:
        directory: where its files lie.
        store: brings events into the books.
        clock: the time.
        telemetry: is told how much waits.
        most_bytes: how much may wait.
        file_bytes: how large a file grows before the next one begins.
    """

    def __init__(
        self,
        directory: Path,
        *,
        store: EventReplay,
        clock: Clock,
        telemetry: SpoolGauge,
        most_bytes: int = MOST_BYTES,
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self._directory = directory
        self._store = store
        self._clock = clock
        self._telemetry = telemetry
        self._most_bytes = most_bytes
        self._file_bytes = file_bytes
        self._group_writer = GroupWriter(store, clock=clock)
        self._sizes: dict[Path, int] = {}  # of the files that wait, oldest first
        self._appending = 0
        self._lock = asyncio.Lock()
        self._spool: Spool | None = None
        self._is_closed = False
        self._is_away = False  # the database was, when it was tried last
        self._progress = asyncio.Event()
        self._replay: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Look at what an earlier process left behind, and begin to bring it in.

        Raises:
            PlatformError: a file is damaged, or ends before what is in the books already.
        """
        await self._find()
        self._start()

    async def adopt(self) -> int:
        """Bring in at once what a dead process left behind; return how many bytes that was.

        Raises:
            PlatformError: a file is damaged, or ends before what is in the books already.
            OverloadedError: the database is away; the rest is as it was.
        """
        try:
            await self._find()
            left = sum(self._sizes.values())
            await self._bring_all_in()
        finally:  # what is left is looked at again by whoever adopts next
            self._telemetry.events_waiting(-sum(self._sizes.values()))
        return left

    def is_waiting(self) -> bool:
        """Tell whether events wait for the database, or are being written down to do so."""
        return bool(self._sizes or self._appending)

    async def catch_up(self) -> bool:
        """Return whether nothing waits: what is left at the end is waited for, a moment.

        Else a spool to which something arrives at any time would never be empty again.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_SECONDS):
                while self.is_waiting() and len(self._sizes) <= 1 and not (self._is_away or self._is_closed):
                    await self._progress.wait()
        return not self.is_waiting()

    async def append(self, events: Sequence[UsageEvent]) -> None:
        """Keep events behind those that wait; when this returns, no crash loses them.

        Raises:
            OverloadedError: as many wait as may, or the file cannot be written; none of them is kept then.
        """
        self._appending += 1
        try:
            identities = uuids7_bytes(len(events), clock=self._clock)
            spooled = [SpooledEvent(*each) for each in zip(events, identities, strict=True)]
            payload = await asyncio.to_thread(encode_events, spooled)
            async with self._lock:
                await self._write(payload)
        finally:
            self._appending -= 1
            self._tell()
        self._telemetry.events_deferred(len(events))
        self._start()

    async def close(self) -> None:
        """Bring in what the database takes, and end; the rest waits for the next process."""
        self._is_closed = True
        if self._replay is not None:
            await asyncio.wait({self._replay}, timeout=DRAIN_SECONDS)
            self._replay.cancel()
            await asyncio.gather(self._replay, return_exceptions=True)
        if self._sizes:
            _log.warning("events_left_in_spool", bytes=sum(self._sizes.values()))
        await self._end_file()

    async def _find(self) -> None:
        for path in await asyncio.to_thread(spool_files, self._directory):
            content = await asyncio.to_thread(read_spool, path)
            if content.torn_bytes:
                _log.warning("spool_tail_dropped", file=path.name, bytes=content.torn_bytes)
            require_length(path, content, position=await self._store.position(UUID(path.stem)))
            self._grow(path, to=content.frames[-1].end if content.frames else 0)

    def _start(self) -> None:
        is_running = self._replay is not None and not self._replay.done()
        if self._sizes and not is_running and not self._is_closed:
            # Of nobody's request: it brings in what all tenants sent.
            self._replay = asyncio.get_running_loop().create_task(
                self._replay_all(), name="replay of events", context=Context()
            )

    def _tell(self) -> None:
        """Let whoever waits look again."""
        self._progress.set()
        self._progress = asyncio.Event()

    def _grow(self, path: Path, *, to: int) -> None:
        self._telemetry.events_waiting(to - self._sizes.get(path, 0))
        self._sizes[path] = to

    # ------------------------------------------------------------------ writing
    async def _write(self, payload: bytes) -> None:
        if self._is_closed:
            raise OverloadedError("The books are closed.")
        if sum(self._sizes.values()) + len(payload) > self._most_bytes:
            raise OverloadedError("Too many events wait for the database: send them again in a moment.")
        try:
            if self._spool is None or self._spool.size >= self._file_bytes:
                await self._begin()
            spool = cast("Spool", self._spool)
            await asyncio.to_thread(spool.append, payload)
        except OSError as error:
            _log.error("event_spool_not_written", reason=str(error))
            await self._abandon()
            raise OverloadedError("Events cannot be kept at this moment: send them again.") from error
        self._grow(spool.path, to=spool.size)

    async def _begin(self) -> None:
        await self._end_file()
        identity = uuid7(self._clock)
        if self._sizes:  # of two processes or two instants, the clock may have been put back
            identity = max(identity, UUID(int=UUID(list(self._sizes)[-1].stem).int + 1))

        def begin() -> Spool:
            make_directory(self._directory)
            return Spool(spool_path(self._directory, identity.hex))

        self._spool = await asyncio.to_thread(begin)

    async def _end_file(self) -> None:
        spool, self._spool = self._spool, None
        if spool is not None:
            await asyncio.to_thread(spool.close)

    async def _abandon(self) -> None:
        # What is written behind a failure could not be told from damage.
        spool, self._spool = self._spool, None
        if spool is not None:
            await asyncio.to_thread(spool.abandon)
            if not spool.size:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(remove_spool, spool.path)

    # ------------------------------------------------------------------ bringing in
    async def _replay_all(self) -> None:
        while self._sizes:
            try:
                await self._bring_all_in()
            except BitNetServiceError as error:
                _log.warning(
                    "events_wait", bytes=sum(self._sizes.values()), code=error.code, reason=error.message
                )
            except Exception:  # noqa: BLE001 - whatever it is, what is durable is not given up
                _log.exception("events_not_brought_in", bytes=sum(self._sizes.values()))
            else:
                continue  # or end: what comes now is written at once
            self._is_away = True
            self._tell()
            if self._is_closed:
                return
            await self._clock.sleep(AWAY_SECONDS)

    async def _bring_all_in(self) -> None:
        if self._sizes:
            await self._store.begin()
        while self._sizes:
            path = next(iter(self._sizes))
            await self._bring_in(path)
            self._is_away = False
            # The file first, then its position: the other way round it would come back.
            await asyncio.to_thread(remove_spool, path)
            self._telemetry.events_waiting(-self._sizes.pop(path))
            self._tell()
            await self._store.forget(UUID(path.stem))

    async def _bring_in(self, path: Path) -> None:
        known = await self._store.position(UUID(path.stem))
        async with self._lock:
            if self._spool is not None and self._spool.path == path:  # what comes now goes into another
                await self._end_file()
        content = await asyncio.to_thread(read_spool, path)
        require_length(path, content, position=known)
        frames: list[SpoolFrame[SpooledEvent]] = []
        start = count = 0
        for frame in content.frames:
            if known < frame.end <= self._sizes[path]:  # nobody was told of what lies behind
                events = await asyncio.to_thread(decode_events, frame.payload)
                frames.append(SpoolFrame(path, start, frame.end, events).behind(known))
                count += len(events)
            start = frame.end
            if count >= MOST_AT_ONCE:
                await self._apply(frames)
                frames, count = [], 0
        if frames:
            await self._apply(frames)

    async def _apply(self, frames: Sequence[SpoolFrame[SpooledEvent]]) -> None:
        """Bring frames in, parted down to the one event that the books do not take."""
        group = SpoolGroup(frames)
        while group.parts:
            try:
                await self._group_writer.write_next(group)
            except BitNetServiceError as error:
                if error.category is not ErrorCategory.PERMANENT or not group.halve():
                    raise
