"""Wires what the gateways of one data directory share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.adapters.neighbours import Neighbours, spool_of_seat
from tritium_platform.adapters.shared_limiter import SharedLimiter
from tritium_platform.adapters.sql.database import require_supported
from tritium_platform.adapters.sql.settling import settlement_store
from tritium_platform.audit.log import has_writer
from tritium_platform.errors import ResourceError, ValidationError
from tritium_platform.quotas.limiter import LocalLimiter

if TYPE_CHECKING:
    from pathlib import Path

    from tritium_platform.adapters.event_replay import EventReplay
    from tritium_platform.adapters.metrics import Metrics
    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.config import PlatformConfig
    from tritium_platform.quotas.limiter import Limiter
    from tritium_platform.values import Clock


def require_server(config: PlatformConfig) -> None:
    """Refuse a gateway beside a server where there can be none.

    Raises:
        ValidationError: the database is SQLite.
        ResourceError: no server runs on the data directory.
    """
    if require_supported(config.resolved_database_url):
        raise ValidationError(
            "Several gateways need PostgreSQL, because SQLite has one writer at a time: set database_url for "
            "the server and all its gateways.",
            field="database_url",
        )
    if not has_writer(config.audit_dir):
        raise ResourceError(
            "No server runs on this data directory: start it with `tritiumd up` or `tritiumd serve`, and "
            "gateways beside it with `tritiumd gateway`."
        )


def open_limiter(config: PlatformConfig, *, is_server: bool) -> Limiter:
    """Return the limits: those of the machine where several gateways can be, else those of this process."""
    if is_server and not require_supported(config.resolved_database_url):
        return SharedLimiter(config.limits_dir)
    return LocalLimiter()


def spool_of(config: PlatformConfig, *, limiter: Limiter, is_owner: bool) -> Path:
    """Return where a server keeps its journal: who owns the data directory in its root."""
    if is_owner or not isinstance(limiter, SharedLimiter):
        return config.spool_dir
    return spool_of_seat(config.spool_dir, limiter.seat)


def open_neighbours(
    config: PlatformConfig,
    *,
    limiter: Limiter,
    database: Database,
    replay: EventReplay,
    metrics: Metrics,
    clock: Clock,
) -> Neighbours | None:
    """Return the other gateways of the data directory; None where there can be none."""
    if not isinstance(limiter, SharedLimiter):
        return None
    store = settlement_store(database, clock=clock)
    return Neighbours(
        limiter, spool_dir=config.spool_dir, store=store, events=replay, telemetry=metrics, clock=clock
    )
