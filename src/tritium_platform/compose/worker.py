"""From a configuration to a worker beside a platform: quantizations, and what is due by the calendar."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tritium_platform.adapters.billing_schedule import open_schedules
from tritium_platform.adapters.jobs import QuantizationWorker
from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
from tritium_platform.adapters.sql.billing_store import SqlPriceStore
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.job_store import SqlJobStore
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.adapters.sql.model_store import SqlModelStore
from tritium_platform.adapters.sql.money import open_sql_desk
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
from tritium_platform.billing.dunning import DunningEnd
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.compose.books import note_signer, open_spending, open_stripe, seller_of, suspension
from tritium_platform.compose.customers import open_security, open_tenancy
from tritium_platform.compose.insight import open_scores
from tritium_platform.compose.reconciliation import open_canary, open_reconciliation
from tritium_platform.metering.service import MeteringService
from tritium_platform.quotas.service import QuotaService
from tritium_platform.serving.quantization_work import QuantizationWork, WorkBooks
from tritium_platform.values import SystemClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.adapters.durable_schedule import DurableSchedule
    from tritium_platform.config import PlatformConfig
    from tritium_platform.values import Clock


async def initialize_worker(config: PlatformConfig, *, clock: Clock | None = None) -> QuantizationWorker:
    """Wire what does quantization jobs; the calling process launches it. The database must be migrated."""
    clock = clock or SystemClock()
    database = Database(config.resolved_database_url)
    jobs = SqlJobStore(database)
    outbox = SqlAuditOutbox(database)
    books = WorkBooks(
        jobs=jobs,
        models=SqlModelStore(database),
        quotas=QuotaService(store=SqlReservationStore(database), clock=clock),
        spending=open_spending(config, database=database, outbox=outbox, clock=clock),
        prices=BillingService(prices=SqlPriceStore(database), clock=clock),
        metering=MeteringService(store=SqlUsageStore(database)),
        outbox=outbox,
        unit_of_work=database.unit_of_work,
        clock=clock,
    )
    work = QuantizationWork(books=books, jobs_dir=config.jobs_dir, models_dir=config.models_dir)
    loop = asyncio.get_running_loop()
    schedules = _schedules(config, database=database, books=books, loop=loop)
    return QuantizationWorker(
        system_database_url=config.jobs_database_url, work=work, jobs=jobs, schedules=schedules, loop=loop
    )


def _schedules(
    config: PlatformConfig,
    *,
    database: Database,
    books: WorkBooks,
    loop: asyncio.AbstractEventLoop,
) -> Sequence[DurableSchedule]:
    """Wire what a worker does by the calendar."""
    clock = books.clock
    stripe = open_stripe(config, clock=clock)
    desk = open_sql_desk(
        database,
        prices=books.prices,
        tenants=SqlTenantStore(database),
        signer=note_signer(config),
        clock=clock,
        grace_days=config.invoice_grace_days,
        seller=seller_of(config),
        providers=[stripe] if stripe else [],
        dunning_end=DunningEnd(config.dunning_end),
        suspend=suspension(SqlTenantStore(database)),
    )
    tenancy = open_tenancy(config, database=database, clock=clock)
    security = open_security(database, tenancy=tenancy, outbox=books.outbox, clock=clock)
    reconciliation = open_reconciliation(database, desk=desk, security=security)
    canary = None
    if config.canary:
        canary = open_canary(database, desk=desk, quotas=books.quotas, security=security)
    scores = open_scores(database, tenants=SqlTenantStore(database), clock=clock)
    return open_schedules(desk, reconciliation=reconciliation, scores=scores, canary=canary, loop=loop)
