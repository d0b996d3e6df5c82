"""A wired platform: what runs in it, and how it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from tritium_platform.errors import BitNetServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from tritium_platform.adapters.invoice_printer import InvoicePrinter
    from tritium_platform.adapters.job_queue import DbosJobQueue
    from tritium_platform.adapters.metrics import Metrics
    from tritium_platform.adapters.neighbours import Neighbours
    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.adapters.stripe import StripeProvider
    from tritium_platform.billing.desk import BillingDesk
    from tritium_platform.billing.reconciliation.service import ReconciliationService
    from tritium_platform.books import Books
    from tritium_platform.config import PlatformConfig
    from tritium_platform.gateway import Gateway
    from tritium_platform.insight.analytics import AnalyticsService
    from tritium_platform.insight.prediction import PredictionService
    from tritium_platform.insight.recommendations import RecommendationService
    from tritium_platform.insight.scores import ScoreService
    from tritium_platform.metering.ingestion import Ingestion
    from tritium_platform.quotas.enforcement import FairUseService
    from tritium_platform.quotas.eventrate import EventRate
    from tritium_platform.quotas.spending import SpendService
    from tritium_platform.security.service import SecurityService
    from tritium_platform.serving.aliases import AliasService
    from tritium_platform.serving.batch_work import BatchWork
    from tritium_platform.serving.batches import BatchService
    from tritium_platform.serving.deployments import DeploymentService
    from tritium_platform.serving.files import FileService
    from tritium_platform.serving.idempotency import IdempotencyService
    from tritium_platform.serving.inference import InferenceService
    from tritium_platform.serving.quantization import QuantizationService
    from tritium_platform.serving.registry import RegistryService
    from tritium_platform.serving.residency import Residency
    from tritium_platform.serving.swapping import SwapService
    from tritium_platform.serving.uploads import UploadService
    from tritium_platform.tenancy.service import TenancyService
    from tritium_platform.values import Clock

    Work = Callable[[], Coroutine[None, None, object]]

_log = structlog.get_logger(__name__)
SWEEP_SECONDS = 5.0
FOLLOW_SECONDS = 1.0
FAIR_USE_SECONDS = 60.0
FORECAST_SECONDS = 300.0
RECONCILED_SECONDS = 60.0


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
    ingestion: Ingestion
    event_rate: EventRate
    desk: BillingDesk
    printer: InvoicePrinter
    stripe: StripeProvider | None
    reconciliation: ReconciliationService
    fair_use: FairUseService
    spending: SpendService
    predictions: PredictionService
    scores: ScoreService
    analytics: AnalyticsService
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
    neighbours: Neighbours | None = None
    is_ready: bool = False
    _loops: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Log what a crash left in the outbox, start every deployment, and begin the background work."""
        await self._recover_audit()
        if self.books.audit is not None:  # who owns the audit log owns the data directory
            await self._adopt_spools()
            if self.neighbours is None or not self.neighbours.are_there():  # else some may be on their way
                await asyncio.to_thread(self.uploads.clean)
                await self.files.clean()
        await self.aliases.load()
        await self.fair_use.refresh()
        await self.spending.refresh()
        await self.deployments.start_all()
        self._loops = [
            asyncio.create_task(_every(seconds, work), name=work.__qualname__)
            for seconds, work in self._background()
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
        await self.ingestion.close()
        if self.books.journal is not None:
            await self.books.journal.close()
        with contextlib.suppress(BitNetServiceError):  # what was leased comes back when it expires
            await self.books.quotas.close()
        if self.books.audit is not None:
            with contextlib.suppress(BitNetServiceError):
                await self.books.audit.recover()
            await self.books.audit.close()
        await self.database.close()

    def _background(self) -> Iterator[tuple[float, Work]]:
        """Yield what runs again and again, each in a loop of its own: a failure keeps nothing else back."""
        yield SWEEP_SECONDS, self._sweep_quotas
        yield SWEEP_SECONDS, self.idempotency.sweep
        yield SWEEP_SECONDS, self.fair_use.refresh
        yield SWEEP_SECONDS, self.spending.refresh
        yield 1.0, self.residency.trim
        yield 1.0, self._empty_outbox
        yield FORECAST_SECONDS, self._forecast
        yield RECONCILED_SECONDS, self._show_reconciled
        if self.books.audit is not None:  # one server decides, the others follow what is written
            yield FAIR_USE_SECONDS, self.fair_use.enforce
        if self.books.audit is not None and self.neighbours is not None:
            yield SWEEP_SECONDS, self._adopt_spools
        if self.neighbours is not None:
            yield FOLLOW_SECONDS, self._follow

    async def _sweep_quotas(self) -> None:
        expired = await self.books.quotas.sweep()
        if expired:
            _log.warning("reservations_expired", count=len(expired))

    async def _adopt_spools(self) -> None:
        if self.neighbours is not None:
            await self.neighbours.adopt_spools()

    async def _follow(self) -> None:
        """Take up what other gateways have deployed, swapped, deleted, named or capped."""
        await self.spending.refresh()
        await self.aliases.load()
        await self.deployments.follow()

    async def _forecast(self) -> None:
        self.metrics.foreseen(await self.predictions.refresh())

    async def _show_reconciled(self) -> None:
        for run in await self.reconciliation.recent(limit=1):  # the worker's, or that of a command
            self.metrics.reconciled(run)

    async def _recover_audit(self) -> None:
        if self.books.audit is not None:
            await self.books.audit.recover()

    async def _empty_outbox(self) -> None:
        self.gateway.log_soon()  # what other processes have left there


async def _every(seconds: float, work: Work) -> None:
    """Do background work for ever; one failure is logged and does not end it."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except BitNetServiceError as error:
            _log.warning(
                "background_work_failed", work=work.__qualname__, code=error.code, reason=error.message
            )
        except Exception:  # noqa: BLE001 - one fault of the work must not end all that would follow
            _log.exception("background_work_failed", work=work.__qualname__)
