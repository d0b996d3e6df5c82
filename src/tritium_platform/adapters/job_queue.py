"""Hands jobs over to workers that may be other processes, by DBOS's database."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from uuid import UUID

    from dbos import DBOSClient

QUEUE = "quantizations"
WORKFLOW = "quantize"
# What was handed over under another version no worker takes, so it never changes.
VERSION = "1"
# A job is run again so often when its run broke off.
RUNS = 3


class DbosJobQueue:
    """Hands jobs to workers by DBOS's database; its tables are made on first use."""

    def __init__(self, *, system_database_url: str) -> None:
        self._url = system_database_url
        self._client: DBOSClient | None = None
        self._lock = threading.Lock()

    async def enqueue(self, job_id: UUID, *, run: int = 1) -> None:
        """Let a worker do the job; doing this again is harmless: the workflow has the job's id."""
        await asyncio.to_thread(self._enqueue, job_id, run)

    async def runs(self, job_ids: Collection[UUID]) -> Mapping[UUID, Sequence[str]]:
        """Return what DBOS knows of the runs of each job, in their order; nothing for a job it has not."""
        return await asyncio.to_thread(self._runs, job_ids)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await asyncio.to_thread(self._client.destroy)

    def _enqueue(self, job_id: UUID, run: int) -> None:
        self._connected().enqueue(
            {
                "queue_name": QUEUE,
                "workflow_name": WORKFLOW,
                "workflow_id": _run_name(job_id, run),
                "app_version": VERSION,
            },
            str(job_id),
        )

    def _runs(self, job_ids: Collection[UUID]) -> dict[UUID, list[str]]:
        names = [_run_name(job_id, run) for job_id in job_ids for run in range(1, RUNS + 1)]
        found = self._connected().list_workflows(workflow_ids=names, load_input=False, load_output=False)
        states = {each.workflow_id: each.status for each in found}
        return {
            job_id: [states[name] for run in range(1, RUNS + 1) if (name := _run_name(job_id, run)) in states]
            for job_id in job_ids
        }

    def _connected(self) -> DBOSClient:
        # Here, because importing it takes a third of the time that the whole platform takes to import.
        from dbos import DBOS, DBOSClient  # noqa: PLC0415

        from tritium_platform.adapters.job_json import JsonSerializer  # noqa: PLC0415

        with self._lock:
            if self._client is None:
                DBOS.migrate(self._url)
                self._client = DBOSClient(system_database_url=self._url, serializer=JsonSerializer())
            return self._client


def _run_name(job_id: UUID, run: int) -> str:
    """Name a run: the first is named like its job, so that handing it over twice is harmless."""
    return str(job_id) if run == 1 else f"{job_id}.{run}"
