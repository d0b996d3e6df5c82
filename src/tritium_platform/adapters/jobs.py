"""Durable quantization jobs on DBOS: a finished step is never done again, whatever dies.

What DBOS keeps is JSON: nothing that comes out of a database may run code, and pickle would.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from dbos import DBOS, DBOSClient
from dbos._serialization import Serializer

from tritium_platform.serving.job import OPEN_STATES
from tritium_platform.serving.quantization_work import STOPPED

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tritium_platform.serving.quantization import JobStore
    from tritium_platform.serving.quantization_work import QuantizationWork

logger = structlog.get_logger(__name__)

QUEUE = "quantizations"
WORKFLOW = "quantize"
# A worker takes over what an executor of the same name and version left unfinished, so both never change.
EXECUTOR = "quantization-worker"
VERSION = "1"
SEARCH_SECONDS = 2.0
POLL_SECONDS = 0.25
ATTEMPTS = 5


class JsonSerializer(Serializer):
    """Writes JSON only; an exception is kept as its name and message."""

    def serialize(self, data: Any) -> str:
        """Return JSON."""
        if isinstance(data, BaseException):
            data = {"__exception__": type(data).__name__, "message": str(data)}
        return json.dumps(data)

    def deserialize(self, serialized_data: str) -> Any:
        """Read JSON."""
        data = json.loads(serialized_data)
        if isinstance(data, dict) and "__exception__" in data:
            return RuntimeError(f"{data['__exception__']}: {data['message']}")
        return data

    def name(self) -> str:
        """Return the name under which DBOS remembers this form."""
        return "tritium_json"


class DbosJobQueue:
    """Hands jobs to workers by DBOS's database; its tables are made on first use."""

    def __init__(self, *, system_database_url: str) -> None:
        self._url = system_database_url
        self._client: DBOSClient | None = None

    async def enqueue(self, job_id: UUID) -> None:
        """Let a worker do the job; doing this again is harmless: the workflow has the job's id."""
        await asyncio.to_thread(self._enqueue, str(job_id))

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await asyncio.to_thread(self._client.destroy)

    def _enqueue(self, job_id: str) -> None:
        if self._client is None:
            DBOS.migrate(self._url)
            self._client = DBOSClient(system_database_url=self._url, serializer=JsonSerializer())
        self._client.enqueue(
            {"queue_name": QUEUE, "workflow_name": WORKFLOW, "workflow_id": job_id, "app_version": VERSION},
            job_id,
        )


class QuantizationWorker:
    """Runs jobs in this process: one at a time, one durable step per layer.

    The steps run on DBOS's threads and do their work on `loop`, where the database connections live.
    """

    def __init__(
        self,
        *,
        system_database_url: str,
        work: QuantizationWork,
        jobs: JobStore,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._url = system_database_url
        self._work = work
        self._jobs = jobs
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
        DBOS.launch()
        DBOS.register_queue(QUEUE, worker_concurrency=1, polling_interval_sec=POLL_SECONDS)

    async def search(self) -> None:
        """For ever: hand over jobs that were kept and, because of a crash, never handed over."""
        while True:
            for job in await self._jobs.list_in(OPEN_STATES):
                await self._queue.enqueue(job.id)
            await asyncio.sleep(SEARCH_SECONDS)

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

        DBOS.workflow(name=WORKFLOW)(quantize)

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
