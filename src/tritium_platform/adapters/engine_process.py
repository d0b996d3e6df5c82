"""One engine in its own process: spawned, watched, restarted, drained; it can be killed without harm.

The gateway and the engine talk over a pair of sockets that nobody else can reach. The engine process ends
by itself when its parent does: it holds the reading end of a pipe that only the parent writes to.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
from typing import TYPE_CHECKING

import structlog

from tritium.engine.request import join_outputs
from tritium_platform.adapters import engine_messages as messages
from tritium_platform.adapters.engine_letters import EngineLetters, ready_outputs
from tritium_platform.adapters.engine_options import EngineOptions
from tritium_platform.adapters.failed_message import Failed
from tritium_platform.adapters.process_link import ProcessLink
from tritium_platform.adapters.processor_share import give_way, niceness
from tritium_platform.adapters.tracing import current_traceparent
from tritium_platform.serving.errors import EngineUnavailableError
from tritium_platform.serving.model import EngineLoad, ReplicaState, ReplicaStatus
from tritium_platform.tenancy.model import TIER_WEIGHTS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from contextlib import AbstractContextManager

    from tritium.engine.request import EmbeddingOutput, GenerationRequest, TokenOutput
    from tritium_platform.adapters.engine_letters import Letters
    from tritium_platform.serving.model import ModelFacts

_log = structlog.get_logger(__name__)


class EngineProcess:
    """One replica: an engine in a child process under supervision.

    `start` returns at once; `wait_ready` waits for the model. When the child dies, requests in flight fail
    with EngineUnavailableError and the child is started again after a growing, jittered pause.
    """

    def __init__(self, *, name: str, model_path: str, options: EngineOptions | None = None) -> None:
        self._name = name
        self._model_path = model_path
        self._options = options or EngineOptions()
        self._link: ProcessLink[messages.Report] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._letters = EngineLetters()
        self._state = ReplicaState.STARTING
        self._changed = asyncio.Event()
        self._facts: ModelFacts | None = None
        self._restarts = 0
        self._resident_bytes = 0
        self._load = EngineLoad()
        self._last_heard = 0.0
        self._last_error: str | None = None
        self._tell_change: Callable[[], None] = _tell_nobody
        self._niceness = 0
        self._is_niceness_told = True

    @property
    def status(self) -> ReplicaStatus:
        """This replica at this moment."""
        return ReplicaStatus(
            name=self._name,
            state=self._state,
            in_flight=len(self._letters),
            restarts=self._restarts,
            process_id=self._process.pid if self._process and self._process.returncode is None else None,
            resident_bytes=self._resident_bytes,
            load=self._load,
            last_error=self._last_error,
            facts=self._facts,
        )

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever the state or the load is another."""
        self._tell_change = changed

    def weigh(self, weight: int) -> None:
        """Give it a part of the processor by weight, if its options say so."""
        if self._options.shares_processor:
            self._niceness = niceness(weight, heaviest=max(TIER_WEIGHTS.values()))
            self._give_way()

    async def start(self) -> None:
        """Begin supervision; the first child starts in the background."""
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._supervise(), name=f"engine {self._name}")

    async def wait_ready(self) -> None:
        """Wait until the model answers; raises EngineUnavailableError if it never will."""
        while self._state is not ReplicaState.READY:
            if self._state in {ReplicaState.FAILED, ReplicaState.STOPPED}:
                raise self._unavailable()
            self._changed.clear()
            await self._changed.wait()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        """Run one request and yield its tokens; closing the iterator aborts it in the engine."""
        finished = False
        with self._letters_of(request.request_id) as letters:
            self._send(messages.Submit(request, current_traceparent()))
            try:
                while not finished:
                    report = await self._next(letters)
                    if isinstance(report, messages.Tokens):
                        output = join_outputs([report.output, *ready_outputs(letters)])
                        finished = output.finish_reason is not None
                        yield output
                finished = True
            except EngineUnavailableError:
                finished = True
                raise
            finally:
                if not finished:
                    self._abort(request.request_id)

    async def embed(self, request_id: str, *, token_ids: Sequence[tuple[int, ...]]) -> EmbeddingOutput:
        """Embed token id lists in one call; cancelling it aborts it in the engine."""
        with self._letters_of(request_id) as letters:
            self._send(messages.Embed(request_id, [list(ids) for ids in token_ids]))
            try:
                report = await self._next(letters)
            except asyncio.CancelledError:
                self._abort(request_id)
                raise
        if not isinstance(report, messages.Embedded):
            raise self._unavailable()
        return report.output

    async def drain(self, *, timeout: float) -> None:  # noqa: ASYNC109 - the limit is the caller's to own
        """Take nothing new, finish what runs (at most `timeout` seconds), then stop the process."""
        if self._state is ReplicaState.READY:
            self._become(ReplicaState.DRAINING)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._letters.wait_until_empty(), timeout)
        await self.stop()

    async def stop(self) -> None:
        """End the process now; requests in flight fail with EngineUnavailableError."""
        self._become(ReplicaState.STOPPED)
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None

    def _letters_of(self, request_id: str) -> AbstractContextManager[Letters]:
        if self._state is not ReplicaState.READY:
            raise self._unavailable()
        return self._letters.of(request_id)

    async def _next(self, letters: Letters) -> messages.Tokens | messages.Embedded:
        report = await letters.take()
        if report is None:
            raise self._unavailable()
        if isinstance(report, Failed):
            raise report.to_error()
        return report

    def _send(self, command: messages.Command) -> None:
        if self._link is None or not self._link.is_open:
            raise self._unavailable()
        self._link.send(command)

    def _abort(self, request_id: str) -> None:
        with contextlib.suppress(EngineUnavailableError):
            self._send(messages.Abort(request_id))

    def _unavailable(self) -> EngineUnavailableError:
        return EngineUnavailableError(
            f"The engine {self._name} is {self._state}; send the request again in a moment.",
            retry_after=1,
        )

    def _become(self, state: ReplicaState) -> None:
        if state is not self._state:
            _log.info("engine_state", replica=self._name, state=state.value)
        self._state = state
        self._changed.set()
        self._tell_change()

    # ------------------------------------------------------------------ supervision
    async def _supervise(self) -> None:
        failures = 0
        while self._state not in {ReplicaState.STOPPED, ReplicaState.FAILED}:
            started = time.monotonic()
            try:
                await self._run_one_child()
            except OSError as error:  # no process, file or memory is free; later one may be
                self._last_error = f"the engine could not be started: {error.strerror}"
                _log.exception("engine_not_started", replica=self._name)
            if self._state in {ReplicaState.STOPPED, ReplicaState.FAILED, ReplicaState.DRAINING}:
                return
            healthy = time.monotonic() - started > self._options.healthy_after
            failures = 0 if healthy else failures + 1
            self._restarts += 1
            self._become(ReplicaState.RESTARTING)
            ceiling = min(self._options.backoff_cap, self._options.backoff_base * 2**failures)
            # Full jitter: replicas that fell together do not come back together.
            await asyncio.sleep(random.uniform(0, ceiling))  # noqa: S311 - spreads load, guards nothing

    async def _run_one_child(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            self._link = await ProcessLink.over(
                ours, decode=messages.decode_report, take=self._take, lost=self._hang_up
            )
            with theirs:
                self._process = await self._spawn(theirs.fileno())
            if self._niceness:
                self._give_way()
            await self._watch_over(self._process)
        finally:
            if self._link is not None:
                self._link.close()
            self._link = None
            self._load = EngineLoad()
            self._letters.lose_all()

    async def _watch_over(self, process: asyncio.subprocess.Process) -> None:
        """Listen to a child until it ends."""
        self._last_heard = time.monotonic()
        watch = asyncio.create_task(self._watch())
        try:
            code = await process.wait()
            self._last_error = self._last_error or _describe_exit(code)
            _log.warning("engine_exit", replica=self._name, code=code)
        finally:
            self._kill()
            await process.wait()
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _spawn(self, link: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._options.command(name=self._name, model_path=self._model_path, link=link),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,  # ours carries results of commands
            start_new_session=True,
            pass_fds=(link,),
        )

    def _take(self, report: messages.Report) -> None:
        self._last_heard = time.monotonic()
        if isinstance(report, messages.Tokens):
            self._letters.deliver(report.output.request_id, report)
        elif isinstance(report, messages.Embedded | Failed):
            self._letters.deliver(report.request_id, report)
        elif isinstance(report, messages.Heartbeat):
            self._resident_bytes = report.resident_bytes
            self._load = report.load
            self._tell_change()
            if not self._is_niceness_told:
                self._give_way()
        elif isinstance(report, messages.Ready):
            self._facts = report.facts
            self._last_error = None
            if self._state is not ReplicaState.DRAINING:
                self._become(ReplicaState.READY)
        else:
            self._last_error = report.message
            self._become(ReplicaState.FAILED)

    async def _watch(self) -> None:
        """Kill a child that stopped talking: the rest of the supervision sees an ordinary death."""
        while True:
            await asyncio.sleep(0.5)
            silence = time.monotonic() - self._last_heard
            loading = self._state in {ReplicaState.STARTING, ReplicaState.RESTARTING}
            allowed = self._options.load_timeout if loading else self._options.heartbeat_timeout
            if silence > allowed:
                self._last_error = f"the engine was silent for {silence:.0f} s"
                self._kill()

    def _give_way(self) -> None:
        """Tell the system, which may refuse; then it is told again with every heartbeat."""
        if self._process is None or self._process.returncode is not None:
            return
        was_told = self._is_niceness_told
        self._is_niceness_told = give_way(self._process.pid, niceness=self._niceness)
        if was_told and not self._is_niceness_told:
            _log.info("engine_niceness_kept", replica=self._name, wanted=self._niceness)

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _hang_up(self) -> None:
        """Give up a child that cannot be talked to any more, whether it still runs or not."""
        if self._state is ReplicaState.READY:
            self._become(ReplicaState.RESTARTING)
        self._letters.lose_all()
        self._kill()


def _tell_nobody() -> None:
    pass


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"the engine was ended by signal {signal.Signals(-code).name}"
    return f"the engine ended with exit code {code}"
