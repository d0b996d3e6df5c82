"""Work by the calendar as a schedule of DBOS: in one process, finished after a crash."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog
from dbos import DBOS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

_log = structlog.get_logger(__name__)
ATTEMPTS = 5


class DurableSchedule:
    """Has something done again and again; a run is one durable step, tried again when a neighbour was away.

    Args:
        name: what the schedule is called.
        workflow: what DBOS calls a run.
        work: what is done, safe to do twice; returns counts for the log.
        loop: where the database connections of the work live.
        cron: when.
    """

    def __init__(
        self,
        name: str,
        *,
        workflow: str,
        work: Callable[[], Awaitable[Mapping[str, int]]],
        loop: asyncio.AbstractEventLoop,
        cron: str,
    ) -> None:
        self._name = name
        self._workflow_name = workflow
        self._work = work
        self._loop = loop
        self._cron = cron
        self._workflow: Any = None

    def register(self) -> None:
        """Make the workflow known, before DBOS is launched."""

        async def work() -> dict[str, int]:
            return dict(await self._work())

        def run() -> dict[str, int]:
            return asyncio.run_coroutine_threadsafe(work(), self._loop).result()

        step = DBOS.step(
            name=self._workflow_name, retries_allowed=True, max_attempts=ATTEMPTS, interval_seconds=1.0
        )(run)

        def by_schedule(_scheduled_at: datetime, _context: Any) -> None:
            _log.info(f"{self._workflow_name}_done", **step())

        self._workflow = DBOS.workflow(name=self._workflow_name)(by_schedule)

    def begin(self) -> None:
        """Put the schedule in force, after DBOS was launched; doing it again changes nothing."""
        DBOS.apply_schedules(
            [{"schedule_name": self._name, "workflow_fn": self._workflow, "schedule": self._cron}]
        )
