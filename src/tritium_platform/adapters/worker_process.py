"""Keeps one quantization worker running as a child process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from tritium_platform.config import PlatformConfig

logger = structlog.get_logger(__name__)
CONFIGURATION = "TRITIUM_WORKER_CONFIGURATION"
MODULE = "tritium_platform.worker.quantization_main"
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
STEADY_SECONDS = 10.0
STOP_SECONDS = 10.0


class WorkerProcess:
    """A worker that is started again whenever it dies, with growing pauses while it keeps dying."""

    def __init__(self, config: PlatformConfig) -> None:
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def process_id(self) -> int | None:
        """The child's process id; None while there is none."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the child and watch over it."""
        self._process = await self._spawn()
        self._supervisor = asyncio.create_task(self._supervise(), name="worker supervisor")

    async def stop(self) -> None:
        """End the child; what it was doing goes on at the next start."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def _supervise(self) -> None:
        pause = FIRST_PAUSE
        loop = asyncio.get_running_loop()
        while self._process is not None:
            started = loop.time()
            code = await self._process.wait()
            pause = FIRST_PAUSE if loop.time() - started > STEADY_SECONDS else min(2 * pause, LONGEST_PAUSE)
            self.restarts += 1
            logger.error(
                "quantization_worker_died", exit_code=code, restarts=self.restarts, pause_seconds=pause
            )
            await asyncio.sleep(pause)
            try:
                self._process = await self._spawn()
            except OSError:  # no process or memory is free: the dead one is waited for again, at once
                logger.exception("quantization_worker_not_started")

    async def _spawn(self) -> asyncio.subprocess.Process:
        # By the environment: arguments are public. With secrets: the worker charges by the calendar.
        environment = {**os.environ, CONFIGURATION: self._config.json_with_secrets()}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            MODULE,
            stdin=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
