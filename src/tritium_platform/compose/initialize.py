"""From a configuration to a platform."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tritium_platform.adapters.invoice_printer import InvoicePrinter
from tritium_platform.adapters.job_queue import DbosJobQueue
from tritium_platform.adapters.metrics import Metrics
from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
from tritium_platform.adapters.sql.audit_owner import SqlAuditOwner
from tritium_platform.adapters.sql.batch_store import SqlBatchStore
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.job_store import SqlJobStore
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.adapters.sql.migrate import migrate
from tritium_platform.adapters.sql.model_store import SqlModelStore
from tritium_platform.adapters.sql.money import open_sql_desk
from tritium_platform.adapters.sql.row_security import warn_if_privileged
from tritium_platform.adapters.trace_analyst import ProcessTraceAnalyst
from tritium_platform.compose.books import (
    note_signer,
    open_audit,
    open_books,
    open_fair_use,
    open_spending,
    open_stripe,
    price_version,
    seller_of,
)
from tritium_platform.compose.customers import open_security, open_tenancy, tier_limits
from tritium_platform.compose.events import open_event_replay, open_event_writer, open_ingestion
from tritium_platform.compose.gateways import open_limiter, open_neighbours, require_server, spool_of
from tritium_platform.compose.insight import open_analytics, open_scores
from tritium_platform.compose.models import open_serving
from tritium_platform.compose.platform import Platform
from tritium_platform.compose.reconciliation import open_reconciliation
from tritium_platform.compose.storage import batch_work, open_files, open_idempotency
from tritium_platform.errors import ResourceError, ValidationError
from tritium_platform.gateway import Gateway
from tritium_platform.insight.prediction import PredictionService
from tritium_platform.insight.recommendations import RecommendationService
from tritium_platform.quotas.eventrate import EventRate
from tritium_platform.secret_files import admin_key
from tritium_platform.serving.batches import BatchService
from tritium_platform.serving.quantization import QuantizationService
from tritium_platform.serving.registry import RegistryService
from tritium_platform.serving.uploads import UploadService
from tritium_platform.values import SystemClock

if TYPE_CHECKING:
    from tritium_platform.adapters.neighbours import Neighbours
    from tritium_platform.audit.note import NoteSigner
    from tritium_platform.books import Books
    from tritium_platform.config import PlatformConfig
    from tritium_platform.metering.ingestion import Ingestion
    from tritium_platform.quotas.enforcement import FairUseService
    from tritium_platform.quotas.spending import SpendService
    from tritium_platform.serving.replica import ReplicaLauncher
    from tritium_platform.tenancy.service import TenancyService
    from tritium_platform.values import Clock

AUDIT_ATTEMPTS = 20


def problems_of(config: PlatformConfig) -> list[str]:
    """Return what would stop a platform from starting, one sentence each; empty if nothing would."""
    problems = config.check()
    for read in (tier_limits, price_version, seller_of):
        try:
            read(config)
        except ValidationError as error:
            problems.append(error.message)
    return problems


async def initialize_platform(
    config: PlatformConfig,
    *,
    clock: Clock | None = None,
    launch: ReplicaLauncher | None = None,
    is_audit_required: bool = False,
    is_beside_server: bool = False,
    is_bookkeeper_apart: bool = False,
) -> Platform:
    """Wire a platform: directories, secrets, database at the newest schema, services. Nothing runs yet.

    Args:
        config: the configuration.
        clock: the time; the machine's unless a test owns it.
        launch: makes engine replicas; child processes unless a test brings its own.
        is_audit_required: a server must own the audit log; a command beside a server leaves it to the server.
        is_beside_server: it is one more gateway of a server that runs on the data directory.
        is_bookkeeper_apart: the books and the audit log are written by a process of their own, beside the one
            that answers requests; otherwise by this one.

    Raises:
        ResourceError: the audit log is required, and another server writes it or the database has another.
        ValidationError: the configuration cannot work; the message says what to change.
    """
    clock = clock or SystemClock()
    database = await _open_database(config, is_beside_server=is_beside_server)
    signer = note_signer(config)
    outbox = SqlAuditOutbox(database)
    try:
        audit = await open_audit(
            config,
            clock=clock,
            outbox=outbox,
            owner=SqlAuditOwner(database, clock=clock),
            attempts=0 if is_beside_server else AUDIT_ATTEMPTS if is_audit_required else 1,
            is_required=is_audit_required,
            is_apart=is_bookkeeper_apart,
        )
        if audit is None and is_audit_required:
            raise ResourceError("Another server runs on this data directory: stop it first.")
    except BaseException:
        await database.close()
        raise
    is_server = audit is not None or is_beside_server
    limiter = open_limiter(config, is_server=is_server)
    metrics = Metrics()
    tenancy = open_tenancy(config, database=database, clock=clock)
    fair_use = open_fair_use(config, database=database, tenancy=tenancy, outbox=outbox, clock=clock)
    spending = open_spending(config, database=database, outbox=outbox, clock=clock)
    spool = spool_of(config, limiter=limiter, is_owner=audit is not None) if is_server else None
    books = await open_books(
        config,
        database=database,
        fair_use=fair_use,
        spending=spending,
        outbox=outbox,
        audit=audit,
        metrics=metrics,
        clock=clock,
        limiter=limiter,
        spool=spool,
    )
    writer = open_event_writer(database, outbox=outbox, spending=spending, prices=books.billing, clock=clock)
    replay = open_event_replay(
        database, writer=writer, outbox=outbox, spending=spending, metrics=metrics, clock=clock
    )
    return _assemble(
        config,
        clock=clock,
        database=database,
        tenancy=tenancy,
        fair_use=fair_use,
        spending=spending,
        books=books,
        ingestion=await open_ingestion(
            config, writer=writer, replay=replay, spool=spool, metrics=metrics, clock=clock
        ),
        event_rate=EventRate(limiter=limiter, clock=clock),
        metrics=metrics,
        signer=signer,
        launch=launch,
        neighbours=open_neighbours(
            config, limiter=limiter, database=database, replay=replay, metrics=metrics, clock=clock
        ),
    )


async def _open_database(config: PlatformConfig, *, is_beside_server: bool) -> Database:
    """Refuse what cannot work, make the data directory, and bring the database to the newest schema."""
    problems = problems_of(config)
    if problems:
        raise ValidationError(" ".join(problems))
    if is_beside_server:
        require_server(config)
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_beside_server:  # the server has done it
        await asyncio.to_thread(migrate, config.resolved_database_url)
    database = Database(config.resolved_database_url)
    if not is_beside_server:
        await warn_if_privileged(database)
    return database


def _assemble(
    config: PlatformConfig,
    *,
    clock: Clock,
    database: Database,
    tenancy: TenancyService,
    fair_use: FairUseService,
    spending: SpendService,
    books: Books,
    ingestion: Ingestion,
    event_rate: EventRate,
    metrics: Metrics,
    signer: NoteSigner,
    launch: ReplicaLauncher | None,
    neighbours: Neighbours | None,
) -> Platform:
    registry = RegistryService(store=SqlModelStore(database), roots=config.model_roots, clock=clock)
    uploads = UploadService(
        directory=config.uploads_dir, limit=config.max_upload_bytes, quotas=books.quotas, clock=clock
    )
    batches = SqlBatchStore(database)
    files = open_files(config, database=database, batches=batches, books=books)
    job_queue = DbosJobQueue(system_database_url=config.jobs_database_url)
    stripe = open_stripe(config, clock=clock)
    serving = open_serving(config, database=database, registry=registry, launch=launch, clock=clock)
    security = open_security(database, tenancy=tenancy, outbox=books.outbox, clock=clock)
    desk = open_sql_desk(
        database,
        prices=books.billing,
        tenants=tenancy,
        signer=signer,
        clock=clock,
        grace_days=config.invoice_grace_days,
        seller=seller_of(config),
        providers=[stripe] if stripe else [],
    )
    return Platform(
        config=config,
        clock=clock,
        database=database,
        admin_token=admin_key(config.admin_key_file),
        verifier_key=signer.verifier.vkey,
        tenancy=tenancy,
        security=security,
        books=books,
        ingestion=ingestion,
        event_rate=event_rate,
        desk=desk,
        printer=InvoicePrinter(fonts=config.invoice_fonts),
        stripe=stripe,
        reconciliation=open_reconciliation(database, desk=desk, security=security),
        fair_use=fair_use,
        spending=spending,
        predictions=PredictionService(tokens=SqlUsageStore(database), clock=clock),
        scores=open_scores(database, tenants=tenancy, clock=clock),
        analytics=open_analytics(database, prices=books.billing, clock=clock),
        registry=registry,
        uploads=uploads,
        files=files,
        batches=BatchService(store=batches, files=files, clock=clock),
        batch_work=batch_work(batches, files=files, tenancy=tenancy, books=books),
        quantizations=QuantizationService(
            jobs=SqlJobStore(database),
            queue=job_queue,
            uploads=uploads,
            registry=registry,
            quotas=books.quotas,
            spending=spending,
            prices=books.billing,
            unit_of_work=database.unit_of_work,
            models_dir=config.models_dir,
            clock=clock,
        ),
        job_queue=job_queue,
        aliases=serving.aliases,
        deployments=serving.deployments,
        residency=serving.residency,
        swaps=serving.swaps,
        inference=serving.inference,
        idempotency=open_idempotency(config, database=database, clock=clock),
        gateway=Gateway(tenancy=tenancy, books=books),
        recommendations=RecommendationService(ProcessTraceAnalyst(config.traces_dir)),
        metrics=metrics,
        neighbours=neighbours,
    )
