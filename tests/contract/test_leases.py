"""Leases of several gateways over one real database: together they admit the quota, and not one more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.errors import QuotaExceededError
from tritium_platform.quotas.model import QuotaCounter, QuotaMeter
from tritium_platform.quotas.service import QuotaService
from tritium_platform.tenancy.model import ALL_SCOPES, TIER_LIMITS, TenantContext, TenantTier, override_limits
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from tritium_platform.adapters.memory.clock import ManualClock

LIMIT = 400
LIMITS = {
    "monthly_quota": LIMIT,
    "requests_per_minute": 10**6,
    "tokens_per_minute": 10**9,
    "max_concurrent_requests": 10**6,
}


async def test_several_gateways_admit_the_quota_together_and_not_one_more(
    sql_url: str, clock: ManualClock
) -> None:
    databases = [Database(sql_url, pool_size=3) for _ in range(3)]
    gateways = [QuotaService(store=SqlReservationStore(each), clock=clock) for each in databases]
    limits = override_limits(TIER_LIMITS[TenantTier.DEVELOPER], LIMITS)
    caller = TenantContext(uuid7(clock), "Ada", TenantTier.DEVELOPER, limits, "abcDEF012345", ALL_SCOPES)

    async def admit_all_it_can(gateway: QuotaService) -> int:
        admitted = 0
        while True:
            try:
                admitted += len(await gateway.admit_all(caller, tokens=[0]))
            except QuotaExceededError:
                return admitted

    try:
        admitted = sum(await asyncio.gather(*(admit_all_it_can(gateway) for gateway in gateways)))
        assert admitted <= LIMIT
        # What one was refused while it lay in the lease of another is there when that one gives it back.
        for gateway in gateways:
            await gateway.close()
        admitted += await admit_all_it_can(gateways[0])
        assert admitted == LIMIT
        counter = await SqlReservationStore(databases[0]).counter(
            caller.tenant_id, meter=QuotaMeter.REQUESTS, period="2026-11"
        )
        assert counter == QuotaCounter(LIMIT, 0, LIMIT)
    finally:
        for database in databases:
            await database.close()
