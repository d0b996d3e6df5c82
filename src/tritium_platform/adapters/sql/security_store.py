"""Security events in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, false, or_, select

from tritium_platform.adapters.sql.tables.security import security_events
from tritium_platform.security.model import SecurityEvent, SecurityEventType, ThreatLevel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Row

    from tritium_platform.adapters.sql.database import Database


class SqlSecurityEventStore:
    """Keeps security events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, event: SecurityEvent) -> None:
        """Keep an event; adding the same one again changes nothing."""
        statement = self._database.insert(security_events).values(
            id=event.id,
            event_type=event.event_type.value,
            severity=event.severity.value,
            timestamp=event.timestamp,
            source_ip=event.source_ip,
            tenant_id=event.tenant_id,
            key_id=event.key_id,
            resource=event.resource,
            reason=event.reason,
            event_data=dict(event.event_data),
        )
        async with self._database.write() as connection:
            await connection.execute(statement.on_conflict_do_nothing())

    async def related(self, event: SecurityEvent, *, since: datetime, limit: int) -> Sequence[SecurityEvent]:
        """Return events of the same type since then that share address, key or tenant; newest first."""
        table = security_events.c
        shared = [
            column == value
            for column, value in (
                (table.source_ip, event.source_ip),
                (table.key_id, event.key_id),
                (table.tenant_id, event.tenant_id),
            )
            if value is not None
        ]
        statement = (
            select(security_events)
            .where(table.event_type == event.event_type.value, table.timestamp >= since)
            .where(or_(false(), *shared))
            .order_by(table.timestamp.desc(), table.id.desc())
            .limit(limit)
        )
        async with self._database.read() as connection:
            return [_event(row) for row in await connection.execute(statement)]

    async def recent(self, *, limit: int) -> Sequence[SecurityEvent]:
        """Return the newest events of all types, newest first."""
        table = security_events.c
        statement = select(security_events).order_by(table.timestamp.desc(), table.id.desc()).limit(limit)
        async with self._database.read() as connection:
            return [_event(row) for row in await connection.execute(statement)]

    async def remove_before(self, moment: datetime) -> int:
        """Forget what is older; return how many."""
        statement = delete(security_events).where(security_events.c.timestamp < moment)
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount


def _event(row: Row[tuple[object, ...]]) -> SecurityEvent:
    return SecurityEvent(
        id=row.id,
        event_type=SecurityEventType(row.event_type),
        severity=ThreatLevel(row.severity),
        timestamp=row.timestamp,
        source_ip=row.source_ip,
        tenant_id=row.tenant_id,
        key_id=row.key_id,
        resource=row.resource,
        reason=row.reason,
        event_data=dict(row.event_data),
    )
