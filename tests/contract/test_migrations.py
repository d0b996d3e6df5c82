"""The migrations lead to the schema that the code believes in, there and back."""

from __future__ import annotations

import importlib
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import delete, inspect, select, text
from sqlalchemy.exc import IntegrityError

from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.adapters.sql.migrate import downgrade, migrate, synchronous_engine
from tritium_platform.adapters.sql.schema import metadata
from tritium_platform.adapters.sql.tables.metering import usage_records
from tritium_platform.errors import PlatformError
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlalchemy import Engine

    from tritium_platform.adapters.memory.clock import ManualClock

# Ids of one millisecond, and ids that look like them.
MILLISECONDS = bytes.fromhex("019ad3c0ffee")
TIMED = (
    "019ad3c0-ffee-7abc-8def-0123456789ab",
    "019ad3c0-ffee-7abc-8def-0123456789ac",
    "019ad3c0-ffee-7abc-8def-0123456789ab/2",
)
UNTIMED = (
    "019ad3c0-ffee-4abc-8def-0123456789ab",
    "019AD3C0-FFEE-7ABC-8DEF-0123456789AB",
    " 019ad3c0-ffee-7abc-8def-0123456789ab",
    "\uff10\uff1119ad3c-ffee-7abc-8def-0123456789ab",
    "019ad3c0ffee7abc8def0123456789ab",
)


def drift(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, metadata)


def checks(engine: Engine) -> set[tuple[str, str]]:
    """The CHECK constraints, which alembic does not compare."""
    inspector = inspect(engine)
    return {
        (table, str(check["name"]))
        for table in inspector.get_table_names()
        for check in inspector.get_check_constraints(table)
    }


def test_there_is_no_drift_between_migrations_and_tables_in_any_direction(empty_url: str) -> None:
    engine = synchronous_engine(empty_url)
    migrate(empty_url)
    assert drift(engine) == []
    migrate(empty_url)
    downgrade(empty_url, revision="base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    migrate(empty_url)
    assert drift(engine) == []
    engine.dispose()


def test_the_migrations_make_the_same_checks_as_the_tables(empty_url: str) -> None:
    engine = synchronous_engine(empty_url)
    migrate(empty_url)
    migrated = checks(engine)
    downgrade(empty_url, revision="base")
    with engine.begin() as connection:
        metadata.create_all(connection)
    assert migrated == checks(engine)
    assert ("quota_counters", "ck_quota_counters_within_ceiling") in migrated
    engine.dispose()


def test_processes_that_start_together_migrate_once(empty_url: str) -> None:
    script = "import sys; from tritium_platform.adapters.sql.migrate import migrate; migrate(sys.argv[1])"
    processes = [subprocess.Popen([sys.executable, "-c", script, empty_url]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    engine = synchronous_engine(empty_url)
    assert drift(engine) == []
    engine.dispose()


async def test_uses_stay_unique_whatever_their_key_is_made_of(empty_url: str, clock: ManualClock) -> None:
    """Ids differ in what a language holds for equal or orders otherwise; uses of each release are there."""
    names = ["a", "B", "b", "ä", "a\u0308", "\uff41", "-a", "ba", "ab", *TIMED, *UNTIMED]
    uses = [a_use(clock, source=source, event_id=name) for source in names for name in names]
    digests = [each.body_sha256() for each in uses]
    migrate(empty_url)
    assert await kept(empty_url, uses) == [None] * len(uses)
    for revision in ("0029", "0026", "0025"):
        downgrade(empty_url, revision=revision)
        with pytest.raises(IntegrityError):
            repeat_a_use(empty_url)
        migrate(empty_url)
        assert await kept(empty_url, uses) == digests
    engine = synchronous_engine(empty_url)
    (key,) = inspect(engine).get_unique_constraints("usage_records")
    with engine.connect() as connection:
        rows = connection.execute(select(usage_records.c.id, usage_records.c.unique_key)).all()
    engine.dispose()
    assert key["column_names"] == ["unique_key"]
    assert {row.id: row.unique_key.bytes for row in rows} == {each.id: each.unique_key() for each in uses}
    assert {row.id for row in rows if row.unique_key.bytes.startswith(MILLISECONDS)} == {
        each.id for each in uses if each.event_id in TIMED
    }


async def kept(url: str, uses: Sequence[UsageRecord]) -> list[bytes | None]:
    """Keep uses and return the digests of those that were there."""
    database = Database(url)
    store = SqlUsageStore(database)
    found = [await store.insert(each) for each in uses]
    await database.close()
    return found


def repeat_a_use(url: str) -> None:
    """Copy a use under another id, with the columns that there are."""
    engine = synchronous_engine(url)
    names = [column["name"] for column in inspect(engine).get_columns("usage_records")]
    others = ", ".join(name for name in names if name != "id")
    try:
        with engine.begin() as connection:
            copy = f"INSERT INTO usage_records (id, {others}) SELECT :id, {others} FROM usage_records LIMIT 1"
            connection.execute(text(copy), {"id": UUID(int=9).hex})
    finally:
        engine.dispose()


async def test_what_is_billed_points_to_its_use_after_its_table_was_replaced(
    tmp_path: Path, clock: ManualClock
) -> None:
    """SQLite changes a table by writing it anew under another name."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'books.sqlite3'}"
    migrate(url)
    use = a_use(clock, source="gateway", event_id="1")
    await kept(url, [use])
    with sqlite3.connect(tmp_path / "books.sqlite3") as plain:
        plain.execute("INSERT INTO invoice_events VALUES (?, ?, ?, 0)", ("1" * 32, use.id.hex, "2" * 32))
    plain.close()
    downgrade(url, revision="0026")
    migrate(url)
    engine = synchronous_engine(url)
    with pytest.raises(IntegrityError, match="FOREIGN KEY"), engine.begin() as connection:
        connection.execute(delete(usage_records))
    engine.dispose()


def a_use(clock: ManualClock, *, source: str, event_id: str) -> UsageRecord:
    return UsageRecord(
        id=uuid7(clock),
        tenant_id=UUID(int=1),
        source=source,
        event_id=event_id,
        operation=OperationType.CHAT,
        tier=TenantTier.TEAM,
        outcome="success",
        occurred_at=clock.now(),
        quantities=UsageQuantities(output_tokens=1),
        resources=ResourceUsage(),
    )


def test_every_table_of_tenants_names_its_tenant() -> None:
    of_everybody = {
        "authorization_epoch",
        "price_versions",
        "audit_outbox",
        "audit_owner",
        "spools",
        "tenants",
        "price_plans",
        "number_series",
        "provider_events",
        "provider_cursors",
        "reconciliation_runs",
        "billing_operations",
    }
    of_a_parent = {"quantization_layers", "batch_lines", "journal_entries"}
    for name, table in metadata.tables.items():
        assert ("tenant_id" in table.columns) != (name in of_everybody | of_a_parent), name


def test_every_table_of_tenants_has_its_policy() -> None:
    migration = importlib.import_module(
        "tritium_platform.adapters.sql.migrations.versions.v0023_row_security"
    )
    later = {"dunning_notices"}  # those have theirs from the migration that makes them
    secured = {*migration.OWN, *migration.PARENTS, "tenants", *later}
    owned = {name for name, table in metadata.tables.items() if "tenant_id" in table.columns}
    assert secured == owned | {"tenants", "quantization_layers", "batch_lines", "journal_entries"}


def test_a_database_that_cannot_be_migrated_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="cannot be migrated"):
        migrate("postgresql+psycopg://nobody@127.0.0.1:1/nothing?connect_timeout=2")
    (tmp_path / "books.sqlite3").mkdir()
    with pytest.raises(PlatformError, match="cannot be migrated"):
        migrate(f"sqlite+aiosqlite:///{tmp_path / 'books.sqlite3'}")
