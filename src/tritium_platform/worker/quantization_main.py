"""The process that does quantization jobs; a supervisor starts it again whenever it dies."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
from typing import TYPE_CHECKING

import structlog

from tritium_platform.adapters.processor_share import BACKGROUND, give_way
from tritium_platform.adapters.telemetry import configure_logging
from tritium_platform.adapters.worker_process import CONFIGURATION
from tritium_platform.compose.worker import initialize_worker
from tritium_platform.config import PlatformConfig
from tritium_platform.worker.parent import die_with_parent

if TYPE_CHECKING:
    from pathlib import Path

logger = structlog.get_logger(__name__)
PATIENCE_SECONDS = 0.2


async def run_worker(config: PlatformConfig) -> None:
    """Do jobs until SIGTERM or SIGINT; the step that runs then starts over at the next start.

    One worker at a time works in a data directory: another one waits for its end, ready to take over.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if not await _take_turn(config.jobs_dir, stopped=stopped):
        return
    if config.engine_cpu_shares:
        give_way(os.getpid(), niceness=BACKGROUND)
    worker = await initialize_worker(config)
    await asyncio.to_thread(worker.launch)
    logger.info("quantization_worker_ready")
    search = asyncio.create_task(worker.search())
    await stopped.wait()
    search.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await search
    # A layer in flight is not waited for: it was not noted as done, so it starts over.
    os._exit(0)


async def _take_turn(directory: Path, *, stopped: asyncio.Event) -> bool:
    """Wait until no other worker lives; the lock goes with this process, however it ends."""
    descriptor = _open_lock(directory)
    is_told = False
    while not stopped.is_set():
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not is_told:
                logger.info("quantization_worker_waits", reason="another worker is at work here")
            is_told = True
            await asyncio.sleep(PATIENCE_SECONDS)
        else:
            return True
    return False


def _open_lock(directory: Path) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    return os.open(directory / "worker.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def main() -> None:
    """Run the worker that a supervisor configured through the environment."""
    config = PlatformConfig.model_validate_json(os.environ.pop(CONFIGURATION))
    configure_logging(level=config.log_level)
    die_with_parent()
    if config.worker_memory_bytes:
        limit = config.worker_memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    asyncio.run(run_worker(config))


if __name__ == "__main__":
    main()
