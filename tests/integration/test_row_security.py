"""Whoever comes in through a door sees rows of its own, even where a route forgets to ask for them."""

from __future__ import annotations

import httpx2
import pytest
from fastapi import APIRouter
from sqlalchemy import select

from tritium_platform.adapters.sql.tables.tenancy import api_keys
from tritium_platform.api.app import create_app
from tritium_platform.api.deps import Caller, admin
from tritium_platform.compose import initialize_platform
from tritium_platform.config import PlatformConfig
from tritium_platform.tenancy.model import TenantTier

pytestmark = pytest.mark.service


def careless(platform):
    """Routes that read the keys of all tenants, for a tenant and for the operator."""
    router = APIRouter()

    async def owners():
        async with platform.database.read() as connection:
            return [str(each) for each in await connection.scalars(select(api_keys.c.tenant_id))]

    @router.get("/api/v1/careless")
    async def for_a_tenant(_: Caller) -> list[str]:
        return await owners()

    @router.get("/api/v1/careless/all", dependencies=[admin])
    async def for_the_operator() -> list[str]:
        return await owners()

    return router


async def test_a_route_that_forgets_its_where_answers_with_the_callers_rows(tmp_path, postgresql_url):
    platform = await initialize_platform(PlatformConfig(data_dir=tmp_path, database_url=postgresql_url))
    try:
        made = []
        for name in ("Acme", "Umbrella"):
            tenant = await platform.tenancy.create_tenant(organization_name=name, tier=TenantTier.TEAM)
            made.append((str(tenant.id), (await platform.tenancy.create_key(tenant.id, name="k"))[1]))
        app = create_app(platform, routers=[careless(platform)])
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:

            async def ask(path, key):
                answer = await client.get(path, headers={"authorization": f"Bearer {key}"})
                return answer.raise_for_status().json()

            # One task for all of them: as requests of one connection may begin in one another's context.
            for _ in range(2):
                for tenant_id, key in made:
                    assert await ask("/api/v1/careless", key) == [tenant_id]
                everybody = await ask("/api/v1/careless/all", platform.admin_token)
                assert sorted(everybody) == sorted(tenant_id for tenant_id, _ in made)
    finally:
        await platform.stop()
