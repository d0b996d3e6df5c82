"""A gateway over real books in a process of its own, and many customers who hang up at random.

    python walkers.py DATA_DIR DELIVERED SEED COUNT [DATABASE_URL]

Walks COUNT requests, eight at a time. Of each that ended it appends `event_id tokens` to the file DELIVERED:
the tokens that were handed out, whether the customer stayed or left. It may be killed at any moment, and
started again on the same directory. Says its resident memory in bytes fifty times on the way.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

import structlog

from tritium_platform.adapters.metrics import Metrics
from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
from tritium_platform.adapters.sql.billing_store import SqlPriceStore
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.fairuse_store import SqlFairUseStore
from tritium_platform.adapters.sql.health_store import SqlOutcomeStore
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.adapters.sql.migrate import migrate
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.adapters.sql.settling import open_journal
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.books import Books
from tritium_platform.gateway import Gateway
from tritium_platform.insight.health import HealthService
from tritium_platform.metering.model import OperationType, UsageQuantities
from tritium_platform.metering.service import MeteringService
from tritium_platform.quotas.enforcement import FairUseMode, FairUseService
from tritium_platform.quotas.service import QuotaService
from tritium_platform.serving.model import Consumption, Outcome
from tritium_platform.tenancy.model import Scope, TenantTier
from tritium_platform.tenancy.service import TenancyService
from tritium_platform.values import SystemClock

AT_ONCE = 8
RESERVATION_SECONDS = 2.0
UNLIMITED = {
    "requests_per_minute": 10**9,
    "tokens_per_minute": 10**12,
    "max_concurrent_requests": 10**6,
    "monthly_quota": 10**7,
}


class Words:
    """Work that gives a number of tokens, one by one."""

    scope = Scope.INFERENCE
    operation = OperationType.COMPLETION
    model = "m"
    subject = ResourceIdentifier("deployment", "d")

    def __init__(self, tokens):
        self._tokens = tokens
        self._given = 0

    async def admit(self, context):
        return self._tokens

    async def execute(self):
        for _ in range(self._tokens):
            await asyncio.sleep(0)
            self._given += 1
            yield self._given

    def is_last(self, piece):
        return piece == self._tokens

    def release(self):
        pass

    def consumed(self, outcome):
        quantities = UsageQuantities(input_tokens=1, output_tokens=self._given)
        return Consumption(quantities=quantities, tokens=self._given + 1)


async def open_gateway(data_dir, url=None):
    """Return a gateway with a spool, over SQLite unless a URL is given, and the key of its tenant."""
    url, clock = url or f"sqlite+aiosqlite:///{data_dir / 'tritium.sqlite3'}", SystemClock()
    key_file = data_dir / "key"
    if not key_file.exists():
        migrate(url)
    database = Database(url)
    tenancy = TenancyService(store=SqlTenantStore(database), pepper=bytes(32), clock=clock)
    journal = await open_journal(data_dir / "spool", database=database, clock=clock)
    usage, outbox = SqlUsageStore(database), SqlAuditOutbox(database)
    billing = BillingService(prices=SqlPriceStore(database), clock=clock)
    await billing.publish_prices(default_price_version())
    books = Books(
        unit_of_work=database.unit_of_work,
        quotas=QuotaService(
            store=SqlReservationStore(database), clock=clock, reservation_seconds=RESERVATION_SECONDS
        ),
        fair_use=FairUseService(
            store=SqlFairUseStore(database),
            activity=usage,
            tenants=tenancy,
            trail=outbox,
            unit_of_work=database.unit_of_work,
            clock=clock,
            mode=FairUseMode.DRY_RUN,
        ),
        metering=MeteringService(store=usage),
        billing=billing,
        outbox=outbox,
        audit=None,
        health=HealthService(store=SqlOutcomeStore(database), clock=clock),
        telemetry=Metrics(),
        clock=clock,
        journal=journal,
    )
    if not key_file.exists():
        tenant = await tenancy.create_tenant(
            organization_name="Acme", tier=TenantTier.BUSINESS, limit_overrides=UNLIMITED
        )
        _, key = await tenancy.create_key(tenant.id, name="k")
        key_file.with_suffix(".new").write_text(key)
        key_file.with_suffix(".new").rename(key_file)
    return Gateway(tenancy=tenancy, books=books), books, database, key_file.read_text()


async def walk_one(gateway, key, chance, delivered):
    """Walk one request; stay to the end, or leave after some tokens."""
    work = Words(chance.randint(1, 12))
    passage = await gateway.process_customer_request(work, token=key, request_id="r")
    tokens, leaves_after = 0, chance.randint(0, 12) if chance.random() < 0.4 else None
    async for _ in passage:
        tokens += 1
        if tokens == leaves_after:
            break
    await passage.aclose()
    event_id = passage.recorded_id(Outcome.SUCCESS, is_counted=True).hex
    os.write(delivered, f"{event_id} {tokens}\n".encode())


def say(word):
    """Tell whoever started this."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def main():
    """Read the arguments, walk, and end properly."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    data_dir, delivered, seed, count, *url = sys.argv[1:]
    gateway, books, database, key = await open_gateway(Path(data_dir), *url)
    log = os.open(delivered, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    chance, left = random.Random(seed), int(count)
    say("ready")
    samples = max(AT_ONCE, int(count) // 50)

    async def walk():
        nonlocal left
        while left > 0:
            left -= 1
            await walk_one(gateway, key, chance, log)
            if left % samples == 0:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                say(pages * os.sysconf("SC_PAGE_SIZE"))

    async def sweep():
        while True:
            await asyncio.sleep(1)
            await books.quotas.sweep()

    sweeping = asyncio.create_task(sweep())
    await asyncio.gather(*(walk() for _ in range(AT_ONCE)))
    sweeping.cancel()
    await gateway.close()
    await books.journal.close()
    await books.quotas.close()
    await books.quotas.sweep()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main())
