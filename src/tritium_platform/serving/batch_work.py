"""Works on the open batches: step by step to a final status, over any number of restarts.

What is done is what is kept in the store, and nothing else is remembered: a server that was killed goes on
with the lines that are not kept yet.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from tritium_platform.serving.batch import OPEN_STATUSES, BatchStatus, InputProblem
from tritium_platform.serving.batch_input import check_input, read_input
from tritium_platform.serving.batch_lines import LINES_PER_TENANT, BatchRun

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from uuid import UUID

    from tritium_platform.serving.batch import Batch, InputLine
    from tritium_platform.serving.batch_lines import LineDoor, LineRunner
    from tritium_platform.serving.batch_output import BatchCloser
    from tritium_platform.serving.batches import BatchStore
    from tritium_platform.serving.files import FileService
    from tritium_platform.values import Clock

logger = structlog.get_logger(__name__)
SEARCH_SECONDS = 0.5


class BatchWork:
    """Has every open batch worked on by a task of its own."""

    def __init__(
        self,
        *,
        batches: BatchStore,
        files: FileService,
        lines: LineRunner,
        closer: BatchCloser,
        clock: Clock,
    ) -> None:
        self._batches = batches
        self._files = files
        self._lines = lines
        self._closer = closer
        self._clock = clock
        self._runs: dict[UUID, tuple[BatchRun, asyncio.Task[None]]] = {}
        self._search_task: asyncio.Task[None] | None = None

    def start(self, door: LineDoor) -> None:
        """Begin to look for open batches; lines go in by `door`."""
        self._search_task = asyncio.create_task(self._search(door), name="batches")

    async def stop(self) -> None:
        """Stop at once: nobody waits at the other end, and lines on their way begin anew another time."""
        tasks = [task for _, task in self._runs.values()]
        if self._search_task is not None:
            tasks.append(self._search_task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _search(self, door: LineDoor) -> None:
        while True:
            try:
                await self._search_once(door)
            except Exception:  # a database that is away is back at another time
                logger.exception("batch_search_failed")
            await self._clock.sleep(SEARCH_SECONDS)

    async def _search_once(self, door: LineDoor) -> None:
        """Begin work on batches nobody works on; let those stop that are cancelled."""
        for batch in await self._batches.list_open():
            if batch.id not in self._runs:
                run = BatchRun(batch=batch, door=door)
                task = asyncio.create_task(self._attend(run), name=f"batch {batch.id}")
                self._runs[batch.id] = run, task
            elif batch.status is BatchStatus.CANCELLING:
                self._runs[batch.id][0].stopping.set()

    async def _attend(self, run: BatchRun) -> None:
        try:
            await self.work(run)
        except Exception:  # the search begins again where it ended
            logger.exception("batch_not_attended", batch_id=str(run.batch.id))
            await self._clock.sleep(SEARCH_SECONDS)
        finally:
            del self._runs[run.batch.id]

    async def work(self, run: BatchRun) -> None:
        """Take a batch from step to step until it is in a final status."""
        while True:
            batch = await self._batches.get(run.batch.id)
            if batch is None or batch.status not in OPEN_STATUSES:
                return
            try:
                await self._step(batch, run)
            except FileNotFoundError:
                problem = InputProblem(
                    code="input_file_lost", message="The input file cannot be read any more."
                )
                await self._closer.close(batch, BatchStatus.FAILED, problems=(problem,))

    async def _step(self, batch: Batch, run: BatchRun) -> None:
        match batch.status:
            case BatchStatus.CANCELLING:
                await self._closer.close(batch, BatchStatus.CANCELLED)
            case BatchStatus.FINALIZING:
                await self._closer.close(batch, BatchStatus.COMPLETED)
            case BatchStatus.IN_PROGRESS if batch.completed + batch.failed == batch.total:
                await self._finalize(batch)
            case _ if self._is_over(batch):
                await self._closer.close(batch, BatchStatus.EXPIRED)
            case BatchStatus.VALIDATING:
                await self._validate(batch)
            case _:
                await self._answer(batch, run)

    async def _validate(self, batch: Batch) -> None:
        path = self._files.path(batch.tenant_id, batch.input_file_id)
        total, problems = await asyncio.to_thread(check_input, path, endpoint=batch.endpoint)
        if problems:
            await self._closer.close(batch, BatchStatus.FAILED, problems=problems)
            return
        begun = batch.moved(BatchStatus.IN_PROGRESS, at=self._clock.now(), total=total)
        await self._batches.move(begun, expected=(BatchStatus.VALIDATING,))

    async def _answer(self, batch: Batch, run: BatchRun) -> None:
        """Answer what is not answered yet, a few lines at a time."""
        if not self._files.path(batch.tenant_id, batch.input_file_id).is_file():
            raise FileNotFoundError
        lines = self._unanswered(batch)
        async with contextlib.aclosing(lines), asyncio.TaskGroup() as group:
            turn = asyncio.Lock()
            for _ in range(LINES_PER_TENANT):
                group.create_task(self._answer_lines(lines, run, turn))
        if self._lines.may_begin(run):  # and yet none is left
            await self._finalize(batch)

    async def _finalize(self, batch: Batch) -> None:
        finalizing = batch.moved(BatchStatus.FINALIZING, at=self._clock.now())
        await self._batches.move(finalizing, expected=(BatchStatus.IN_PROGRESS,))

    async def _answer_lines(self, lines: AsyncIterator[InputLine], run: BatchRun, turn: asyncio.Lock) -> None:
        while self._lines.may_begin(run):
            async with turn:
                line = await anext(lines, None)
            if line is None:
                return
            await self._lines.run(run, line)

    async def _unanswered(self, batch: Batch) -> AsyncGenerator[InputLine, None]:
        kept = set(await self._batches.kept_numbers(batch.id))
        lines = read_input(self._files.path(batch.tenant_id, batch.input_file_id), endpoint=batch.endpoint)
        while (line := await asyncio.to_thread(next, lines, None)) is not None:
            if line.number not in kept:
                yield line

    def _is_over(self, batch: Batch) -> bool:
        return self._clock.now() >= batch.expires_at
