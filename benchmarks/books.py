"""What the books cost a request: one by one in two transactions, and through leases and the spool.

    python benchmarks/books.py DATABASE_URL [--requests N] [--tenants 10 1000]

DATABASE_URL names an empty database: sqlite+aiosqlite:///PATH or postgresql+psycopg://... . "transactions":
requests one after the other, commits included. "admissions": many requests at once, each authenticated,
admitted from its tenant's lease, settled durably and finished; one rate is until all are durable, the other
until all are in the database. The parts are those of one request alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.adapters.sql.migrate import migrate
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.adapters.sql.settling import open_journal
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
from tritium_platform.audit.model import ActionOutcome, AuditIntent, ResourceIdentifier
from tritium_platform.insight.health import OutcomeKind
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.metering.service import MeteringService
from tritium_platform.quotas.service import QuotaService
from tritium_platform.settlement import Settlement
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.tenancy.service import TenancyService
from tritium_platform.values import SystemClock, uuid7

if TYPE_CHECKING:
    from tritium_platform.adapters.spooled_settlements import SpooledSettlements
    from tritium_platform.quotas.admission import Admission
    from tritium_platform.tenancy.model import TenantContext

CLOCK = SystemClock()
LOOKUPS = 50_000
AT_ONCE = 256
UNLIMITED = {
    "requests_per_minute": 10**9,
    "tokens_per_minute": 10**12,
    "max_concurrent_requests": 10**6,
    "monthly_quota": 10**9,
}


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50_ms": round(1000 * ordered[len(ordered) // 2], 3),
        "p99_ms": round(1000 * ordered[len(ordered) * 99 // 100], 3),
    }


def record_of(context: TenantContext, *, event_id: str) -> UsageRecord:
    """Return what a chat request leaves behind."""
    return UsageRecord(
        id=uuid7(CLOCK),
        tenant_id=context.tenant_id,
        source="benchmark",
        event_id=event_id,
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
            await metering.record(record_of(context, event_id=str(number)))
            await outbox.add(intent_of(context))
        reserving.append(reserved - start)
        settling.append(time.perf_counter() - reserved)
    return {
        "authentications_per_second_cached": round(lookups),
        "reserve": percentiles(reserving),
        "settle_record_and_outbox": percentiles(settling),
    }


class Office:
    """A gateway's books over one database, with tenants whose leases are made."""

    def __init__(self, database: Database, *, journal: SpooledSettlements) -> None:
        self.tenancy = TenancyService(
            store=SqlTenantStore(database), pepper=bytes(32), clock=CLOCK, cache_size=1 << 20
        )
        self.quotas = QuotaService(store=SqlReservationStore(database), clock=CLOCK)
        self.journal = journal
        self.tokens: list[str] = []

    async def open(self, *, tenants: int) -> None:
        """Make tenants, and walk one request of each."""
        for _ in range(tenants):
            tenant = await self.tenancy.create_tenant(
                organization_name="benchmark", tier=TenantTier.BUSINESS, limit_overrides=UNLIMITED
            )
            self.tokens.append((await self.tenancy.create_key(tenant.id, name="benchmark"))[1])
        for number in range(tenants):
            await self.walk(number)

    async def walk(self, number: int) -> None:
        """Take one request through the books."""
        context = await self.tenancy.authenticate_request(self.tokens[number % len(self.tokens)])
        (admission,) = await self.quotas.admit_all(context, tokens=[120])
        await self.journal.append(settlement_of(context, admission=admission))
        self.quotas.finish(context, admission=admission, tokens=120, is_counted=True)

    async def parts(self, *, count: int) -> dict[str, float]:
        """Return the microseconds that each part of a request takes."""
        spent = dict.fromkeys(("authenticate", "admit", "settlement", "append", "finish"), 0.0)
        for number in range(count):
            marks = [time.perf_counter()]
            context = await self.tenancy.authenticate_request(self.tokens[number % len(self.tokens)])
            marks.append(time.perf_counter())
            (admission,) = await self.quotas.admit_all(context, tokens=[120])
            marks.append(time.perf_counter())
            settlement = settlement_of(context, admission=admission)
            marks.append(time.perf_counter())
            await self.journal.append(settlement)
            marks.append(time.perf_counter())
            self.quotas.finish(context, admission=admission, tokens=120, is_counted=True)
            marks.append(time.perf_counter())
            for name, begin, end in zip(spent, marks, marks[1:], strict=False):
                spent[name] += end - begin
        return {name: round(1e6 * seconds / count, 1) for name, seconds in spent.items()}


def settlement_of(context: TenantContext, *, admission: Admission) -> Settlement:
    """Return what a chat request's end is written down as."""
    event_id = uuid7(CLOCK)
    return Settlement(
        record=record_of(context, event_id=event_id.hex),
        event_id=event_id,
        subject=ResourceIdentifier("model", "small"),
        request_id=event_id.hex,
        cost="3/250",
        code=None,
        kind=OutcomeKind.SUCCESS,
        latency_bucket=4,
        reservation_id=admission.reservation.id,
        is_leased=admission.is_leased,
        requests=1,
    )


async def admissions(database: Database, *, tenants: int, requests: int) -> dict[str, object]:
    """Measure how many requests a second go through the books, many at once."""
    with tempfile.TemporaryDirectory() as directory:
        journal = await open_journal(Path(directory), database=database, clock=CLOCK)
        office = Office(database, journal=journal)
        await office.open(tenants=tenants)
        left = iter(range(requests))

        async def client() -> None:
            for number in left:
                await office.walk(number)

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
        admitted = time.perf_counter() - started
        await journal.drained()
        settled = time.perf_counter() - started
        parts = await office.parts(count=500)
        await journal.close()
        await office.quotas.close()
        database.settle_first = None
    return {
        "admitted and durable, per second": round(requests / admitted),
        "in the database too, per second": round(requests / settled),
        "one alone, microseconds": parts,
    }


async def main() -> None:
    """Read the arguments, migrate, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("database_url")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--tenants", type=int, nargs="*", default=[10, 1000])
    arguments = parser.parse_args()
    await asyncio.to_thread(migrate, arguments.database_url)
    database = Database(arguments.database_url)
    results: dict[str, object] = {"transactions": await measure(database, requests=arguments.requests)}
    for tenants in arguments.tenants:
        results[f"admissions, {tenants} tenants"] = await admissions(
            database, tenants=tenants, requests=10 * arguments.requests
        )
    print(json.dumps(results, indent=2))
    await database.close()


if __name__ == "__main__":
    asyncio.run(main())
