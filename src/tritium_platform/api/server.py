"""Serves a platform on a port until it is told to stop; then it drains before it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from tritium.protocol.server import listening, serve_until_stopped, url_of
from tritium_platform.api.app import create_app

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastapi import APIRouter

    from tritium_platform.compose import Platform

_log = structlog.get_logger(__name__)


async def serve_platform(
    platform: Platform, *, on_listening: Callable[[str], None], routers: Sequence[APIRouter] = ()
) -> None:
    """Serve until SIGTERM or SIGINT: not ready at once, then no new connections, then what runs is finished.

    A second signal ends without waiting. `on_listening` gets the URL once requests are taken.

    Raises:
        ValidationError: the address cannot be listened on.
    """
    config = platform.config

    def announce() -> None:
        _log.info("listening", url=url)
        on_listening(url)

    def stop_being_ready() -> None:
        _log.info("stopping", drain_seconds=config.drain_seconds)
        platform.is_ready = False

    with listening(config.host, config.port) as listener:
        url = url_of(listener)
        await serve_until_stopped(
            create_app(platform, routers=routers),
            listener=listener,
            drain_seconds=config.drain_seconds,
            on_listening=announce,
            on_stopping=stop_being_ready,
            log_config=None,
            access_log=False,
            server_header=False,
            forwarded_allow_ips=list(config.trusted_proxies),
        )
