"""Wires what is written down: usage, quotas, prices, audit log, fair use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tritium_platform.adapters.sql.billing_store import SqlPriceStore
from tritium_platform.adapters.sql.fairuse_store import SqlFairUseStore
from tritium_platform.adapters.sql.health_store import SqlOutcomeStore
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.adapters.sql.settling import open_journal
from tritium_platform.adapters.sql.spend_store import SqlSpendStore
from tritium_platform.audit.log import AuditLog
from tritium_platform.audit.note import NoteSigner
from tritium_platform.audit.service import AuditService
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.pricing import default_price_version, parse_price_list
from tritium_platform.errors import ResourceError
from tritium_platform.gateway import Books
from tritium_platform.insight.health import HealthService
from tritium_platform.metering.service import MeteringService
from tritium_platform.quotas.enforcement import FairUseMode, FairUseService
from tritium_platform.quotas.service import QuotaService
from tritium_platform.quotas.spending import SpendService

if TYPE_CHECKING:
    from tritium_platform.adapters.metrics import Metrics
    from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.billing.model import PriceVersion
    from tritium_platform.config import PlatformConfig
    from tritium_platform.tenancy.service import TenancyService
    from tritium_platform.values import Clock

AUDIT_PAUSE_SECONDS = 0.25


async def open_books(
    config: PlatformConfig,
    *,
    database: Database,
    fair_use: FairUseService,
    spending: SpendService,
    outbox: SqlAuditOutbox,
    audit: AuditService | None,
    metrics: Metrics,
    clock: Clock,
) -> Books:
    """Return the gateway's books; who owns the audit log has a journal, too."""
    # Who owns the audit log owns the data directory, and with it the spool.
    journal = None if audit is None else await open_journal(config.spool_dir, database=database, clock=clock)
    metering = MeteringService(store=SqlUsageStore(database))
    billing = BillingService(prices=SqlPriceStore(database), clock=clock)
    await billing.publish_prices(price_version(config))
    return Books(
        unit_of_work=database.unit_of_work,
        quotas=QuotaService(
            store=SqlReservationStore(database), clock=clock, reservation_seconds=config.reservation_seconds
        ),
        fair_use=fair_use,
        metering=metering,
        billing=billing,
        outbox=outbox,
        audit=audit,
        health=HealthService(store=SqlOutcomeStore(database), clock=clock),
        telemetry=metrics,
        clock=clock,
        journal=journal,
        spending=spending,
    )


def open_spending(
    config: PlatformConfig, *, database: Database, outbox: SqlAuditOutbox, clock: Clock
) -> SpendService:
    """Return the service that holds tenants to their spend caps."""
    return SpendService(
        store=SqlSpendStore(database),
        reservations=SqlReservationStore(database),
        trail=outbox,
        unit_of_work=database.unit_of_work,
        clock=clock,
        reservation_seconds=config.reservation_seconds,
    )


def open_fair_use(
    config: PlatformConfig,
    *,
    database: Database,
    tenancy: TenancyService,
    outbox: SqlAuditOutbox,
    clock: Clock,
) -> FairUseService:
    """Return the service that holds tenants to their share."""
    return FairUseService(
        store=SqlFairUseStore(database),
        activity=SqlUsageStore(database),
        tenants=tenancy,
        trail=outbox,
        unit_of_work=database.unit_of_work,
        clock=clock,
        mode=FairUseMode(config.fair_use),
    )


async def open_audit(
    config: PlatformConfig, *, signer: NoteSigner, clock: Clock, outbox: SqlAuditOutbox, attempts: int
) -> AuditService | None:
    """Open the audit log; None if another process writes it: that one empties the outbox for us."""
    for attempt in range(attempts):
        if attempt:  # a command that runs beside holds it for a moment
            await asyncio.sleep(AUDIT_PAUSE_SECONDS)
        try:
            log = AuditLog.open(config.audit_dir, signer=signer, clock=clock)
        except ResourceError:
            continue
        return AuditService(log, outbox=outbox)
    return None


def note_signer(config: PlatformConfig) -> NoteSigner:
    """Return what signs the audit log and invoices."""
    return NoteSigner(
        config.audit_origin, private_key=Ed25519PrivateKey.from_private_bytes(config.signing_key_seed())
    )


def price_version(config: PlatformConfig) -> PriceVersion:
    """Return the price list of the configuration, or the default; ValidationError if it cannot be read."""
    listed = config.price_list
    if not listed.prices:
        return default_price_version()
    return parse_price_list(
        listed.prices, included=listed.included, currency=listed.currency, valid_from=listed.valid_from
    )
