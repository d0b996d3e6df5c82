"""A revoked key is refused by every process within a second, measured with the clock of the machine."""

from __future__ import annotations

import asyncio
import time

import pytest

from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
from tritium_platform.errors import InvalidTokenError
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.tenancy.service import TenancyService
from tritium_platform.values import SystemClock

PEPPER = b"pepper-for-tests-32-bytes-long!!"


async def test_a_revocation_reaches_another_gateway_within_a_second(sql_url: str) -> None:
    databases = [Database(sql_url) for _ in range(2)]
    here, elsewhere = (
        TenancyService(store=SqlTenantStore(database), pepper=PEPPER, clock=SystemClock())
        for database in databases
    )
    try:
        tenant = await here.create_tenant(organization_name="Ada", tier=TenantTier.TEAM)
        key, token = await here.create_key(tenant.id, name="laptop")
        assert (await elsewhere.authenticate_request(token)).tenant_id == tenant.id
        await here.revoke_key(key.id, tenant_id=tenant.id)
        revoked_at = time.monotonic()
        with pytest.raises(InvalidTokenError):
            await here.authenticate_request(token)
        with pytest.raises(InvalidTokenError):  # noqa: PT012 - a client that keeps calling
            while True:
                await elsewhere.authenticate_request(token)
                assert time.monotonic() - revoked_at < 1
                await asyncio.sleep(0.01)
    finally:
        for database in databases:
            await database.close()
