"""Serves an app until it is told to stop; what runs then is finished before the process goes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from typing import TYPE_CHECKING, Any

import uvicorn

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastapi import FastAPI

logger = logging.getLogger(__name__)
# How long readiness says no before the port closes, so that a load balancer looks elsewhere in time.
NOTICE_SECONDS = 1.0


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to us."""
        yield


async def serve_until_stopped(
    app: FastAPI,
    *,
    listener: socket.socket,
    drain_seconds: float,
    on_listening: Callable[[], None],
    on_stopping: Callable[[], None],
    **options: Any,
) -> None:
    """Serve until SIGTERM or SIGINT: not ready at once, then no new connections, then what runs is finished.

    A second signal ends without waiting.

    Args:
        app: what is served.
        listener: a bound socket.
        drain_seconds: how long what runs may take to finish.
        on_listening: called once requests are taken.
        on_stopping: called on the first signal; from then on readiness must say no.
        options: more for `uvicorn.Config`.
    """
    graceful = max(1, round(drain_seconds))
    server = _Server(uvicorn.Config(app, timeout_graceful_shutdown=graceful, **options))
    stopping = _Stopping(server, notice=min(NOTICE_SECONDS, drain_seconds), on_stopping=on_stopping)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.begin)
    announced = asyncio.create_task(_announce(server, on_listening))
    try:
        await server.serve(sockets=[listener])
    finally:
        announced.cancel()


class _Stopping:
    """What happens on the first and on the second signal."""

    def __init__(self, server: uvicorn.Server, *, notice: float, on_stopping: Callable[[], None]) -> None:
        self._server = server
        self._notice_seconds = notice
        self._on_stopping = on_stopping
        self._notice: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._notice is not None:
            self._server.should_exit = self._server.force_exit = True
            return
        self._on_stopping()
        self._notice = asyncio.create_task(self._close_port())

    async def _close_port(self) -> None:
        await asyncio.sleep(self._notice_seconds)
        self._server.should_exit = True


async def _announce(server: uvicorn.Server, on_listening: Callable[[], None]) -> None:
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    # What was made until now stays: the collector need not walk all of it again while requests wait.
    gc.collect()
    gc.freeze()
    on_listening()


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket bound to an address; port 0 takes a free one.

    Raises:
        ValidationError: the address is in use, not allowed, or not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ValidationError(
                f"Cannot listen on {host} port {port}: {reason}. Choose another."
            ) from error
        yield listener


def url_of(listener: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
