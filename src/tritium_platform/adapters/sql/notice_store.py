"""The inbox of providers' events in SQL: each is kept once, and dealt with later."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from tritium_platform.adapters.sql.tables.payments import provider_cursors, provider_events
from tritium_platform.billing.payment import ProviderEvent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.sql.database import Database

_table = provider_events.c


class SqlNoticeStore:
    """Keeps events once, and how far a provider's list of them was read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, event: ProviderEvent) -> bool:
        """Keep an event; False if it is kept already."""
        statement = (
            self._database.insert(provider_events)
            .values(**asdict(event))
            .on_conflict_do_nothing(index_elements=["provider", "event_id"])
            .returning(_table.id)
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def pending(self, *, limit: int, after: UUID | None = None) -> Sequence[ProviderEvent]:
        """Return events that nobody dealt with, by their ids."""
        columns = [each for each in provider_events.c if each.name != "processed_at"]
        statement = select(*columns).where(_table.processed_at.is_(None)).order_by(_table.id).limit(limit)
        if after is not None:
            statement = statement.where(_table.id > after)
        async with self._database.read() as connection:
            return [ProviderEvent(**row._asdict()) for row in await connection.execute(statement)]

    async def close(self, event_id: UUID, *, at: datetime) -> None:
        """Note that an event was dealt with."""
        statement = update(provider_events).where(_table.id == event_id).values(processed_at=at)
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def cursor(self, provider: str) -> datetime | None:
        """Return until when a provider's list was read; None if it never was."""
        statement = select(provider_cursors.c.seen_until).where(provider_cursors.c.provider == provider)
        async with self._database.read() as connection:
            return (await connection.execute(statement)).scalar_one_or_none()

    async def move_cursor(self, provider: str, *, to: datetime) -> None:
        """Note until when a provider's list was read."""
        values = {"provider": provider, "seen_until": to}
        statement = (
            self._database.insert(provider_cursors)
            .values(**values)
            .on_conflict_do_update(index_elements=["provider"], set_=values)
        )
        async with self._database.write() as connection:
            await connection.execute(statement)
