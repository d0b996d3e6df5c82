"""The only place that wires: a configuration becomes a platform."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tritium.engine.config import EngineConfig
from tritium.model.tokenizer import Tokenizer
from tritium_platform.adapters.billing_schedule import open_schedule
from tritium_platform.adapters.engine_process import EngineOptions, EngineProcess
from tritium_platform.adapters.jobs import DbosJobQueue, QuantizationWorker
from tritium_platform.adapters.metrics import Metrics
from tritium_platform.adapters.sql.alias_store import SqlAliasStore
from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
from tritium_platform.adapters.sql.batch_store import SqlBatchStore
from tritium_platform.adapters.sql.billing_store import SqlPriceStore
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.fairuse_store import SqlFairUseStore
from tritium_platform.adapters.sql.file_store import SqlFileStore
from tritium_platform.adapters.sql.health_store import SqlOutcomeStore
from tritium_platform.adapters.sql.idempotency_store import SqlIdempotencyStore
from tritium_platform.adapters.sql.job_store import SqlJobStore
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.adapters.sql.migrate import migrate
from tritium_platform.adapters.sql.model_store import SqlDeploymentStore, SqlModelStore
from tritium_platform.adapters.sql.money import open_sql_desk
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.adapters.sql.security_store import SqlSecurityEventStore
from tritium_platform.adapters.sql.settling import open_journal
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
from tritium_platform.adapters.trace_analyst import ProcessTraceAnalyst, new_trace
from tritium_platform.audit.log import AuditLog
from tritium_platform.audit.note import NoteSigner
from tritium_platform.audit.service import AuditService
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.pricing import default_price_version, parse_price_list
from tritium_platform.config import read_or_create_secret
from tritium_platform.errors import BitNetServiceError, ResourceError, ValidationError
from tritium_platform.gateway import Books, Gateway
from tritium_platform.insight.health import HealthService
from tritium_platform.insight.prediction import PredictionService
from tritium_platform.insight.recommendations import RecommendationService
from tritium_platform.metering.service import MeteringService
from tritium_platform.quotas.enforcement import FairUseMode, FairUseService
from tritium_platform.quotas.service import QuotaService
from tritium_platform.security.service import LocalContainment, SecurityService
from tritium_platform.serving.aliases import AliasService
from tritium_platform.serving.batch_lines import LineRunner
from tritium_platform.serving.batch_output import BatchCloser
from tritium_platform.serving.batch_work import BatchWork
from tritium_platform.serving.batches import BatchService
from tritium_platform.serving.deployments import DeploymentService, ServingLimits
from tritium_platform.serving.files import FileService
from tritium_platform.serving.idempotency import IdempotencyService
from tritium_platform.serving.inference import InferenceService
from tritium_platform.serving.quantization import QuantizationService
from tritium_platform.serving.quantization_work import QuantizationWork, WorkBooks
from tritium_platform.serving.registry import RegistryService
from tritium_platform.serving.residency import Residency
from tritium_platform.serving.swapping import SwapService
from tritium_platform.serving.uploads import UploadService
from tritium_platform.tenancy.model import TIER_LIMITS, TenantTier, override_limits
from tritium_platform.tenancy.service import TenancyService
from tritium_platform.values import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from tritium_platform.billing.desk import BillingDesk
    from tritium_platform.billing.model import PriceVersion
    from tritium_platform.config import PlatformConfig
    from tritium_platform.serving.pool import ReplicaLauncher
    from tritium_platform.tenancy.model import TierLimits
    from tritium_platform.values import Clock

_log = structlog.get_logger(__name__)
ADMIN_PREFIX = "btn_admin_"
SWEEP_SECONDS = 5.0
FAIR_USE_SECONDS = 60.0
FORECAST_SECONDS = 300.0
AUDIT_ATTEMPTS = 20
AUDIT_PAUSE_SECONDS = 0.25
# Unix socket paths end at 107 bytes; the longest name we append has about 40.
_LONGEST_SOCKET_DIRECTORY = 60


@dataclass(kw_only=True)
class Platform:
    """Everything, wired. `start` brings up engines and background work; `stop` drains."""

    config: PlatformConfig
    clock: Clock
    database: Database
    admin_token: str = field(repr=False)
    verifier_key: str
    tenancy: TenancyService
    security: SecurityService
    books: Books
    desk: BillingDesk
    fair_use: FairUseService
    predictions: PredictionService
    registry: RegistryService
    uploads: UploadService
    files: FileService
    batches: BatchService
    batch_work: BatchWork
    quantizations: QuantizationService
    job_queue: DbosJobQueue
    aliases: AliasService
    deployments: DeploymentService
    residency: Residency
    swaps: SwapService
    inference: InferenceService
    idempotency: IdempotencyService
    gateway: Gateway
    recommendations: RecommendationService
    metrics: Metrics
    is_ready: bool = False
    _loops: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Log what a crash left in the outbox, start every deployment, and begin the background work."""
        await self._recover_audit()
        if self.books.audit is not None:  # who owns the audit log is the only server here
            await asyncio.to_thread(self.uploads.clean)
            await self.files.clean()
        await self.aliases.load()
        await self.fair_use.refresh()
        await self.deployments.start_all()
        self._loops = [
            asyncio.create_task(_every(SWEEP_SECONDS, self._sweep), name="sweep"),
            asyncio.create_task(_every(1.0, self.residency.trim), name="trim"),
            asyncio.create_task(_every(1.0, self._recover_audit), name="audit outbox"),
            asyncio.create_task(_every(FAIR_USE_SECONDS, self._enforce_fair_use), name="fair use"),
            asyncio.create_task(_every(FORECAST_SECONDS, self._forecast), name="forecast"),
        ]
        self.is_ready = True

    async def stop(self) -> None:
        """Finish what runs, write it down, close everything; safe to call twice."""
        self.is_ready = False
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []
        await self.deployments.shut_down()
        await self.job_queue.close()
        await self.gateway.close()
        if self.books.journal is not None:
            await self.books.journal.close()
        with contextlib.suppress(BitNetServiceError):  # what was leased comes back when it expires
            await self.books.quotas.close()
        if self.books.audit is not None:
            with contextlib.suppress(BitNetServiceError):
                await self.books.audit.recover()
            await self.books.audit.close()
        await self.database.close()

    async def _sweep(self) -> None:
        expired = await self.books.quotas.sweep()
        if expired:
            _log.warning("reservations_expired", count=len(expired))
        await self.idempotency.sweep()
        await self.fair_use.refresh()

    async def _forecast(self) -> None:
        self.metrics.foreseen(await self.predictions.refresh())

    async def _enforce_fair_use(self) -> None:
        if self.books.audit is not None:  # one server decides, the others follow what is written
            await self.fair_use.enforce()

    async def _recover_audit(self) -> None:
        if self.books.audit is not None:
            await self.books.audit.recover()


def problems_of(config: PlatformConfig) -> list[str]:
    """Return what would stop a platform from starting, one sentence each; empty if nothing would."""
    problems = config.check()
    for read in (_tier_limits, _price_version):
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
) -> Platform:
    """Wire a platform: directories, secrets, database at the newest schema, services. Nothing runs yet.

    Args:
        config: the configuration.
        clock: the time; the machine's unless a test owns it.
        launch: makes engine replicas; child processes unless a test brings its own.
        is_audit_required: a server must own the audit log; a command beside a server leaves it to the server.

    Raises:
        ResourceError: the audit log is required and another server writes it.
        ValidationError: the configuration cannot work; the message says what to change.
    """
    clock = clock or SystemClock()
    problems = problems_of(config)
    if problems:
        raise ValidationError(" ".join(problems))
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(config.resolved_database_url)
    await asyncio.to_thread(migrate, config.resolved_database_url)
    signer = _signer(config)
    outbox = SqlAuditOutbox(database)
    audit = await _open_audit(
        config, signer=signer, clock=clock, outbox=outbox, attempts=AUDIT_ATTEMPTS if is_audit_required else 1
    )
    if audit is None and is_audit_required:
        raise ResourceError("Another server runs on this data directory: stop it first.")
    metrics = Metrics()
    tenancy = _open_tenancy(config, database=database, clock=clock)
    fair_use = _open_fair_use(config, database=database, tenancy=tenancy, outbox=outbox, clock=clock)
    books = await _open_books(
        config,
        database=database,
        fair_use=fair_use,
        outbox=outbox,
        audit=audit,
        metrics=metrics,
        clock=clock,
    )
    return _assemble(
        config,
        clock=clock,
        database=database,
        tenancy=tenancy,
        fair_use=fair_use,
        books=books,
        metrics=metrics,
        signer=signer,
        launch=launch,
    )


async def _open_books(
    config: PlatformConfig,
    *,
    database: Database,
    fair_use: FairUseService,
    outbox: SqlAuditOutbox,
    audit: AuditService | None,
    metrics: Metrics,
    clock: Clock,
) -> Books:
    # Who owns the audit log owns the data directory, and with it the spool.
    journal = None if audit is None else await open_journal(config.spool_dir, database=database, clock=clock)
    metering = MeteringService(store=SqlUsageStore(database))
    billing = BillingService(prices=SqlPriceStore(database), clock=clock)
    await billing.publish_prices(_price_version(config))
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
    )


def _assemble(
    config: PlatformConfig,
    *,
    clock: Clock,
    database: Database,
    tenancy: TenancyService,
    fair_use: FairUseService,
    books: Books,
    metrics: Metrics,
    signer: NoteSigner,
    launch: ReplicaLauncher | None,
) -> Platform:
    registry = RegistryService(store=SqlModelStore(database), roots=config.model_roots, clock=clock)
    uploads = UploadService(
        directory=config.uploads_dir, limit=config.max_upload_bytes, quotas=books.quotas, clock=clock
    )
    batches = SqlBatchStore(database)
    files = _open_files(config, database=database, batches=batches, books=books)
    job_queue = DbosJobQueue(system_database_url=config.jobs_database_url)
    serving = _open_serving(config, database=database, registry=registry, launch=launch, clock=clock)
    return Platform(
        config=config,
        clock=clock,
        database=database,
        admin_token=ADMIN_PREFIX + read_or_create_secret(config.data_dir / "secrets" / "admin_key").hex(),
        verifier_key=signer.verifier.vkey,
        tenancy=tenancy,
        security=_open_security(database, tenancy=tenancy, books=books),
        books=books,
        desk=open_sql_desk(
            database,
            prices=books.billing,
            tenants=tenancy,
            signer=signer,
            clock=clock,
            grace_days=config.invoice_grace_days,
        ),
        fair_use=fair_use,
        predictions=PredictionService(tokens=SqlUsageStore(database), clock=clock),
        registry=registry,
        uploads=uploads,
        files=files,
        batches=BatchService(store=batches, files=files, clock=clock),
        batch_work=_batch_work(batches, files=files, tenancy=tenancy, books=books),
        quantizations=QuantizationService(
            jobs=SqlJobStore(database),
            queue=job_queue,
            uploads=uploads,
            registry=registry,
            quotas=books.quotas,
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
        idempotency=_open_idempotency(config, database=database, clock=clock),
        gateway=Gateway(tenancy=tenancy, books=books),
        recommendations=RecommendationService(ProcessTraceAnalyst(config.traces_dir)),
        metrics=metrics,
    )


@dataclass(frozen=True, kw_only=True)
class _Serving:
    """What keeps models in memory and runs them."""

    aliases: AliasService
    residency: Residency
    deployments: DeploymentService
    swaps: SwapService
    inference: InferenceService


def _open_serving(
    config: PlatformConfig,
    *,
    database: Database,
    registry: RegistryService,
    launch: ReplicaLauncher | None,
    clock: Clock,
) -> _Serving:
    store = SqlDeploymentStore(database)
    aliases = AliasService(store=SqlAliasStore(database), deployments=store, clock=clock)
    residency = Residency(
        budget_bytes=config.models_memory_bytes,
        load_seconds=config.model_load_seconds,
        idle_seconds=config.model_idle_seconds,
        drain_seconds=config.drain_seconds,
        clock=clock,
    )
    deployments = DeploymentService(
        store=store,
        registry=registry,
        aliases=aliases,
        residency=residency,
        launch=launch or _process_launcher(config),
        clock=clock,
        limits=ServingLimits(
            threads=config.threads_per_engine or os.cpu_count() or 1,
            memory_bytes=config.engine_memory_bytes,
            engine=_engine_limits(config),
        ),
    )
    swaps = SwapService(
        store=store,
        registry=registry,
        deployments=deployments,
        residency=residency,
        load_seconds=config.model_load_seconds,
    )
    inference = InferenceService(
        deployments=deployments, registry=registry, aliases=aliases, load_tokenizer=Tokenizer
    )
    return _Serving(
        aliases=aliases, residency=residency, deployments=deployments, swaps=swaps, inference=inference
    )


def _open_files(
    config: PlatformConfig, *, database: Database, batches: SqlBatchStore, books: Books
) -> FileService:
    return FileService(
        store=SqlFileStore(database),
        batches=batches,
        directory=config.files_dir,
        limit=config.max_file_bytes,
        quotas=books.quotas,
        clock=books.clock,
    )


def _open_idempotency(config: PlatformConfig, *, database: Database, clock: Clock) -> IdempotencyService:
    return IdempotencyService(
        store=SqlIdempotencyStore(database),
        clock=clock,
        secret=config.pepper(),
        retention_seconds=config.idempotency_seconds,
        most_keys=config.max_idempotency_keys,
    )


def _open_security(database: Database, *, tenancy: TenancyService, books: Books) -> SecurityService:
    return SecurityService(
        store=SqlSecurityEventStore(database),
        trail=books.outbox,
        containment=LocalContainment(tenancy=tenancy, clock=books.clock),
        clock=books.clock,
    )


def _open_fair_use(
    config: PlatformConfig,
    *,
    database: Database,
    tenancy: TenancyService,
    outbox: SqlAuditOutbox,
    clock: Clock,
) -> FairUseService:
    return FairUseService(
        store=SqlFairUseStore(database),
        activity=SqlUsageStore(database),
        tenants=tenancy,
        trail=outbox,
        unit_of_work=database.unit_of_work,
        clock=clock,
        mode=FairUseMode(config.fair_use),
    )


def _batch_work(
    store: SqlBatchStore, *, files: FileService, tenancy: TenancyService, books: Books
) -> BatchWork:
    return BatchWork(
        batches=store,
        files=files,
        lines=LineRunner(batches=store, quotas=books.quotas, key_holders=tenancy, clock=books.clock),
        closer=BatchCloser(
            batches=store,
            files=files,
            outbox=books.outbox,
            unit_of_work=books.unit_of_work,
            clock=books.clock,
        ),
        clock=books.clock,
    )


def _open_tenancy(config: PlatformConfig, *, database: Database, clock: Clock) -> TenancyService:
    return TenancyService(
        store=SqlTenantStore(database),
        pepper=config.pepper(),
        clock=clock,
        tier_limits=_tier_limits(config),
        cache_seconds=config.authentication_cache_seconds,
        poll_seconds=config.revocation_poll_seconds,
    )


async def initialize_worker(config: PlatformConfig, *, clock: Clock | None = None) -> QuantizationWorker:
    """Wire what does quantization jobs; the calling process launches it. The database must be migrated."""
    clock = clock or SystemClock()
    database = Database(config.resolved_database_url)
    jobs = SqlJobStore(database)
    books = WorkBooks(
        jobs=jobs,
        models=SqlModelStore(database),
        quotas=QuotaService(store=SqlReservationStore(database), clock=clock),
        metering=MeteringService(store=SqlUsageStore(database)),
        outbox=SqlAuditOutbox(database),
        unit_of_work=database.unit_of_work,
        clock=clock,
    )
    work = QuantizationWork(books=books, jobs_dir=config.jobs_dir, models_dir=config.models_dir)
    loop = asyncio.get_running_loop()
    billing = open_schedule(config, database=database, signer=_signer(config), clock=clock, loop=loop)
    return QuantizationWorker(
        system_database_url=config.jobs_database_url, work=work, jobs=jobs, billing=billing, loop=loop
    )


def _signer(config: PlatformConfig) -> NoteSigner:
    return NoteSigner(
        config.audit_origin, private_key=Ed25519PrivateKey.from_private_bytes(config.signing_key_seed())
    )


async def _open_audit(
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


def _price_version(config: PlatformConfig) -> PriceVersion:
    listed = config.price_list
    if not listed.prices:
        return default_price_version()
    return parse_price_list(
        listed.prices, included=listed.included, currency=listed.currency, valid_from=listed.valid_from
    )


def _tier_limits(config: PlatformConfig) -> Mapping[TenantTier, TierLimits]:
    unknown = set(config.tiers) - {tier.value for tier in TenantTier}
    if unknown:
        raise ValidationError(f"tiers: there is no tier {', '.join(sorted(unknown))}.", field="tiers")
    return {
        tier: override_limits(limits, config.tiers.get(tier.value, {}))
        for tier, limits in TIER_LIMITS.items()
    }


def _engine_limits(config: PlatformConfig) -> EngineConfig:
    """Return the limits of an engine: a tenant may fill half of the places to wait.

    They are as many as the highest tier has requests at a time.
    """
    return EngineConfig(
        max_running=config.engine_max_running,
        max_batched_tokens=config.engine_max_batched_tokens,
        kv_cache_bytes=config.engine_kv_cache_bytes,
        latency_seconds=config.engine_latency_seconds,
        tuning=config.engine_tuning,
        max_waiting=512,
        max_waiting_seconds=60.0,
    )


def _process_launcher(config: PlatformConfig) -> ReplicaLauncher:
    directory = _socket_directory(config.data_dir)

    def launch(*, name: str, model_path: str, threads: int, memory_limit_bytes: int) -> EngineProcess:
        options = EngineOptions(
            threads=threads,
            memory_limit_bytes=memory_limit_bytes,
            limits=_engine_limits(config),
            trace=new_trace(config.traces_dir, name) if config.engine_traces else None,
            log_level=config.log_level,
        )
        return EngineProcess(name=name, model_path=model_path, socket_directory=directory, options=options)

    return launch


def _socket_directory(data_dir: Path) -> Path:
    """Return a private directory whose path is short enough for a Unix socket."""
    directory = data_dir.absolute() / "run"
    if len(os.fsencode(directory)) > _LONGEST_SOCKET_DIRECTORY:
        return Path(tempfile.mkdtemp(prefix="tritium-"))
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


async def _every(seconds: float, work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Do background work for ever; one failure is logged and does not end it."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except BitNetServiceError as error:
            _log.warning("background_work_failed", work=work.__name__, code=error.code, reason=error.message)
        except Exception:  # noqa: BLE001 - one fault of the work must not end all that would follow
            _log.exception("background_work_failed", work=work.__name__)
