"""PostgreSQL itself keeps the rows of tenants apart: a query that forgets its WHERE finds nobody else's."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import delete, func, insert, make_url, select, text, update
from sqlalchemy.exc import IntegrityError, ProgrammingError

from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.evidence import SqlCensus
from tritium_platform.adapters.sql.journal_store import SqlJournalStore
from tritium_platform.adapters.sql.migrate import downgrade, migrate
from tritium_platform.adapters.sql.row_security import warn_if_privileged
from tritium_platform.adapters.sql.schema import metadata
from tritium_platform.adapters.sql.tables.journal import journal_entries
from tritium_platform.adapters.sql.tables.quotas import quota_counters
from tritium_platform.adapters.sql.tables.spending import spend_caps
from tritium_platform.adapters.sql.tables.tenancy import tenants
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
from tritium_platform.billing.journal import JournalGroup, entries_of
from tritium_platform.compliance.checks.isolation import TenantTablesCarryTheirTenant
from tritium_platform.compliance.model import CheckOutcome
from tritium_platform.tenancy.acting import act_for, acting_for_the_service, acting_tenant
from tritium_platform.tenancy.model import Tenant, TenantTier
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tritium_platform.adapters.memory.clock import ManualClock

pytestmark = pytest.mark.service
ONE, OTHER = UUID(int=1), UUID(int=2)
AT = datetime(2026, 11, 5, tzinfo=UTC)
REFUSED = "violates row-level security policy"
SECURED = {name for name, table in metadata.tables.items() if "tenant_id" in table.c} | {
    *("tenants", "batch_lines", "journal_entries", "quantization_layers")
}


@contextmanager
def acting_for(tenant_id: UUID | None) -> Iterator[None]:
    before = acting_tenant()
    act_for(tenant_id)
    try:
        yield
    finally:
        act_for(before)


@pytest.fixture(params=["owner", "another role"])
def role_url(
    request: pytest.FixtureRequest, scratch_postgresql: str, superuser_url: Callable[[str], str]
) -> Iterator[str]:
    """An empty database as the owner of its tables reaches it, and as a role that only may use them."""
    if request.param == "owner":
        yield scratch_postgresql
        return
    role = f"tritium_app_{secrets.token_hex(4)}"
    with psycopg.connect(superuser_url(scratch_postgresql), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
        yield make_url(scratch_postgresql).set(username=role).render_as_string(hide_password=False)
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")


@pytest.fixture
async def database(role_url: str) -> AsyncIterator[Database]:
    """A database with two tenants, their spend caps, counters and a group of each in the journal."""
    migrate(role_url)  # as a server does at its start: nothing is to be done
    made = Database(role_url)
    store, journal = SqlTenantStore(made), SqlJournalStore(made)
    for tenant_id in (ONE, OTHER):
        await store.add_tenant(Tenant(tenant_id, f"tenant {tenant_id.int}", TenantTier.TEAM, AT))
        await journal.post(group_of(tenant_id))
        async with made.write() as connection:
            cap = {"tenant_id": tenant_id, "amount_minor": 5, "currency": "USD", "mode": "stop"}
            counter = {"tenant_id": tenant_id, "meter": "requests", "period": "2026-11", "ceiling": 9}
            await connection.execute(insert(spend_caps).values(cap))
            await connection.execute(insert(quota_counters).values(counter | {"used": 0, "held": 0}))
    yield made
    await made.close()


def group_of(tenant_id: UUID) -> JournalGroup:
    return JournalGroup(
        id=uuid7(),
        operation_id=f"test:{uuid7()}",
        tenant_id=tenant_id,
        description="a test",
        occurred_at=AT,
        entries=entries_of("USD", receivable=7, revenue=-7),
    )


async def test_a_tenant_sees_its_own_rows_whatever_the_query_forgets(database: Database) -> None:
    counts = {}
    for tenant_id in (ONE, OTHER, None, UUID(int=3)):
        with acting_for(tenant_id):
            async with database.read() as connection:
                owners = (await connection.scalars(select(spend_caps.c.tenant_id))).all()
                names = (await connection.scalars(select(tenants.c.organization_name))).all()
                entries = await connection.scalar(select(func.count()).select_from(journal_entries))
        counts[tenant_id] = (sorted(each.int for each in owners), sorted(names), entries)
    assert counts == {
        ONE: ([1], ["tenant 1"], 2),
        OTHER: ([2], ["tenant 2"], 2),
        None: ([1, 2], ["tenant 1", "tenant 2"], 4),
        UUID(int=3): ([], [], 0),
    }


async def test_a_tenant_can_neither_write_nor_change_nor_delete_what_is_anothers(database: Database) -> None:
    cap = {"tenant_id": OTHER, "amount_minor": 5, "currency": "USD", "mode": "stop"}
    with acting_for(ONE):
        with pytest.raises(ProgrammingError, match=REFUSED):
            async with database.write() as connection:
                await connection.execute(insert(spend_caps).values(cap | {"tenant_id": UUID(int=3)}))
        with pytest.raises(ProgrammingError, match=REFUSED):
            async with database.write() as connection:  # to give a row away
                await connection.execute(update(spend_caps).values(tenant_id=UUID(int=3)))
        async with database.write() as connection:
            changed = await connection.execute(update(spend_caps).values(amount_minor=1))
            removed = await connection.execute(delete(quota_counters))
            assert (changed.rowcount, removed.rowcount) == (1, 1)
    async with database.read() as connection:
        left = select(spend_caps.c.tenant_id, spend_caps.c.amount_minor).order_by(spend_caps.c.tenant_id)
        assert (await connection.execute(left)).all() == [(ONE, 1), (OTHER, 5)]
        assert (await connection.scalars(select(quota_counters.c.tenant_id))).all() == [OTHER]


async def test_a_tenants_journal_is_kept_and_judged_while_others_cannot_be_written(
    database: Database,
) -> None:
    journal = SqlJournalStore(database)
    with acting_for(ONE):
        await journal.post(group_of(ONE))
        with pytest.raises(ProgrammingError, match=REFUSED):
            await journal.post(group_of(OTHER))
        assert len(await journal.list(limit=9)) == 2
    (foreign,) = [each for each in await journal.list(limit=9) if each.tenant_id == OTHER]
    entry = {"group_id": foreign.id, "account": "revenue", "amount_minor": 1, "currency": "USD"}
    with acting_for(ONE):
        async with database.write() as connection:  # a hidden group is closed all the same
            with pytest.raises(IntegrityError, match="closed"):
                await connection.execute(insert(journal_entries).values(entry | {"position": 9}))
            await connection.rollback()


async def test_who_does_not_say_for_whom_it_acts_sees_nothing(database: Database, role_url: str) -> None:
    plain = make_url(role_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        for table in sorted(SECURED):
            assert connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (0,), table
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=REFUSED):
            connection.execute("INSERT INTO spend_caps VALUES (gen_random_uuid(), 1, 'USD', 'stop')")


async def test_a_connection_that_a_tenant_used_is_not_narrow_for_the_next(database: Database) -> None:
    for _ in range(12):  # more than the pool has
        with acting_for(ONE):
            async with database.read() as connection:
                assert len((await connection.execute(select(spend_caps))).all()) == 1
            async with database.snapshot(), database.read() as connection:
                assert len((await connection.execute(select(spend_caps))).all()) == 1
            with pytest.raises(ZeroDivisionError):
                async with database.write():
                    _ = 1 / 0
            with acting_for_the_service():
                async with database.read() as connection:
                    assert len((await connection.execute(select(spend_caps))).all()) == 2
        async with database.write() as connection:
            assert len((await connection.execute(select(spend_caps))).all()) == 2


async def test_the_check_sees_every_policy_and_fails_without_any_of_them(
    database: Database, clock: ManualClock, scratch_postgresql: str, superuser_url: Callable[[str], str]
) -> None:
    check = TenantTablesCarryTheirTenant(census=SqlCensus(database), clock=clock)
    evidence = await check.collect()
    assert check.evaluate(evidence).outcome is CheckOutcome.PASS
    assert {each["name"] for each in evidence.facts["tables"] if each["is_row_secured"]} == SECURED
    with psycopg.connect(superuser_url(scratch_postgresql), autocommit=True) as connection:
        for sabotage, mend in (
            ("NO FORCE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY"),
            ("DISABLE ROW LEVEL SECURITY", "ENABLE ROW LEVEL SECURITY"),
        ):
            for table in ("spend_caps", "batch_lines", "tenants"):
                connection.execute(f"ALTER TABLE {table} {sabotage}")
                found = check.evaluate(await check.collect())
                assert found.problems == (
                    f"table {table}: no row-level security binds the role that the service has",
                )
                connection.execute(f"ALTER TABLE {table} {mend}")
    assert check.evaluate(await check.collect()).outcome is CheckOutcome.PASS


async def test_a_superuser_is_warned_of_and_fails_the_check(
    scratch_postgresql: str,
    superuser_url: Callable[[str], str],
    clock: ManualClock,
    capfd: pytest.CaptureFixture[str],
) -> None:
    url = superuser_url(scratch_postgresql).replace("postgresql://", "postgresql+psycopg://")
    for tried, is_warned in ((url, True), (scratch_postgresql, False)):
        database = Database(tried)
        await warn_if_privileged(database)
        assert ("row_security_passed_over" in "".join(capfd.readouterr())) is is_warned
        check = TenantTablesCarryTheirTenant(census=SqlCensus(database), clock=clock)
        assert len(check.evaluate(await check.collect()).problems) == (len(SECURED) if is_warned else 0)
        await database.close()


async def test_the_policies_come_and_go_with_their_migration(scratch_postgresql: str) -> None:
    downgrade(scratch_postgresql, revision="0022")
    database = Database(scratch_postgresql)
    policies = text("SELECT COUNT(*) FROM pg_policies")
    async with database.read() as connection:
        assert await connection.scalar(policies) == 0
    migrate(scratch_postgresql)
    async with database.read() as connection:
        assert await connection.scalar(policies) == len(SECURED)
    await database.close()
