"""What the books cost a request: authentication, reservation, and the transaction that settles it.

    python benchmarks/books.py DATABASE_URL [--requests N]

DATABASE_URL names an empty database: sqlite+aiosqlite:///PATH or postgresql+psycopg://... . Requests run one
after the other; every figure is of this one process and includes the commits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import TYPE_CHECKING

from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.adapters.sql.migrate import migrate
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
from tritium_platform.audit.model import ActionOutcome, AuditIntent, ResourceIdentifier
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.metering.service import MeteringService
from tritium_platform.quotas.service import QuotaService
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.tenancy.service import TenancyService
from tritium_platform.values import SystemClock, uuid7

if TYPE_CHECKING:
    from tritium_platform.tenancy.model import TenantContext

CLOCK = SystemClock()
LOOKUPS = 50_000


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50_ms": round(1000 * ordered[len(ordered) // 2], 3),
        "p99_ms": round(1000 * ordered[len(ordered) * 99 // 100], 3),
    }


def record_of(context: TenantContext, *, number: int) -> UsageRecord:
    """Return what a chat request leaves behind."""
    return UsageRecord(
        id=uuid7(CLOCK),
        tenant_id=context.tenant_id,
        source="benchmark",
        event_id=str(number),
        operation=OperationType.CHAT,
        tier=context.tier,
        outcome="success",
        occurred_at=CLOCK.now(),
        quantities=UsageQuantities(input_tokens=20, output_tokens=100),
        resources=ResourceUsage(compute_time_ms=900),
    )


def intent_of(context: TenantContext) -> AuditIntent:
    """Return what the audit log is told of it."""
    return AuditIntent(
        id=uuid7(CLOCK),
        event_id=uuid7(CLOCK),
        occurred_at=CLOCK.now(),
        action="chat.success",
        resource_affected=ResourceIdentifier("model", "small"),
        outcome=ActionOutcome.SUCCESS,
        tenant_id=context.tenant_id,
        key_id=context.key_id,
    )


async def measure(database: Database, *, requests: int) -> dict[str, object]:
    """Measure all three."""
    tenancy = TenancyService(store=SqlTenantStore(database), pepper=bytes(32), clock=CLOCK)
    quotas = QuotaService(store=SqlReservationStore(database), clock=CLOCK)
    metering, outbox = MeteringService(store=SqlUsageStore(database)), SqlAuditOutbox(database)
    tenant = await tenancy.create_tenant(organization_name="benchmark", tier=TenantTier.BUSINESS)
    _, token = await tenancy.create_key(tenant.id, name="benchmark")
    context = await tenancy.authenticate_request(token)
    start = time.perf_counter()
    for _ in range(LOOKUPS):
        await tenancy.authenticate_request(token)
    lookups = LOOKUPS / (time.perf_counter() - start)
    reserving, settling = [], []
    for number in range(requests):
        start = time.perf_counter()
        admission = await quotas.reserve(context, tokens=120)
        reserved = time.perf_counter()
        async with database.unit_of_work():
            await quotas.settle(context, admission=admission, tokens=120)
            await metering.record(record_of(context, number=number))
            await outbox.add(intent_of(context))
        reserving.append(reserved - start)
        settling.append(time.perf_counter() - reserved)
    return {
        "authentications_per_second_cached": round(lookups),
        "reserve": percentiles(reserving),
        "settle_record_and_outbox": percentiles(settling),
    }


async def main() -> None:
    """Read the arguments, migrate, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("database_url")
    parser.add_argument("--requests", type=int, default=1000)
    arguments = parser.parse_args()
    await asyncio.to_thread(migrate, arguments.database_url)
    database = Database(arguments.database_url)
    print(json.dumps(await measure(database, requests=arguments.requests), indent=2))
    await database.close()


if __name__ == "__main__":
    asyncio.run(main())
