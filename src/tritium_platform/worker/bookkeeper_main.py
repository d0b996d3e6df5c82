"""The bookkeeper's process: keeps the books of one gateway, and ends when the gateway does."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
from typing import TYPE_CHECKING

import structlog
import uvloop

from tritium_platform.adapters import bookkeeper_messages as messages
from tritium_platform.adapters.failed_message import Failed
from tritium_platform.adapters.process_link import ProcessLink
from tritium_platform.adapters.settlement_codec import decode_settlements
from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.settling import settlement_store
from tritium_platform.adapters.telemetry import configure_logging
from tritium_platform.adapters.worker_process import CONFIGURATION
from tritium_platform.audit.log import AuditLog
from tritium_platform.audit.note import NoteSigner
from tritium_platform.audit.service import AuditService
from tritium_platform.config import PlatformConfig
from tritium_platform.errors import BitNetServiceError, PlatformError
from tritium_platform.values import SystemClock
from tritium_platform.worker.parent import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.settlement import SettlementStore

_log = structlog.get_logger(__name__)
# Requests come first: what is in the spool is durable, and can wait for a moment.
_NICENESS = 5
_CONNECTIONS = 3


class Bookkeeper:
    """Carries out the commands of one gateway."""

    def __init__(self, *, store: SettlementStore, audit: AuditService) -> None:
        self._store = store
        self._audit = audit
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_alone = asyncio.Event()
        self._link: ProcessLink[messages.Command]

    async def serve(self, connected: socket.socket) -> None:
        """Say that the books are open, then obey until the gateway is gone; what has begun is finished."""
        self._link = await ProcessLink.over(
            connected, decode=messages.decode_command, take=self._obey, lost=self._is_alone.set
        )
        self._link.send(messages.Ready())
        await self._is_alone.wait()
        await asyncio.gather(*self._tasks)

    def _obey(self, command: messages.Command) -> None:
        task = asyncio.create_task(self._answer(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, command: messages.Command) -> None:
        try:
            value = await self._do(command)
        except BitNetServiceError as error:
            self._link.send(Failed.of(error, request_id=command.number))
        except Exception:  # noqa: BLE001 - whatever it is, what is durable is not given up
            _log.exception("bookkeeping_failed", command=type(command).__name__)
            failure = PlatformError("The books could not be written.")
            self._link.send(Failed.of(failure, request_id=command.number))
        else:
            self._link.send(messages.Done(command.number, value))

    async def _do(self, command: messages.Command) -> int:
        if isinstance(command, messages.Apply):
            settlements = decode_settlements(command.settlements)
            await self._store.apply(settlements, spool_id=command.spool_id, position=command.position)
            return 0
        if isinstance(command, messages.Position):
            return await self._store.position(command.spool_id)
        if isinstance(command, messages.Forget):
            await self._store.forget(command.spool_id)
            return 0
        return await self._audit.recover()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one bookkeeper; the parent is `tritium_platform.adapters.bookkeeper_process`."""
    parser = argparse.ArgumentParser(prog="tritium-bookkeeper", description=__doc__)
    parser.add_argument("--link", type=int, required=True, help="file descriptor of our end of the socket")
    parser.add_argument("--lock", type=int, required=True, help="file descriptor that holds the audit log")
    options = parser.parse_args(arguments)
    config = PlatformConfig.model_validate_json(os.environ.pop(CONFIGURATION))
    configure_logging(level=config.log_level)
    die_with_parent()
    os.nice(_NICENESS)
    # The gateway decides when we end; a terminal's Ctrl-C reaches the gateway alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(_run(config, link=options.link, lock=options.lock))


async def _run(config: PlatformConfig, *, link: int, lock: int) -> None:
    connected, clock = socket.socket(fileno=link), SystemClock()
    database = Database(config.resolved_database_url, pool_size=_CONNECTIONS)
    try:
        signer = NoteSigner.from_seed(config.audit_origin, seed=config.signing_key_seed())
        log = AuditLog.open(config.audit_dir, signer=signer, clock=clock, lock=lock)
    except BitNetServiceError as error:
        await _refuse(connected, error.message)
        return
    audit = AuditService(log, outbox=SqlAuditOutbox(database))
    try:
        await Bookkeeper(store=settlement_store(database, clock=clock), audit=audit).serve(connected)
    finally:
        await audit.close()
        await database.close()


async def _refuse(connected: socket.socket, message: str) -> None:
    is_out = asyncio.Event()
    link = await ProcessLink.over(
        connected, decode=messages.decode_command, take=lambda _: None, lost=is_out.set
    )
    link.send(messages.Refused(message))
    link.close()
    await is_out.wait()


if __name__ == "__main__":
    main()
