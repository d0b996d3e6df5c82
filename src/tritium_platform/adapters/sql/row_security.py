"""Says at the start whether PostgreSQL keeps the rows of tenants apart from the role that the service has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from sqlalchemy import text

if TYPE_CHECKING:
    from tritium_platform.adapters.sql.database import Database

_log = structlog.get_logger(__name__)
_PRIVILEGED = text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")


async def warn_if_privileged(database: Database) -> None:
    """Warn of a superuser, or a role with BYPASSRLS: no policy binds it."""
    if database.is_sqlite:
        return
    async with database.read() as connection:
        is_privileged = await connection.scalar(_PRIVILEGED)
    if is_privileged:
        _log.warning(
            "row_security_passed_over",
            reason="the role of database_url is a superuser or has BYPASSRLS",
            remedy="give database_url a role of its own: docs/postgresql.md",
        )
