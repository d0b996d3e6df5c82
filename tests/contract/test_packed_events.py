"""How events reach PostgreSQL: in binary columns, each kind once, and looked up by the index."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from tritium_platform.adapters.sql import event_store
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.event_store import SqlEventStore
from tritium_platform.adapters.sql.packed_array import packed_bytes, packed_integers
from tritium_platform.metering.event import EventKind, UsageEvent
from tritium_platform.metering.model import Meter, key_prefix, unique_key
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import uuids7_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tritium_platform.adapters.memory.clock import ManualClock

pytestmark = pytest.mark.service
TENANT = UUID(int=7)
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
INTEGERS = st.integers(-(2**63), 2**63 - 1)


@pytest.fixture
def connection(migrated_postgresql: str, superuser_url: Callable[[str], str]) -> Iterator[psycopg.Connection]:
    with psycopg.connect(superuser_url(migrated_postgresql)) as opened:
        yield opened


@pytest.fixture
async def database(scratch_postgresql: str) -> AsyncIterator[Database]:
    made = Database(scratch_postgresql)
    yield made
    await made.close()


def of_its_own_kind(number: int) -> UsageEvent:
    prefix = key_prefix(tenant_id=TENANT, source=f"s{number}")
    return UsageEvent(
        kind=EventKind(
            tenant_id=TENANT,
            source=f"s{number}",
            meter=Meter.OUTPUT_TOKENS,
            dimensions={"n": str(number)},
            tier=TenantTier.TEAM,
            key_prefix=prefix,
            key_id=None,
            received_at=EPOCH,
        ),
        id="1",
        key=unique_key(prefix, "1"),
        quantity=number,
        event_time=EPOCH + timedelta(microseconds=number),
        body_sha256=number.to_bytes(32),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(st.uuids(), max_size=4),
    digests=st.lists(st.binary(min_size=32, max_size=32), max_size=4),
    numbers=st.lists(INTEGERS, max_size=4),
    moments=st.lists(st.datetimes(datetime(2000, 1, 1), timezones=st.just(UTC)), max_size=4),  # noqa: DTZ001
)
def test_packed_arrays_are_those_of_the_driver(
    connection: psycopg.Connection,
    ids: list[UUID],
    digests: list[bytes],
    numbers: list[int],
    moments: list[datetime],
) -> None:
    since = [(each - EPOCH) // timedelta(microseconds=1) for each in moments]
    packed = (
        packed_bytes("uuid", [each.bytes for each in ids]),
        packed_bytes("bytea", digests),
        packed_integers("bigint", numbers),
        packed_integers("timestamptz", since),
    )
    statement = "SELECT %s::uuid[], %s::bytea[], %s::bigint[], %s::timestamptz[]"
    assert connection.execute(statement, packed).fetchone() == (ids, digests, numbers, moments)


async def test_events_of_as_many_kinds_are_kept_in_order_and_found_by_the_index(
    database: Database, clock: ManualClock
) -> None:
    """In a table that was never analyzed, as a role that policies bind.

    Of less rows than these the planner may take another index of the tenant.
    """
    store, events = SqlEventStore(database), [of_its_own_kind(number) for number in range(10_000)]
    identities = uuids7_bytes(len(events), clock=clock)
    assert await store.keep(events, identities=identities) == {}
    others = uuids7_bytes(len(events), clock=clock)
    columns = event_store._columns(events, others)
    async with database.read() as connection:
        rows = (await connection.execute(text("SELECT * FROM usage_records ORDER BY ctid"))).all()
        plan = await connection.execute(text(f"EXPLAIN {event_store._TAKEN_ON_POSTGRESQL.text}"), columns)
        lines = "\n".join(plan.scalars())
    assert [(each.id.bytes, each.source, each.output_tokens, each.dimensions) for each in rows] == [
        (identity, event.kind.source, event.quantity, f'{{"n":"{event.quantity}"}}')
        for identity, event in zip(identities, events, strict=True)
    ]
    assert "Index Scan using uq_usage_records" in lines
    assert "Seq Scan" not in lines
    taken = await store.keep(events, identities=others)
    assert taken == {place: event.body_sha256 for place, event in enumerate(events)}
