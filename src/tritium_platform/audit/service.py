"""The audit log for a running platform: many tasks append at once, one writer commits them in groups."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from tritium_platform.audit.checkpoint import Checkpoint
    from tritium_platform.audit.log import AuditLog
    from tritium_platform.audit.model import AuditIntent

MAX_GROUP = 1024
logger = logging.getLogger(__name__)


class AuditOutbox(Protocol):
    """Intents that were committed together with the change they report, and may not be in the log yet.

    An author inserts `intent_to_dict(intent)` in its own database transaction, keyed by `intent.id`; the
    service reads back what has no index yet and records where each went.
    """

    async def pending(self, *, limit: int) -> list[AuditIntent]:
        """Return the oldest intents without an index, at most `limit`."""
        ...

    async def mark(self, indices: Mapping[UUID, int]) -> None:
        """Record at which index of the log each intent stands; an id that is not in the outbox is ignored."""
        ...


class AuditService:
    """Appends intents durably, each exactly once, and replays the outbox after a crash.

    Usage: insert the intent into the outbox inside the transaction that changes something. Call `recover()`
    at the start and soon after changes: whatever this process, a crash or another process left in the outbox
    is logged then. `append` is for an intent that stands in no outbox.
    """

    def __init__(self, log: AuditLog, *, outbox: AuditOutbox) -> None:
        self._log = log
        self._outbox = outbox
        self._waiting: list[tuple[AuditIntent, asyncio.Future[int]]] = []
        self._in_flight: dict[UUID, asyncio.Future[int]] = {}
        self._unmarked: dict[UUID, int] = {}
        # Ids marked while `recover` looks at rows that it read before: they must not be taken for new.
        self._marked_meanwhile: set[UUID] = set()
        self._searched = False
        self._committer: asyncio.Task[None] | None = None
        self._recovery = asyncio.Lock()

    async def append(self, intent: AuditIntent) -> int:
        """Log one intent; return its index once it is durable and in the signed log."""
        return (await self.append_many([intent]))[0]

    async def append_many(self, intents: Sequence[AuditIntent]) -> list[int]:
        """Log several intents in this order; return their indices. PlatformError if it cannot be written."""
        futures = [self._enqueue(intent) for intent in intents]
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._commit_groups())
        # A cancelled caller must not cancel what others wait for.
        results = await asyncio.gather(*(asyncio.shield(f) for f in futures), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if isinstance(result, int)]

    async def recover(self) -> int:
        """Log every intent that is in the outbox now and not in the log; return how many were found there."""
        async with self._recovery:
            count = 0
            while True:
                self._marked_meanwhile.clear()
                rows = await self._outbox.pending(limit=MAX_GROUP)
                count += len(rows)
                if rows:
                    await self._replay(rows)
                # From here on rows are of our time: what was there before has been looked for.
                self._searched = self._searched or len(rows) < MAX_GROUP
                # What came meanwhile is left to the next turn: asked for again and again, it would come in
                # groups of a few, each with a signature, files and statements of its own.
                if len(rows) < MAX_GROUP:
                    return count

    def head(self) -> Checkpoint:
        """Return the last published checkpoint."""
        return self._log.checkpoint

    async def close(self) -> None:
        """Commit what waits, then close the log."""
        if self._committer is not None:
            await self._committer
        self._log.close()

    async def _replay(self, rows: list[AuditIntent]) -> None:
        if not self._searched:
            # Only rows from before our start can be in the log unknown to us: the log has a single writer.
            found = await asyncio.to_thread(self._log.find, [row.id for row in rows])
            self._unmarked.update(found)
        fresh = [row for row in rows if row.id not in self._unmarked and row.id not in self._marked_meanwhile]
        await self.append_many(fresh)
        await self._mark()

    def _enqueue(self, intent: AuditIntent) -> asyncio.Future[int]:
        future = self._in_flight.get(intent.id)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            if intent.id in self._unmarked:
                future.set_result(self._unmarked[intent.id])
                return future
            self._in_flight[intent.id] = future
            self._waiting.append((intent, future))
        return future

    async def _commit_groups(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
            await self._commit(group)

    async def _commit(self, group: list[tuple[AuditIntent, asyncio.Future[int]]]) -> None:
        try:
            indices = await asyncio.to_thread(self._log.append, [intent for intent, _ in group])
        except Exception as error:  # noqa: BLE001 - every caller gets the reason
            for intent, future in group:
                del self._in_flight[intent.id]
                future.set_exception(error)
                future.exception()  # a caller that went away must not cause a warning
            return
        for (intent, future), index in zip(group, indices, strict=True):
            del self._in_flight[intent.id]
            self._unmarked[intent.id] = index
            future.set_result(index)
        try:
            await self._mark()
        except Exception:
            # The entries are logged; the next group or `recover` marks them.
            logger.exception("The audit outbox could not be marked; it will be tried again.")

    async def _mark(self) -> None:
        marked = dict(self._unmarked)
        if not marked:
            return
        await self._outbox.mark(marked)
        self._marked_meanwhile.update(marked)
        for identity in marked:
            self._unmarked.pop(identity, None)
