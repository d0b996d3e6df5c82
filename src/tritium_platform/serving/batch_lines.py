"""One line of a batch on its way: begun when there is room, tried again when waiting may help, kept once."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from tritium_platform.errors import (
    BitNetServiceError,
    ErrorCategory,
    FairUseSuspendedError,
    InvalidTokenError,
    PlatformError,
    ProcessingError,
    StorageQuotaExceededError,
    TenantSuspendedError,
)
from tritium_platform.serving.batch import BatchStatus, KeptLine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from uuid import UUID

    from tritium_platform.quotas.service import QuotaService
    from tritium_platform.serving.batch import Batch, InputLine
    from tritium_platform.serving.batches import BatchStore
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock

logger = structlog.get_logger(__name__)
# Whoever waits for an answer comes first: lines never fill the engines.
LINES_PER_TENANT = 4
LINES_AT_ONCE = 16
# A line over which something of ours broke this often is given up; being refused a place does not count.
ATTEMPTS = 3
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0
_WAITED_FOR = frozenset(
    {ErrorCategory.TRANSIENT, ErrorCategory.RATE_LIMITED, ErrorCategory.RESOURCE_EXHAUSTED}
)


class LineDoor(Protocol):
    """Lets lines in where requests of their own come in, and writes answers in the wire format."""

    async def admit(self, batch: Batch, line: InputLine, *, context: TenantContext) -> AsyncIterator[object]:
        """Admit a line; its one piece comes when the answer is kept, in the transaction that bills it.

        Raises:
            BitNetServiceError: whatever stands in the way; nothing stays reserved.
        """

    def problem(self, error: Exception) -> tuple[int, Mapping[str, Any]]:
        """Return the status and the body that a request of its own would be answered with."""


class KeyHolders(Protocol):
    """Knows what a key may do that was authenticated before."""

    async def context_of(self, key_id: str) -> TenantContext:
        """Return it as it is now; raises InvalidTokenError if it is revoked, TenantSuspendedError."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRun:
    """A batch that is worked on; `stopping` is set when no further line may begin."""

    batch: Batch
    door: LineDoor
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


class LineRunner:
    """Runs lines, a few per tenant at one time."""

    def __init__(
        self, *, batches: BatchStore, quotas: QuotaService, key_holders: KeyHolders, clock: Clock
    ) -> None:
        self._batches = batches
        self._quotas = quotas
        self._key_holders = key_holders
        self._clock = clock
        self._places = asyncio.Semaphore(LINES_AT_ONCE)
        self._places_of: defaultdict[UUID, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(LINES_PER_TENANT)
        )

    async def run(self, run: BatchRun, line: InputLine) -> None:
        """Bring one line to an end; leave it as it is if the batch must stop before it could begin."""
        broken, pause = 0, FIRST_PAUSE
        while self.may_begin(run):
            is_admitted = False
            try:
                async with self._places_of[run.batch.tenant_id], self._places:
                    if not self.may_begin(run):
                        return
                    context = await self._context_of(run)
                    answer = await run.door.admit(run.batch, line, context=context)
                    is_admitted = True
                    await anext(answer)
            except InvalidTokenError:
                await self._cancel(run)
            except Exception as error:  # noqa: BLE001 - it becomes the line's answer
                broken += is_admitted or not _is_refusal(error)
                if not _may_pass(error) or broken >= ATTEMPTS:
                    await self._fail(run, line, error)
                    return
                await self._pause(run, seconds=max(pause, _requested_wait(error)))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                return

    def may_begin(self, run: BatchRun) -> bool:
        """Return whether a line of a batch may still begin."""
        return not run.stopping.is_set() and self._clock.now() < run.batch.expires_at

    async def _context_of(self, run: BatchRun) -> TenantContext:
        """Return what the batch's key may do now; the answers so far must leave room in the storage."""
        context = await self._key_holders.context_of(run.batch.key_id)
        storage = await self._quotas.storage.usage(context)
        pending = await self._batches.kept_bytes(context.tenant_id)
        if pending >= storage.remaining:
            used = storage.used + storage.held
            raise StorageQuotaExceededError(usage=used, quota=storage.limit, required=pending)
        return context

    async def _cancel(self, run: BatchRun) -> None:
        """End a batch whose key was revoked: whoever took the key away took back what it had asked for."""
        logger.warning("batch_key_revoked", batch_id=str(run.batch.id))
        batch = await self._batches.get(run.batch.id)
        if batch is not None:
            cancelling = batch.moved(BatchStatus.CANCELLING, at=self._clock.now())
            await self._batches.move(cancelling, expected=(BatchStatus.IN_PROGRESS,))
        run.stopping.set()

    async def _fail(self, run: BatchRun, line: InputLine, error: Exception) -> None:
        if not isinstance(error, BitNetServiceError):
            logger.error("batch_line_failed", batch_id=str(run.batch.id), line=line.number, exc_info=error)
        status, body = run.door.problem(error)
        content = answered_line(run.batch, line, status=status, body=body)
        kept = KeptLine(number=line.number, content=content, is_error=True)
        await self._batches.keep_lines(run.batch.id, [kept])

    async def _pause(self, run: BatchRun, *, seconds: float) -> None:
        sleeping = asyncio.create_task(self._clock.sleep(min(seconds, LONGEST_PAUSE)))
        stopping = asyncio.create_task(run.stopping.wait())
        try:
            await asyncio.wait((sleeping, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            stopping.cancel()


def answered_line(batch: Batch, line: InputLine, *, status: int, body: Mapping[str, Any]) -> str:
    """Write the line of an answered request; ASCII, so that every text of JSON can be kept."""
    line_id = batch.line_id(line.number).hex
    response = {"status_code": status, "request_id": line_id, "body": body}
    return _written(line, line_id=line_id, response=response, error=None)


def unanswered_line(batch: Batch, line: InputLine, *, code: str, message: str) -> str:
    """Write the line of a request that was never begun."""
    error = {"code": code, "message": message}
    return _written(line, line_id=batch.line_id(line.number).hex, response=None, error=error)


def _written(
    line: InputLine, *, line_id: str, response: Mapping[str, Any] | None, error: Mapping[str, str] | None
) -> str:
    value = {
        "id": f"batch_req_{line_id}",
        "custom_id": line.custom_id,
        "response": response,
        "error": error,
    }
    return json.dumps(value, separators=(",", ":"))


def _is_refusal(error: Exception) -> bool:
    """Whether there is no room at the moment."""
    is_suspended = isinstance(error, TenantSuspendedError | FairUseSuspendedError)
    return is_suspended or (isinstance(error, BitNetServiceError) and error.category in _WAITED_FOR)


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may end otherwise: there was no room, or what failed is ours."""
    return _is_refusal(error) or isinstance(error, PlatformError | ProcessingError)


def _requested_wait(error: Exception) -> float:
    asked = error.details.get("retry_after") if isinstance(error, BitNetServiceError) else None
    return float(asked) if isinstance(asked, int | float) else 0.0
