"""The process that does quantization jobs; a supervisor starts it again whenever it dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal

import structlog

from tritium_platform.adapters.telemetry import configure_logging
from tritium_platform.adapters.worker_process import CONFIGURATION
from tritium_platform.compose import initialize_worker
from tritium_platform.config import PlatformConfig
from tritium_platform.worker.parent import die_with_parent

logger = structlog.get_logger(__name__)


async def run_worker(config: PlatformConfig) -> None:
    """Do jobs until SIGTERM or SIGINT; the step that runs then starts over at the next start."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
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
