"""What the census reads is what the running database holds, on SQLite and on PostgreSQL."""

from __future__ import annotations

from tritium_platform.adapters.sql.evidence import SqlCensus
from tritium_platform.adapters.sql.schema import metadata
from tritium_platform.compliance.checks.api_keys import ApiKeysAreHashed
from tritium_platform.compliance.checks.isolation import TenantTablesCarryTheirTenant
from tritium_platform.compliance.model import CheckOutcome
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.tenancy.service import TenancyService


async def test_every_table_of_the_schema_is_seen_and_accounted_for(sql_books, clock):
    census = SqlCensus(sql_books.database)
    assert {table.name for table in await census.tables()} == {*metadata.tables, "alembic_version"}
    check = TenantTablesCarryTheirTenant(census=census, clock=clock)
    assert check.evaluate(await check.collect()).problems == ()


async def test_every_text_is_searched_and_every_key_is_counted(sql_books, clock):
    tenancy = TenancyService(store=sql_books.tenants, pepper=b"p" * 32, clock=clock)
    tenant = await tenancy.create_tenant(organization_name="Acme", tier=TenantTier.TEAM)
    key, token = await tenancy.create_key(tenant.id, name="first")
    census = SqlCensus(sql_books.database)
    assert [identity for identity, _ in await census.stored_hashes()] == [key.id]
    cells = {(cell.table, cell.column): cell.text async for cell in census.text_cells()}
    assert cells["tenants", "organization_name"] == "Acme"
    assert cells["api_keys", "id"] == key.id
    check = ApiKeysAreHashed(census=census, tenancy=tenancy, clock=clock)
    assert check.evaluate(await check.collect()).outcome is CheckOutcome.PASS
    await tenancy.create_key(tenant.id, name=f"copy of {token}")
    assert check.evaluate(await check.collect()).problems == (
        f"a key stands in plain in api_keys.name: key {key.id}",
    )
