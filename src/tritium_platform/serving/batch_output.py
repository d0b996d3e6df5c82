"""The end of a batch: its answers become files, the rest is given up by name, and the books are told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from tritium_platform.audit.model import ActionOutcome, AuditIntent, ResourceIdentifier
from tritium_platform.serving.batch import BatchStatus, KeptLine
from tritium_platform.serving.batch_input import read_input
from tritium_platform.serving.batch_lines import unanswered_line
from tritium_platform.serving.file import FilePurpose, StoredFile
from tritium_platform.serving.files import UNFINISHED, rename_file, sync_file
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from tritium_platform.serving.batch import Batch, InputProblem
    from tritium_platform.serving.batches import BatchStore
    from tritium_platform.serving.files import FileService
    from tritium_platform.values import Clock, UnitOfWork

LINES_AT_ONCE = 500
# A page of lines is held in memory, and a line may hold many vectors.
PAGE_BYTES = 8_000_000
GIVEN_UP = {
    BatchStatus.EXPIRED: (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    BatchStatus.CANCELLED: (
        "batch_cancelled",
        "This batch was cancelled before this request was executed.",
    ),
}
OUTCOMES = {
    BatchStatus.COMPLETED: ActionOutcome.SUCCESS,
    BatchStatus.CANCELLED: ActionOutcome.DENIED,
    BatchStatus.EXPIRED: ActionOutcome.FAILURE,
    BatchStatus.FAILED: ActionOutcome.FAILURE,
}


class Outbox(Protocol):
    """Keeps audit intents in the transaction of the change they report."""

    async def add(self, intent: AuditIntent) -> None:
        """Keep an intent."""


@dataclass(frozen=True, kw_only=True)
class BatchCloser:
    """Closes batches; being killed in the middle of it, it does it again with the same result."""

    batches: BatchStore
    files: FileService
    outbox: Outbox
    unit_of_work: UnitOfWork
    clock: Clock
    # Of batches that are being closed: a second attempt writes over what the first has left.
    file_ids: dict[tuple[UUID, bool], UUID] = field(default_factory=dict)

    async def close(
        self, batch: Batch, status: BatchStatus, *, problems: tuple[InputProblem, ...] = ()
    ) -> None:
        """Bring a batch into a final status; nothing happens if it has left its own meanwhile."""
        is_begun = batch.in_progress_at is not None
        if is_begun and status in GIVEN_UP:
            await self._give_up_rest(batch, status)
        outputs = await self._write_files(batch) if is_begun else {}
        try:
            async with self.unit_of_work():
                await self._close(batch, status, problems=problems, outputs=outputs)
        except _MovedOnError:
            for file in outputs.values():
                await self.files.erase(file)
        for is_error in (False, True):
            self.file_ids.pop((batch.id, is_error), None)

    async def _close(
        self,
        batch: Batch,
        status: BatchStatus,
        *,
        problems: tuple[InputProblem, ...],
        outputs: Mapping[bool, StoredFile],
    ) -> None:
        for file in outputs.values():
            await self.files.keep_output(file)
        closed = batch.moved(
            status,
            at=self.clock.now(),
            problems=problems,
            output_file_id=outputs[False].id if False in outputs else None,
            error_file_id=outputs[True].id if True in outputs else None,
        )
        if not await self.batches.move(closed, expected=(batch.status,)):
            raise _MovedOnError
        await self.batches.forget_lines(batch.id)
        counted = await self.batches.get(batch.id)
        await self.outbox.add(self._intent(counted or closed))

    async def _give_up_rest(self, batch: Batch, status: BatchStatus) -> None:
        """Write an error for every line that was never begun: nobody has to guess what became of one."""
        code, message = GIVEN_UP[status]
        kept = set(await self.batches.kept_numbers(batch.id))
        lines = read_input(self.files.path(batch.tenant_id, batch.input_file_id), endpoint=batch.endpoint)

        def next_lines() -> list[KeptLine]:
            found: list[KeptLine] = []
            for line in lines:
                if line.number not in kept:
                    content = unanswered_line(batch, line, code=code, message=message)
                    found.append(KeptLine(number=line.number, content=content, is_error=True))
                if len(found) == LINES_AT_ONCE:
                    break
            return found

        while given_up := await asyncio.to_thread(next_lines):
            await self.batches.keep_lines(batch.id, given_up)

    async def _write_files(self, batch: Batch) -> dict[bool, StoredFile]:
        """Write what is kept into an output and an error file (by `is_error`); an empty one is none."""
        places = {is_error: self._place(batch, is_error=is_error) for is_error in (False, True)}
        for place in places.values():
            await asyncio.to_thread(_begin, place)
        after, limit = 0, _page_lines(batch)
        while lines := await self.batches.list_lines(batch.id, after=after, limit=limit):
            for is_error, place in places.items():
                contents = [line.content for line in lines if line.is_error is is_error]
                await asyncio.to_thread(_append, place, contents)
            after = lines[-1].number
        sizes = {is_error: await asyncio.to_thread(_finish, place) for is_error, place in places.items()}
        return {
            is_error: self._file(batch, UUID(places[is_error].name), size=size, is_error=is_error)
            for is_error, size in sizes.items()
            if size
        }

    def _place(self, batch: Batch, *, is_error: bool) -> Path:
        file_id = self.file_ids.setdefault((batch.id, is_error), uuid7(self.clock))
        return self.files.path(batch.tenant_id, file_id)

    def _file(self, batch: Batch, file_id: UUID, *, size: int, is_error: bool) -> StoredFile:
        return StoredFile(
            id=file_id,
            tenant_id=batch.tenant_id,
            purpose=FilePurpose.BATCH_OUTPUT,
            filename=f"batch_{batch.id.hex}_{'error' if is_error else 'output'}.jsonl",
            size_bytes=size,
            created_at=self.clock.now(),
        )

    def _intent(self, batch: Batch) -> AuditIntent:
        return AuditIntent(
            id=uuid7(self.clock),
            event_id=batch.id,
            occurred_at=self.clock.now(),
            action="batch.finish",
            resource_affected=ResourceIdentifier("batch", str(batch.id)),
            outcome=OUTCOMES[batch.status],
            tenant_id=batch.tenant_id,
            key_id=batch.key_id,
            details={
                "status": batch.status.value,
                "total": batch.total,
                "completed": batch.completed,
                "failed": batch.failed,
            },
        )


class _MovedOnError(Exception):
    """The batch is in another status than it was."""


def _page_lines(batch: Batch) -> int:
    """Return how many lines of average length make a page."""
    num_kept = batch.completed + batch.failed
    return max(1, min(LINES_AT_ONCE, PAGE_BYTES * num_kept // max(batch.kept_bytes, 1)))


def _begin(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(UNFINISHED).write_bytes(b"")


def _append(path: Path, contents: Collection[str]) -> None:
    with path.with_suffix(UNFINISHED).open("ab") as file:
        file.writelines(f"{content}\n".encode("ascii") for content in contents)


def _finish(path: Path) -> int:
    """Give a written file its name, if there is anything in it; return its bytes."""
    unfinished = path.with_suffix(UNFINISHED)
    size = unfinished.stat().st_size
    if not size:
        unfinished.unlink()
        return 0
    sync_file(unfinished)
    rename_file(unfinished, path)
    return size
