"""Events in SQL: thousands of them per statement, deduplicated by the unique key of the usage records."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError

from tritium_platform.adapters.sql.metering_store import METER_COLUMNS, record_values
from tritium_platform.adapters.sql.packed_array import packed_bytes, packed_integers
from tritium_platform.adapters.sql.tables.metering import QUANTITIES, RESOURCES, usage_records
from tritium_platform.errors import ValidationError
from tritium_platform.metering.model import OperationType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.metering.event import EventKind, UsageEvent

# Moments of PostgreSQL count from here.
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# The first is no text to be cast in the statement: what can fail, and so tell of a row, is compared only with
# rows that the policy of the table lets pass, and no index finds those.
_KIND_FIELDS = {
    "tenant_id": "uuid",
    "received_at": "timestamptz",
    **dict.fromkeys(("source", "meter", "tier", "model", "device", "dimensions", "key_id"), "text"),
}
_METER_OF = {column.name: meter.value for meter, column in METER_COLUMNS.items()}
_COUNTS = ", ".join(
    f"CASE WHEN k.meter = '{_METER_OF[name]}' THEN e.quantity ELSE 0 END" if name in _METER_OF else "0"
    for name in QUANTITIES + RESOURCES
)
# What events have in common comes once for all of them. Every event has a kind and every kind an event, so
# that nothing is empty on either side; but a full join is never made by comparing each with each.
# No name has a control character.
_EVENTS = f"""
    unnest(
        CAST(:id AS uuid[]), string_to_array(:event_id, chr(10)), CAST(:key AS uuid[]),
        CAST(:quantity AS bigint[]), CAST(:occurred_at AS timestamptz[]), CAST(:sha256 AS bytea[]),
        CAST(:kind AS bigint[])
    ) WITH ORDINALITY AS e(id, event_id, key, quantity, occurred_at, sha256, kind, place)
    FULL JOIN unnest({", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in _KIND_FIELDS.items())})
    WITH ORDINALITY AS k({", ".join(_KIND_FIELDS)}, kind) ON k.kind = e.kind
"""
_INSERT = text(
    f"""
    INSERT INTO usage_records (
        id, tenant_id, source, event_id, unique_key, operation, tier, outcome, model, device, dimensions,
        key_id, occurred_at, received_at, body_sha256, {", ".join(QUANTITIES + RESOURCES)}
    )
    SELECT
        e.id, k.tenant_id, k.source, e.event_id, e.key, '{OperationType.EXTERNAL.value}', k.tier,
        'success', k.model, k.device, k.dimensions, k.key_id, e.occurred_at, k.received_at, e.sha256,
        {_COUNTS}
    FROM {_EVENTS}
    ORDER BY e.place
    ON CONFLICT (unique_key) DO NOTHING
    """  # noqa: S608 - of our own names
)
# LATERAL with a LIMIT is looked up in an index, key by key, whatever the planner believes of the table.
# A row of another transaction is taken, be it under our own id: what is replayed may be there already. (Of
# old rows the transaction's number may come again, and then the id tells them apart.)
_TAKEN_ON_POSTGRESQL = text(
    """
    SELECT sent.place - 1, u.body_sha256
    FROM unnest(CAST(:id AS uuid[]), CAST(:key AS uuid[])) WITH ORDINALITY AS sent(id, key, place)
    CROSS JOIN LATERAL (
        SELECT r.id, r.body_sha256, r.xmin AS writer
        FROM usage_records r WHERE r.unique_key = sent.key LIMIT 1
    ) u
    WHERE u.id <> sent.id OR u.writer <> CAST(pg_current_xact_id() AS xid)
    """
)
_TAKEN_ON_SQLITE = text(
    """
    SELECT e.key AS place, u.body_sha256
    FROM json_each(:keys) e CROSS JOIN usage_records u WHERE u.unique_key = e.value
    """
)


class SqlEventStore:
    """Keeps events as usage records; (tenant_id, source, id) is unique for ever."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, events: Sequence[UsageEvent], *, identities: Sequence[bytes]) -> Mapping[int, bytes]:
        """Keep events with different keys; return the digests of taken keys by the places of their events.

        Raises:
            ValidationError: the database does not take one of them as it is.
        """
        keep = self._on_sqlite if self._database.is_sqlite else self._on_postgresql
        try:
            async with self._database.write() as connection:
                taken = await keep(connection, events, identities)
        except (IntegrityError, DataError) as error:
            raise ValidationError("The database does not take an event as it is.") from error
        return {place: bytes(digest) for place, digest in taken}

    async def _on_sqlite(
        self, connection: AsyncConnection, events: Sequence[UsageEvent], identities: Sequence[bytes]
    ) -> Sequence[Any]:
        """Look first and insert then: nobody else writes meanwhile."""
        keys = msgspec.json.encode([each.key.hex() for each in events])
        taken = (await connection.execute(_TAKEN_ON_SQLITE, {"keys": keys.decode()})).all()
        places = {place for place, _ in taken}
        rows = [
            record_values(event.record(UUID(bytes=identity)))
            for place, (event, identity) in enumerate(zip(events, identities, strict=True))
            if place not in places
        ]
        if rows:
            await connection.execute(self._database.insert(usage_records), rows)
        return taken

    async def _on_postgresql(
        self, connection: AsyncConnection, events: Sequence[UsageEvent], identities: Sequence[bytes]
    ) -> Sequence[Any]:
        """Insert what is not there, and look only if something was: of another transaction than ours."""
        columns = await asyncio.to_thread(_columns, events, identities)
        inserted = await connection.execute(_INSERT, columns)
        if inserted.rowcount == len(events):
            return []
        return (await connection.execute(_TAKEN_ON_POSTGRESQL, columns)).all()


def _columns(events: Sequence[UsageEvent], identities: Sequence[bytes]) -> dict[str, Any]:
    """Spell events column by column, and what they have in common once."""
    kinds = list(dict.fromkeys([each.kind for each in events]))
    numbers = {kind: number for number, kind in enumerate(kinds, 1)}
    return {
        "id": packed_bytes("uuid", identities),
        "event_id": "\n".join([each.id for each in events]),
        "key": packed_bytes("uuid", [each.key for each in events]),
        "quantity": packed_integers("bigint", [each.quantity for each in events]),
        "occurred_at": packed_integers(
            "timestamptz", [(each.event_time - _EPOCH) // _MICROSECOND for each in events]
        ),
        "sha256": packed_bytes("bytea", [each.body_sha256 for each in events]),
        "kind": packed_integers("bigint", [numbers[each.kind] for each in events]),
        **_kind_columns(kinds),
    }


def _kind_columns(kinds: Sequence[EventKind]) -> dict[str, str]:
    dimensions = [each.dimensions for each in kinds]
    columns: dict[str, Sequence[Any]] = {
        "tenant_id": [each.tenant_id for each in kinds],
        "received_at": [each.received_at for each in kinds],
        "source": [each.source for each in kinds],
        "meter": [each.meter for each in kinds],
        "tier": [each.tier for each in kinds],
        "model": [each.get("model", "") for each in dimensions],
        "device": [each.get("device", "") for each in dimensions],
        "dimensions": [
            msgspec.json.encode(each, order="sorted").decode() if each else None for each in dimensions
        ],
        "key_id": [each.key_id for each in kinds],
    }
    return {name: _array(values) for name, values in columns.items()}


def _array(values: Sequence[Any]) -> str:
    """Spell a one-dimensional array.

    JSON and PostgreSQL quote the same way but for control characters, and no event has any; `null` is both.
    """
    return "{" + msgspec.json.encode(values).decode()[1:-1] + "}"
