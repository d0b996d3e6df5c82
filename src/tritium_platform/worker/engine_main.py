"""The engine process: loads one model, answers one gateway, ends when the gateway does."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec
import structlog
import uvloop

from tritium.engine.config import EngineConfig
from tritium.engine.loading import load_engine
from tritium.engine.runner import EngineThread
from tritium.errors import BitNetServiceError, ProcessingError
from tritium_platform.adapters import engine_messages as messages
from tritium_platform.adapters.failed_message import Failed
from tritium_platform.adapters.process_link import ProcessLink
from tritium_platform.adapters.telemetry import configure_logging
from tritium_platform.adapters.tracing import GenerationSpans, configure_tracing
from tritium_platform.serving.model import EngineLoad, ModelFacts, ModelKind
from tritium_platform.worker.parent import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

_log = structlog.get_logger(__name__)
_HEARTBEAT_SECONDS = 1.0


class EngineServer:
    """Answers the commands of one gateway with one engine."""

    def __init__(self, *, engine: EngineThread, facts: ModelFacts) -> None:
        self._engine = engine
        self._facts = facts
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_alone = asyncio.Event()
        self._has_waiting = False
        self._link: ProcessLink[messages.Command]

    async def serve(self, connected: socket.socket) -> None:
        """Say that the model is there, then answer until the gateway is gone."""
        self._link = await ProcessLink.over(
            connected, decode=messages.decode_command, take=self._obey, lost=self._is_alone.set
        )
        self._link.send(messages.Ready(self._facts))
        heart = asyncio.create_task(self._beat())
        try:
            await self._is_alone.wait()
        finally:
            heart.cancel()

    def _obey(self, command: messages.Command) -> None:
        if isinstance(command, messages.Submit):
            self._begin(command.request.request_id, self._generate(command))
        elif isinstance(command, messages.Embed):
            self._begin(command.request_id, self._embed(command))
        else:
            task = self._tasks.get(command.request_id)
            if task is not None:
                task.cancel()

    def _begin(self, request_id: str, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(self._guard(request_id, work))
        self._tasks[request_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(request_id, None))

    async def _guard(self, request_id: str, work: Coroutine[None, None, None]) -> None:
        """Turn whatever goes wrong with one request into one answer; the other requests go on."""
        try:
            await work
        except BitNetServiceError as error:
            self._link.send(Failed.of(error, request_id=request_id))
        except Exception as error:  # noqa: BLE001 - a fault in one request must not end the others
            _log.exception("engine_request_failed", request_id=request_id)
            failure = ProcessingError(f"The engine failed on this request ({type(error).__name__}).")
            self._link.send(Failed.of(failure, request_id=request_id))

    async def _generate(self, command: messages.Submit) -> None:
        spans = GenerationSpans(command.request, traceparent=command.traceparent)
        try:
            async with contextlib.aclosing(await self._engine.generate(command.request)) as outputs:
                async for output in outputs:
                    spans.note(output)
                    self._link.send(messages.Tokens(output))
                    if self._has_waiting is not (self._engine.num_waiting > 0):
                        self._report_load()  # at once: while some wait here the gateway sends nobody else
        finally:
            spans.end()

    async def _embed(self, command: messages.Embed) -> None:
        output = await self._engine.embed(command.token_ids)
        self._link.send(messages.Embedded(command.request_id, output))

    async def _beat(self) -> None:
        while True:
            self._report_load()
            await asyncio.sleep(_HEARTBEAT_SECONDS)

    def _report_load(self) -> None:
        load = self._load()
        self._has_waiting = load.waiting > 0
        self._link.send(messages.Heartbeat(_resident_bytes(), load))

    def _load(self) -> EngineLoad:
        figures = self._engine.metrics
        if figures is None:  # a batcher has no cache and takes what comes
            return EngineLoad(running=len(self._tasks))
        return EngineLoad(
            running=figures.running,
            waiting=figures.waiting,
            kv_blocks_used=figures.kv_blocks_used,
            kv_blocks=figures.kv_blocks_total,
            preemptions=figures.preemptions,
            memory_pressure=figures.memory_pressure,
            pressure_rung=figures.pressure_rung,
            evicted_blocks=figures.evicted_blocks,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one engine process; the parent is `tritium_platform.adapters.engine_process`."""
    options = _parse(arguments)
    configure_logging(level=options.log_level)
    structlog.contextvars.bind_contextvars(replica=options.name)
    configure_tracing(process="engine")
    die_with_parent()
    if options.memory_limit:
        resource.setrlimit(resource.RLIMIT_AS, (options.memory_limit, options.memory_limit))
    # The gateway decides when an engine ends; a terminal's Ctrl-C reaches the gateway alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(_run(options))


async def _run(options: argparse.Namespace) -> None:
    connected = socket.socket(fileno=options.link)
    try:
        engine, facts = await asyncio.to_thread(_load, options)
    except BitNetServiceError as error:
        await _refuse(connected, error.message)
    except MemoryError:
        await _refuse(connected, "The memory limit is too small for this model.")
    else:
        try:
            await EngineServer(engine=engine, facts=facts).serve(connected)
        finally:
            engine.close()


async def _refuse(connected: socket.socket, message: str) -> NoReturn:
    is_out = asyncio.Event()
    link = await ProcessLink.over(
        connected, decode=messages.decode_command, take=lambda _: None, lost=is_out.set
    )
    link.send(messages.Refused(message))
    link.close()
    await is_out.wait()
    sys.exit(1)


def _load(options: argparse.Namespace) -> tuple[EngineThread, ModelFacts]:
    limits = msgspec.json.decode(options.limits, type=EngineConfig)
    loaded = load_engine(options.model, threads=options.threads or None, config=limits, trace=options.trace)
    facts = ModelFacts(
        kind=ModelKind.EMBED if loaded.engine is None else ModelKind.GENERATE,
        vocabulary_size=loaded.tokenizer.vocab_size,
        maximum_positions=loaded.max_tokens,
        # Of inputs one batch runs while the next one fills.
        places=limits.max_running if loaded.batcher is None else 2 * loaded.batcher.config.max_batch_inputs,
    )
    return EngineThread(loaded.engine, batcher=loaded.batcher).start(), facts


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tritium-engine", description=__doc__)
    parser.add_argument("--link", type=int, required=True, help="file descriptor of our end of the socket")
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--memory-limit", type=int, default=0, help="bytes of address space; 0: no limit")
    parser.add_argument("--limits", default="{}", help="those of EngineConfig, as JSON")
    parser.add_argument("--trace", type=Path, help="the file that a trace is written to")
    return parser.parse_args(arguments)


def _resident_bytes() -> int:
    """Return the resident memory of this process in bytes; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
