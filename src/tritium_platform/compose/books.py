"""Wires what is written down: usage, quotas, prices, audit log, fair use."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from tritium_platform.adapters.bookkeeper_process import BookkeeperProcess
from tritium_platform.adapters.sql.billing_store import SqlPriceStore
from tritium_platform.adapters.sql.fairuse_store import SqlFairUseStore
from tritium_platform.adapters.sql.health_store import SqlOutcomeStore
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.adapters.sql.settling import open_journal
from tritium_platform.adapters.sql.spend_store import SqlSpendStore
from tritium_platform.audit.identity import identify
from tritium_platform.audit.log import AuditLog, lock_for_writing
from tritium_platform.audit.note import NoteSigner
from tritium_platform.audit.service import AuditService
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.party import Party, Seller
from tritium_platform.billing.pricing import default_price_version, parse_price_list
from tritium_platform.books import Books
from tritium_platform.errors import ResourceError, ValidationError
from tritium_platform.insight.health import HealthService
from tritium_platform.metering.service import MeteringService
from tritium_platform.quotas.enforcement import FairUseMode, FairUseService
from tritium_platform.quotas.service import QuotaService
from tritium_platform.quotas.spending import SpendService
from tritium_platform.tenancy.model import TenantStatus

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from tritium_platform.adapters.metrics import Metrics
    from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
    from tritium_platform.adapters.sql.audit_owner import SqlAuditOwner
    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
    from tritium_platform.adapters.stripe import StripeProvider
    from tritium_platform.billing.dunning import Suspend
    from tritium_platform.billing.model import PriceVersion
    from tritium_platform.config import PlatformConfig
    from tritium_platform.quotas.limiter import Limiter
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
    audit: AuditService | BookkeeperProcess | None,
    metrics: Metrics,
    clock: Clock,
    limiter: Limiter,
    spool: Path | None,
) -> Books:
    """Return the gateway's books; `spool` is where a server keeps its journal."""
    journal = None
    if spool is not None:
        store = audit if isinstance(audit, BookkeeperProcess) else None
        journal = await open_journal(spool, database=database, clock=clock, store=store)
    metering = MeteringService(store=SqlUsageStore(database))
    billing = BillingService(prices=SqlPriceStore(database), clock=clock)
    await billing.publish_prices(price_version(config))
    return Books(
        unit_of_work=database.unit_of_work,
        quotas=QuotaService(
            store=SqlReservationStore(database),
            clock=clock,
            limiter=limiter,
            reservation_seconds=config.reservation_seconds,
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
    config: PlatformConfig,
    *,
    clock: Clock,
    outbox: SqlAuditOutbox,
    owner: SqlAuditOwner,
    attempts: int,
    is_required: bool,
    is_apart: bool,
) -> AuditService | BookkeeperProcess | None:
    """Open the audit log, in a process of its own if asked for.

    None if another process writes it, or if the database has another log: that one empties the outbox for us.

    Raises:
        ResourceError: it is required, and the database has another log.
    """
    for attempt in range(attempts):
        if attempt:  # a command that runs beside holds it for a moment
            await asyncio.sleep(AUDIT_PAUSE_SECONDS)
        try:
            lock = lock_for_writing(config.audit_dir)
        except ResourceError:
            continue
        if not await _is_the_log(config, lock=lock, owner=owner, is_required=is_required):
            return None
        if not is_apart:
            log = AuditLog.open(config.audit_dir, signer=note_signer(config), clock=clock, lock=lock)
            return AuditService(log, outbox=outbox)
        bookkeeper = BookkeeperProcess(config, lock=lock)
        try:
            await bookkeeper.start()
        except BaseException:
            await bookkeeper.close()
            raise
        return bookkeeper
    return None


async def _is_the_log(config: PlatformConfig, *, lock: int, owner: SqlAuditOwner, is_required: bool) -> bool:
    """Tell whether what happens in the database goes into our log; the first one that asks has it.

    The lock is closed unless it does.
    """
    try:
        ours = identify(config.audit_dir)
        theirs = await owner.bind(ours)
        if is_required and theirs.id != ours.id:
            raise ResourceError(
                f"This database writes its audit log in another data directory: {theirs.directory} "
                f"(log {theirs.id}), and a database has one log. Start the server there, and more gateways "
                "beside it with `tritiumd gateway`; or give this one a database of its own. If that log is "
                "lost, stop every server and run here "
                f"`tritiumd audit adopt --instead-of {theirs.id}`.",
                directory=theirs.directory,
            )
    except BaseException:
        os.close(lock)
        raise
    if theirs.id != ours.id:
        os.close(lock)
    return theirs.id == ours.id


def open_stripe(config: PlatformConfig, *, clock: Clock) -> StripeProvider | None:
    """Return the payment provider Stripe, if it is configured; MissingExtraError if its SDK is not there."""
    if config.stripe_secret_key is None:
        return None
    from tritium_platform.adapters.stripe import StripeProvider  # noqa: PLC0415 - an extra of its own

    return StripeProvider(
        secret_key=config.stripe_secret_key,
        webhook_secret=config.stripe_webhook_secret,
        clock=clock,
        api_base=config.stripe_api_base,
    )


def suspension(tenants: SqlTenantStore) -> Suspend:
    """Return what closes a tenant's account by rule."""

    async def suspend(tenant_id: UUID) -> None:
        tenant = await tenants.get_tenant(tenant_id)
        if tenant is not None:
            await tenants.update_tenant(replace(tenant, status=TenantStatus.SUSPENDED))

    return suspend


def note_signer(config: PlatformConfig) -> NoteSigner:
    """Return what signs the audit log and invoices."""
    return NoteSigner.from_seed(config.audit_origin, seed=config.signing_key_seed())


def seller_of(config: PlatformConfig) -> Seller | None:
    """Return who issues invoices; None if the configuration names nobody.

    Raises:
        ValidationError: something of it cannot stand on an invoice.
    """
    told = config.seller.model_dump()
    if not told["name"]:
        if any(told.values()):
            raise ValidationError("seller.name is missing.", field="seller.name")
        return None
    party = Party(
        **{name: told.pop(name) for name in ("name", "street", "post_code", "city", "country", "email")}
    )
    return Seller(party=party, **told)


def price_version(config: PlatformConfig) -> PriceVersion:
    """Return the price list of the configuration, or the default; ValidationError if it cannot be read."""
    listed = config.price_list
    if not listed.prices:
        return default_price_version()
    return parse_price_list(
        listed.prices, included=listed.included, currency=listed.currency, valid_from=listed.valid_from
    )
