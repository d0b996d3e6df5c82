"""Durable quantization jobs on DBOS: a finished step is never done again, whatever dies."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from dbos import DBOS

from tritium_platform.adapters.job_json import JsonSerializer
from tritium_platform.adapters.job_queue import QUEUE, RUNS, VERSION, WORKFLOW, DbosJobQueue
from tritium_platform.errors import PlatformError
from tritium_platform.serving.job import OPEN_STATES, JobState
from tritium_platform.serving.quantization_work import STOPPED, failure

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from tritium_platform.adapters.durable_schedule import DurableSchedule
    from tritium_platform.serving.job import QuantizationJob
    from tritium_platform.serving.quantization import JobStore
    from tritium_platform.serving.quantization_work import QuantizationWork

logger = structlog.get_logger(__name__)

# A worker takes over what an executor of the same name and version left unfinished, so both never change.
EXECUTOR = "quantization-worker"
SEARCH_SECONDS = 2.0
POLL_SECONDS = 0.25
# A step that finds a neighbour away is tried again within the run; then the whole run is.
ATTEMPTS = 8
# A worker that dies this often over one job dies of that job.
DEATHS = 20
AT_WORK = frozenset({"PENDING", "ENQUEUED", "DELAYED"})
HOPELESS = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"


class QuantizationWorker:
    """Runs jobs in this process: one at a time, one durable step per layer; and what is due by the calendar.

    The steps run on DBOS's threads and do their work on `loop`, where the database connections live.
    """

    def __init__(
        self,
        *,
        system_database_url: str,
        work: QuantizationWork,
        jobs: JobStore,
        schedules: Sequence[DurableSchedule],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._url = system_database_url
        self._work = work
        self._jobs = jobs
        self._schedules = schedules
        self._loop = loop
        self._queue = DbosJobQueue(system_database_url=system_database_url)

    def launch(self) -> None:
        """Begin to work; a job that another process left unfinished goes on where it was."""
        DBOS(
            config={
                "name": "tritium",
                "system_database_url": self._url,
                "serializer": JsonSerializer(),
                "application_version": VERSION,
                "executor_id": EXECUTOR,
                "log_level": "WARNING",
            }
        )
        self._register()
        for schedule in self._schedules:
            schedule.register()
        self._work.clean()
        DBOS.launch()
        for schedule in self._schedules:
            schedule.begin()
        DBOS.register_queue(QUEUE, worker_concurrency=1, polling_interval_sec=POLL_SECONDS)

    async def search(self) -> None:
        """Tidy up once; then for ever: look for open jobs that nobody works on, have them done or closed."""
        is_tidy = False
        while True:
            try:
                if not is_tidy:
                    await self._work.remove_orphans()
                    is_tidy = True
                await self._search_once()
            except Exception:  # a database that is away is back at another time
                logger.exception("quantization_search_failed")
            await asyncio.sleep(SEARCH_SECONDS)

    async def _search_once(self) -> None:
        open_jobs = await self._jobs.list_in(OPEN_STATES)
        runs = await self._queue.runs([job.id for job in open_jobs]) if open_jobs else {}
        for job in open_jobs:
            try:
                await self._attend(job, runs=runs[job.id])
            except Exception:  # the next job is not to blame
                logger.exception("quantization_not_attended", job_id=str(job.id))

    async def _attend(self, job: QuantizationJob, *, runs: Sequence[str]) -> None:
        """Hand over a job that a crash kept from its queue; run again or give up one whose run broke off."""
        if runs and runs[-1] in AT_WORK:
            return
        current = await self._jobs.get(job.id)  # read after its run ended: what it wrote is seen
        if current is None or current.state.is_final:
            return
        if len(runs) < RUNS and HOPELESS not in runs:
            if runs:
                logger.warning("quantization_runs_again", job_id=str(job.id), run=len(runs) + 1)
            await self._queue.enqueue(job.id, run=len(runs) + 1)
            return
        logger.error("quantization_given_up", job_id=str(job.id), runs=len(runs))
        error = PlatformError("The quantization broke off too often; the operator's log says why.")
        is_unwanted = current.state is JobState.CANCELLING
        await self._work.stop(job.id, {STOPPED: JobState.CANCELLED.value} if is_unwanted else failure(error))

    async def close(self) -> None:
        """Stop; what is unfinished goes on at the next launch."""
        await asyncio.to_thread(DBOS.destroy, workflow_completion_timeout_sec=0)
        await self._queue.close()

    def _register(self) -> None:
        self._plan = self._durable("plan", self._work.plan)
        self._layer = self._durable("layer", self._work.layer)
        self._assemble = self._durable("assemble", self._work.assemble)
        self._finish = self._durable("finish", self._work.finish)
        self._stop = self._durable("stop", self._work.stop)

        def quantize(job_id: str) -> dict[str, Any]:
            return self._quantize(job_id)

        DBOS.workflow(name=WORKFLOW, max_recovery_attempts=DEATHS)(quantize)

    def _quantize(self, job_id: str) -> dict[str, Any]:
        result = self._plan(job_id)
        for index in range(result.get("layers", 0)):
            result = self._layer(job_id, index)
            if STOPPED in result:
                break
        if STOPPED not in result:
            result = self._assemble(job_id)
        if STOPPED not in result:
            return self._finish(job_id)
        return self._stop(job_id, result)

    def _durable(
        self, name: str, do: Callable[..., Coroutine[Any, Any, dict[str, Any]]]
    ) -> Callable[..., dict[str, Any]]:
        """Make a step that is noted when it is done, and tried again when a neighbour was away."""

        def step(job_id: str, *arguments: Any) -> dict[str, Any]:
            return asyncio.run_coroutine_threadsafe(do(UUID(job_id), *arguments), self._loop).result()

        durable: Callable[..., dict[str, Any]] = DBOS.step(
            name=name, retries_allowed=True, max_attempts=ATTEMPTS, interval_seconds=0.5
        )(step)
        return durable
