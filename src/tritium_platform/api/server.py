"""Serves a platform on a port until it is told to stop; then it drains before it goes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from typing import TYPE_CHECKING

import structlog
import uvicorn

from tritium_platform.api.app import create_app
from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fastapi import APIRouter

    from tritium_platform.compose import Platform

_log = structlog.get_logger(__name__)
# How long /health/ready says 503 before the port closes, so that a load balancer looks elsewhere in time.
NOTICE_SECONDS = 1.0


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to us."""
        yield


async def serve_platform(
    platform: Platform, *, on_listening: Callable[[str], None], routers: Sequence[APIRouter] = ()
) -> None:
    """Serve until SIGTERM or SIGINT: not ready at once, then no new connections, then what runs is finished.

    A second signal ends without waiting. `on_listening` gets the URL once requests are taken.

    Raises:
        ValidationError: the address cannot be listened on.
    """
    config = platform.config
    with _listen(config.host, config.port) as listener:
        server = _Server(
            uvicorn.Config(
                create_app(platform, routers=routers),
                log_config=None,
                access_log=False,
                server_header=False,
                forwarded_allow_ips=list(config.trusted_proxies),
                timeout_graceful_shutdown=max(1, round(config.drain_seconds)),
            )
        )
        stopping = _Stopping(server, platform=platform)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.begin)
        announced = asyncio.create_task(_announce(server, _url(listener), on_listening))
        await server.serve(sockets=[listener])
        announced.cancel()


class _Stopping:
    """What happens on the first and on the second signal."""

    def __init__(self, server: uvicorn.Server, *, platform: Platform) -> None:
        self._server = server
        self._platform = platform
        self._notice: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._notice is not None:
            self._server.should_exit = self._server.force_exit = True
            return
        _log.info("stopping", drain_seconds=self._platform.config.drain_seconds)
        self._platform.is_ready = False
        self._notice = asyncio.create_task(self._close_port())

    async def _close_port(self) -> None:
        await asyncio.sleep(min(NOTICE_SECONDS, self._platform.config.drain_seconds))
        self._server.should_exit = True


async def _announce(server: uvicorn.Server, url: str, on_listening: Callable[[str], None]) -> None:
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    _log.info("listening", url=url)
    on_listening(url)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise ValidationError(f"Cannot listen on {host} port {port}: {reason}. Choose another.") from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
