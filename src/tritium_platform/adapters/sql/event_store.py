"""Events in SQL: hundreds of them per statement, deduplicated by the unique key of the usage records."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import text

from tritium_platform.adapters.sql.metering_store import METER_COLUMNS, record_values
from tritium_platform.adapters.sql.tables.metering import QUANTITIES, RESOURCES, usage_records
from tritium_platform.metering.model import OperationType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.metering.event import EventKey, UsageEvent

_KEY = {"id": "uuid", "tenant_id": "uuid", "source": "text", "event_id": "text"}
_FIELDS = {
    **_KEY,
    **dict.fromkeys(("tier", "model", "device", "dimensions", "key_id", "sha256", "meter"), "text"),
    "occurred_at": "timestamptz",
    "quantity": "bigint",
}
_METER_OF = {column.name: meter.value for meter, column in METER_COLUMNS.items()}
_COUNTS = ", ".join(
    f"CASE WHEN e.meter = '{_METER_OF[name]}' THEN e.quantity ELSE 0 END" if name in _METER_OF else "0"
    for name in QUANTITIES + RESOURCES
)


def _unnest(fields: Mapping[str, str]) -> str:
    return ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in fields.items())


_INSERT = text(
    f"""
    INSERT INTO usage_records (
        id, tenant_id, source, event_id, operation, tier, outcome, model, device, dimensions, key_id,
        occurred_at, received_at, body_sha256, {", ".join(QUANTITIES + RESOURCES)}
    )
    SELECT
        e.id, e.tenant_id, e.source, e.event_id, '{OperationType.EXTERNAL.value}', e.tier, 'success',
        e.model, e.device, e.dimensions, e.key_id, e.occurred_at, :received_at, decode(e.sha256, 'hex'),
        {_COUNTS}
    FROM unnest({_unnest(_FIELDS)}) AS e({", ".join(_FIELDS)})
    ON CONFLICT (tenant_id, source, event_id) DO NOTHING
    """  # noqa: S608 - of our own names
)
# LATERAL with a LIMIT is looked up in the index, key by key, whatever the planner believes of the table.
_TAKEN_ON_POSTGRESQL = text(
    f"""
    SELECT e.place, u.body_sha256
    FROM unnest({_unnest(_KEY)}) WITH ORDINALITY AS e({", ".join(_KEY)}, place)
    CROSS JOIN LATERAL (
        SELECT r.id, r.body_sha256 FROM usage_records r
        WHERE r.tenant_id = e.tenant_id AND r.source = e.source AND r.event_id = e.event_id LIMIT 1
    ) u
    WHERE u.id <> e.id
    """  # noqa: S608 - of our own names
)
_TAKEN_ON_SQLITE = text(
    """
    SELECT e.key + 1 AS place, u.body_sha256
    FROM json_each(:keys) e CROSS JOIN usage_records u
    WHERE u.tenant_id = json_extract(e.value, '$[0]') AND u.source = json_extract(e.value, '$[1]')
    AND u.event_id = json_extract(e.value, '$[2]')
    """
)


class SqlEventStore:
    """Keeps events as usage records; (tenant_id, source, id) is unique for ever."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(
        self, events: Sequence[UsageEvent], *, identities: Sequence[UUID], received_at: datetime
    ) -> Mapping[EventKey, bytes]:
        """Keep events with different keys; return the digests of the keys that were taken before."""
        keep = self._on_sqlite if self._database.is_sqlite else self._on_postgresql
        async with self._database.write() as connection:
            taken = await keep(connection, events, identities, received_at)
        return {events[place - 1].key: bytes(digest) for place, digest in taken}

    async def _on_sqlite(
        self,
        connection: AsyncConnection,
        events: Sequence[UsageEvent],
        identities: Sequence[UUID],
        received_at: datetime,
    ) -> Sequence[Any]:
        """Look first and insert then: nobody else writes meanwhile."""
        keys = msgspec.json.encode([(each.tenant_id.hex, each.source, each.id) for each in events])
        taken = (await connection.execute(_TAKEN_ON_SQLITE, {"keys": keys.decode()})).all()
        places = {place for place, _ in taken}
        rows = [
            record_values(event.record(identity, received_at=received_at))
            for place, (event, identity) in enumerate(zip(events, identities, strict=True), 1)
            if place not in places
        ]
        if rows:
            await connection.execute(self._database.insert(usage_records), rows)
        return taken

    async def _on_postgresql(
        self,
        connection: AsyncConnection,
        events: Sequence[UsageEvent],
        identities: Sequence[UUID],
        received_at: datetime,
    ) -> Sequence[Any]:
        """Insert what is not there, and look only if something was: with another id than ours."""
        columns = await asyncio.to_thread(_columns, events, identities)
        inserted = await connection.execute(_INSERT, {**columns, "received_at": received_at})
        if inserted.rowcount == len(events):
            return []
        keys = {name: columns[name] for name in _KEY}
        return (await connection.execute(_TAKEN_ON_POSTGRESQL, keys)).all()


def _columns(events: Sequence[UsageEvent], identities: Sequence[UUID]) -> dict[str, str]:
    """Spell events column by column as arrays of PostgreSQL."""
    dimensions = [each.dimensions for each in events]
    columns: dict[str, Sequence[Any]] = {
        "id": identities,
        "tenant_id": [each.tenant_id for each in events],
        "source": [each.source for each in events],
        "event_id": [each.id for each in events],
        "tier": [each.tier for each in events],
        "model": [each.get("model", "") for each in dimensions],
        "device": [each.get("device", "") for each in dimensions],
        "dimensions": [
            msgspec.json.encode(each, order="sorted").decode() if each else None for each in dimensions
        ],
        "key_id": [each.key_id for each in events],
        "occurred_at": [each.event_time for each in events],
        "sha256": [each.body_sha256.hex() for each in events],
        "meter": [each.meter for each in events],
        "quantity": [each.quantity for each in events],
    }
    return {name: _array(values) for name, values in columns.items()}


def _array(values: Sequence[Any]) -> str:
    """Spell a one-dimensional array.

    JSON and PostgreSQL quote the same way but for control characters, and no event has any; `null` is both.
    """
    return "{" + msgspec.json.encode(values).decode()[1:-1] + "}"
