"""Settlements through a spool: durable when `append` returns, in the books soon, each exactly once.

One thread writes and syncs: what gathers while a sync runs goes out with the next one. One task drains: it
brings groups into the books together with the spool's position, waits out a database that is away, and halves
a group that is too much for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from tritium_platform.adapters.settlement_codec import decode_settlements, encode_settlements
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
from tritium_platform.errors import BitNetServiceError, OverloadedError, PlatformError
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tritium_platform.settlement import Settlement, SettlementStore
    from tritium_platform.values import Clock

_log = structlog.get_logger(__name__)
GROUP_SECONDS = 1.0
AWAY_SECONDS = 0.5
DRAIN_SECONDS = 30.0
MOST_AT_ONCE = 1000
MOST_WAITING = 100_000
SPOOL_BYTES = 64 * 2**20


class SpooledSettlements:
    """The journal of one process; `directory` is its own. Call `recover` first, and `close` at the end."""

    def __init__(
        self, directory: Path, *, store: SettlementStore, clock: Clock, spool_bytes: int = SPOOL_BYTES
    ) -> None:
        self._directory = directory
        self._store = store
        self._clock = clock
        self._spool_bytes = spool_bytes
        self._wake = threading.Condition()
        self._arrived: list[tuple[Settlement, asyncio.Future[None]]] = []
        self._is_closing = False
        self._writer: threading.Thread | None = None
        self._group_writer = GroupWriter(store, clock=clock)
        self._frames: deque[SpoolFrame[Settlement]] = deque()
        self._group: SpoolGroup[Settlement] | None = None
        self._appended = self._applied = 0
        self._progress = asyncio.Event()
        self._is_urgent = asyncio.Event()
        self._drain: asyncio.Task[None] | None = None

    async def recover(self) -> int:
        """Bring what an earlier process left behind into the books; return how many settlements that were.

        Raises:
            PlatformError: a spool is damaged, or ends before what is in the books already.
        """
        count = 0
        for path in await asyncio.to_thread(spool_files, self._directory):
            content = await asyncio.to_thread(read_spool, path)
            if content.torn_bytes:
                _log.warning("spool_tail_dropped", file=path.name, bytes=content.torn_bytes)
            known = await self._store.position(UUID(path.stem))
            require_length(path, content, position=known)
            start = 0
            for frame in content.frames:
                if frame.end > known:
                    whole = SpoolFrame(path, start, frame.end, decode_settlements(frame.payload))
                    group = SpoolGroup([whole.behind(known)])
                    while group.parts:
                        count += await self._group_writer.write_next(group)
                start = frame.end
            await self._discard(path)
        return count

    def require_room(self) -> None:
        """Raise OverloadedError if so much waits for the database that nothing may be added."""
        if self._appended - self._applied >= MOST_WAITING:
            raise OverloadedError("The books are behind: try again in a moment.")

    async def append(self, settlement: Settlement) -> None:
        """Keep a settlement; when this returns, no crash loses it.

        Raises:
            PlatformError: it could not be written.
        """
        if self._is_closing:
            raise PlatformError("The books are closed.")
        self._start()
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._wake:
            if not self._arrived:  # for the others the writer is awake already
                self._wake.notify()
            self._arrived.append((settlement, kept))
        await kept

    async def drained(self) -> None:
        """Wait until everything that was appended is in the books.

        Raises:
            OverloadedError: it takes too long.
        """
        target = self._appended
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._applied < target:
                    if self._is_closing:  # nobody drains any more: the next process brings it in
                        raise OverloadedError("The books are closed.")
                    self._is_urgent.set()
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            raise OverloadedError("The books are behind: try again in a moment.") from None

    async def close(self) -> None:
        """Bring everything into the books and end; what the database does not take stays in the spool."""
        with contextlib.suppress(OverloadedError):
            await self.drained()
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        if self._writer is not None:
            await asyncio.to_thread(self._writer.join)
        if self._drain is not None:
            self._drain.cancel()
            await asyncio.gather(self._drain, return_exceptions=True)
        if self._applied == self._appended:
            with contextlib.suppress(BitNetServiceError, OSError):  # the next process does what is left
                for path in spool_files(self._directory):
                    await self._discard(path)

    def _start(self) -> None:
        if self._writer is None:
            loop = asyncio.get_running_loop()
            self._writer = threading.Thread(
                target=self._write, args=(loop,), name="tritium-spool", daemon=True
            )
            self._writer.start()
            # Of nobody's request: it brings in what all tenants used.
            self._drain = loop.create_task(self._bring_in(), name="drain of the spool", context=Context())

    # ------------------------------------------------------------------ the writing thread
    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        spool: Spool | None = None
        while True:
            with self._wake:
                while not self._arrived and not self._is_closing:
                    self._wake.wait()
                group, self._arrived = self._arrived, []
            if not group:
                break
            try:
                if spool is None or spool.size >= self._spool_bytes:
                    spool = self._begin(spool)
                settlements = [settlement for settlement, _ in group]
                start, end = spool.size, spool.append(encode_settlements(settlements))
                frame = SpoolFrame(spool.path, start, end, settlements)
            except Exception as error:  # noqa: BLE001 - every caller gets the reason
                # What is written behind a frame that failed could not be told from damage.
                self._abandon(spool)
                spool = None
                loop.call_soon_threadsafe(self._failed, group, error)
            else:
                loop.call_soon_threadsafe(self._durable, group, frame)
        if spool is not None:
            spool.close()

    def _begin(self, full: Spool | None) -> Spool:
        if full is not None:
            full.close()
        make_directory(self._directory)
        return Spool(spool_path(self._directory, uuid7(self._clock).hex))

    def _abandon(self, spool: Spool | None) -> None:
        if spool is not None:
            with contextlib.suppress(OSError):
                spool.close()

    def _durable(
        self, group: Sequence[tuple[Settlement, asyncio.Future[None]]], frame: SpoolFrame[Settlement]
    ) -> None:
        self._frames.append(frame)
        self._appended += len(group)
        self._progress.set()
        for _, kept in group:
            if not kept.done():
                kept.set_result(None)

    def _failed(self, group: Sequence[tuple[Settlement, asyncio.Future[None]]], error: Exception) -> None:
        _log.error("spool_not_written", reason=str(error), settlements=len(group))
        for _, kept in group:
            if not kept.done():
                failure = PlatformError("The books cannot be written: the disk is full or broken.")
                failure.__cause__ = error
                kept.set_exception(failure)

    # ------------------------------------------------------------------ the draining task
    async def _bring_in(self) -> None:
        while True:
            while not self._frames:
                self._progress.clear()
                await self._progress.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GROUP_SECONDS):
                    await self._is_urgent.wait()
            self._is_urgent.clear()
            try:
                await self._apply_some()
            except BitNetServiceError as error:
                _log.warning("settlements_wait", waiting=self._appended - self._applied, code=error.code)
                await self._clock.sleep(AWAY_SECONDS)
            except Exception:  # noqa: BLE001 - whatever it is, what is durable is not given up
                _log.exception("settlements_not_applied", waiting=self._appended - self._applied)
                await self._clock.sleep(AWAY_SECONDS)

    async def _apply_some(self) -> None:
        """Bring in what lies in one spool, up to some settlements; the files before it are done with."""
        # A group that failed is tried as it was: it may be in the books, and only the answer was lost.
        group = self._group = self._group or SpoolGroup(self._next_frames())
        while group.parts:
            self._applied += await self._group_writer.write_next(group)
            self._progress.set()
        self._group, path = None, group.frames[0].path
        for _ in group.frames:
            self._frames.popleft()
        if self._frames and self._frames[0].path != path:
            await self._discard(path)

    def _next_frames(self) -> list[SpoolFrame[Settlement]]:
        frames: list[SpoolFrame[Settlement]] = []
        count = 0
        for frame in self._frames:
            if frame.path != self._frames[0].path or count >= MOST_AT_ONCE:
                break
            frames.append(frame)
            count += len(frame.items)
        return frames

    async def _discard(self, path: Path) -> None:
        """Remove a file that is in the books, then its position: the other way round it would come back."""
        await asyncio.to_thread(remove_spool, path)
        await self._store.forget(UUID(path.stem))
