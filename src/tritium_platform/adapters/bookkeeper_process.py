"""The bookkeeper: a process that brings settlements into the books and the outbox into the audit log.

The gateway's process answers requests; statements, signatures and syncs of their files are made beside it.
What it was not told is done it asks for again, of a new bookkeeper if the old one is gone: a group of
settlements is in the books with its position or not at all, and the audit log knows what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import structlog

from tritium_platform.adapters import bookkeeper_messages as messages
from tritium_platform.adapters.process_link import ProcessLink
from tritium_platform.adapters.settlement_codec import encode_settlements
from tritium_platform.adapters.worker_process import CONFIGURATION
from tritium_platform.errors import OverloadedError, PlatformError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from tritium_platform.config import PlatformConfig
    from tritium_platform.settlement import Settlement

_log = structlog.get_logger(__name__)
MODULE = "tritium_platform.worker.bookkeeper_main"
START_SECONDS = 120.0
ANSWER_SECONDS = 60.0
# A log of many millions of entries is looked through once after a start: what a crash left may be in it.
SEARCH_SECONDS = 3600.0
STOP_SECONDS = 10.0
_READY = "ready"
Answers = dict[str, asyncio.Future[int]]


class BookkeeperProcess:
    """The gateway's end: a `SettlementStore` and an `AuditTrail` whose work is done in a child.

    A child that is gone, or does not answer, is replaced at the next call.

    Args:
        config: that of the platform; its database is at the newest schema.
        lock: of the audit log; this process holds it, whatever becomes of its children, until `close`.
    """

    def __init__(self, config: PlatformConfig, *, lock: int) -> None:
        self._config = config
        self._lock = lock
        self._link: ProcessLink[messages.Answer] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._answers: Answers = {}
        self._numbers = itertools.count()
        self._starting = asyncio.Lock()
        self._is_log_searched = False
        self._is_closed = False

    @property
    def process_id(self) -> int | None:
        """The child's process id; None while there is none."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the child if none is there, and wait until it has opened the books.

        Raises:
            PlatformError: it cannot open them.
            OverloadedError: it cannot be started now.
        """
        async with self._starting:
            if self._is_closed:
                raise PlatformError("The books are closed.")
            if self._link is not None and self._link.is_open:
                return
            await self._end_child()
            try:
                await self._spawn()
            except BaseException:
                await self._end_child()
                raise

    async def position(self, spool_id: UUID) -> int:
        """Return up to where a spool is in the books."""
        return await self._ask(messages.Position, spool_id=spool_id)

    async def apply(self, settlements: Sequence[Settlement], *, spool_id: UUID, position: int) -> None:
        """Bring settlements into the books unless they are there."""
        encoded = encode_settlements(settlements)
        await self._ask(messages.Apply, spool_id=spool_id, position=position, settlements=encoded)

    async def forget(self, spool_id: UUID) -> None:
        """Forget the position of a spool that is gone."""
        await self._ask(messages.Forget, spool_id=spool_id)

    async def recover(self) -> int:
        """Log every intent that is in the outbox now and not in the log; return how many were found there."""
        await self.start()
        seconds = None if self._is_log_searched else SEARCH_SECONDS
        count = await self._ask(messages.EmptyOutbox, seconds=seconds)
        self._is_log_searched = True
        return count

    async def close(self) -> None:
        """End the child and let another writer in; safe to call twice."""
        async with self._starting:
            if self._is_closed:
                return
            self._is_closed = True
            await self._end_child()
            os.close(self._lock)

    async def _ask(
        self, command: Callable[..., messages.Command], *, seconds: float | None = None, **fields: Any
    ) -> int:
        await self.start()
        number, answers = str(next(self._numbers)), self._answers
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        answers[number] = answer
        try:
            async with asyncio.timeout(seconds or ANSWER_SECONDS):
                if self._link is None or not self._link.is_open:
                    raise _gone()
                self._link.send(command(number=number, **fields))
                return await answer
        except TimeoutError:
            _log.error("bookkeeper_silent", seconds=seconds or ANSWER_SECONDS)
            self._kill()
            raise _gone() from None
        finally:
            del answers[number]

    async def _spawn(self) -> None:
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._is_log_searched = False
        answers = self._answers = {_READY: ready}  # nothing that an older child leaves undone is among them
        ours, theirs = socket.socketpair()
        try:
            self._link = await ProcessLink.over(
                ours, decode=messages.decode_answer, take=self._take, lost=lambda: self._lose(answers)
            )
            with theirs:
                self._process = await self._start_process(theirs.fileno())
            async with asyncio.timeout(START_SECONDS):
                await ready
        except (OSError, TimeoutError) as error:
            raise OverloadedError("The bookkeeper cannot be started now: try again in a moment.") from error
        finally:
            del answers[_READY]

    async def _start_process(self, link: int) -> asyncio.subprocess.Process:
        # By the environment: a database URL may hold a password, and arguments are public. The keys of a
        # payment provider stay masked: nothing is charged here.
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", MODULE, "--link", str(link), "--lock", str(self._lock)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,  # ours carries results of commands
            env={**os.environ, CONFIGURATION: self._config.model_dump_json()},
            start_new_session=True,
            pass_fds=(link, self._lock),
        )

    def _take(self, answer: messages.Answer) -> None:
        if isinstance(answer, messages.Done):
            _settle(self._answers, answer.number, value=answer.value)
        elif isinstance(answer, messages.Ready):
            _settle(self._answers, _READY)
        elif isinstance(answer, messages.Refused):
            _settle(self._answers, _READY, error=PlatformError(answer.message))
        else:
            _settle(self._answers, answer.request_id, error=answer.to_error())

    def _lose(self, answers: Answers) -> None:
        if not self._is_closed:
            _log.warning("bookkeeper_gone", unanswered=len(answers))
        for number in answers:
            _settle(answers, number, error=_gone())

    async def _end_child(self) -> None:
        """Hang up and wait until the child is gone, so that there are never two of them."""
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._process is not None:
            try:
                await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
            self._process = None  # no sooner: who is cancelled here leaves the waiting to the next call

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


def _settle(answers: Answers, number: str, *, value: int = 0, error: Exception | None = None) -> None:
    waiting = answers.get(number)
    if waiting is None or waiting.done():
        return
    if error is None:
        waiting.set_result(value)
    else:
        waiting.set_exception(error)


def _gone() -> OverloadedError:
    return OverloadedError("The bookkeeper does not answer: try again in a moment.")
