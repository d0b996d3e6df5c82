"""Quantizations that tenants ask for: decided and written down here, done by a worker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import structlog

from tritium.quantize.config import QuantizationConfig
from tritium_platform.errors import ConflictError, NotFoundError, RateLimitExceededError, ValidationError
from tritium_platform.metering.model import Meter, UsageTotal
from tritium_platform.quotas.spend_cap import micro
from tritium_platform.serving import policy
from tritium_platform.serving.checkpoint_check import check_source
from tritium_platform.serving.directories import directory_bytes, remove_directory
from tritium_platform.serving.expectation import expect_quantization
from tritium_platform.serving.job import OPEN_STATES, JobState, QuantizationJob
from tritium_platform.serving.registry import require_name
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tritium_platform.billing.invoicing import BillingService
    from tritium_platform.quotas.service import QuotaService
    from tritium_platform.quotas.spending import SpendService
    from tritium_platform.serving.expectation import Expectation
    from tritium_platform.serving.job import JobLayer
    from tritium_platform.serving.model import RegisteredModel
    from tritium_platform.serving.registry import RegistryService
    from tritium_platform.serving.uploads import UploadService
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock, UnitOfWork

logger = structlog.get_logger(__name__)

# A job may wait for its turn as long as it must; what is set aside for its result waits with it.
RESERVATION_LIFETIME = timedelta(days=365)
# A ternary model is smaller than its source, except that every layer may take three planes (4.8 bits) and the
# tensors that stay dense are kept as they are.
LARGEST_GROWTH = 1.1
FILE_OVERHEAD = 1 << 20
LONGEST_SOURCE = 400
# All tenants stand in one queue: nobody fills it alone.
MAX_OPEN = 20
RETRY_SECONDS = 60
# The newest jobs, of which those that succeeded tell the pace.
PACE_OF = 100


class JobStore(Protocol):
    """Keeps quantization jobs and what became of their layers."""

    async def add(self, job: QuantizationJob) -> None:
        """Keep a new job."""

    async def get(self, job_id: UUID, *, tenant_id: UUID | None = None) -> QuantizationJob | None:
        """Return a job with its layers; None for an unknown one, and for another tenant's if one is named."""

    async def list(self, tenant_id: UUID | None = None, *, limit: int = 100) -> Sequence[QuantizationJob]:
        """Return jobs of a tenant, or of everybody, newest first, without their layers."""

    async def list_in(self, states: Collection[JobState]) -> Sequence[QuantizationJob]:
        """Return the jobs in these states, oldest first, without their layers."""

    async def move(self, job: QuantizationJob, *, expected: Collection[JobState]) -> bool:
        """Write all of a job that may change, if it is in an expected state; else return False."""

    async def record_layer(self, job_id: UUID, layer: JobLayer) -> None:
        """Keep what became of a layer; the first account of it stands."""


class JobQueue(Protocol):
    """Hands jobs to workers."""

    async def enqueue(self, job_id: UUID) -> None:
        """Let a worker do the job; doing this again is harmless."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedQuantization:
    """What a job would do: its checkpoint (`size_bytes` of files), its result's name, its configuration.

    `parameters`: how many it would quantize.
    """

    source: str
    path: str
    size_bytes: int
    parameters: int
    name: str
    config: Mapping[str, Any]


class QuantizationService:
    """Takes, shows and cancels quantization jobs."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        queue: JobQueue,
        uploads: UploadService,
        registry: RegistryService,
        quotas: QuotaService,
        spending: SpendService,
        prices: BillingService,
        unit_of_work: UnitOfWork,
        models_dir: Path,
        clock: Clock,
    ) -> None:
        self._jobs = jobs
        self._queue = queue
        self._uploads = uploads
        self._registry = registry
        self._quotas = quotas
        self._spending = spending
        self._prices = prices
        self._unit_of_work = unit_of_work
        self._models_dir = models_dir
        self._clock = clock

    async def plan(
        self, context: TenantContext, *, source: Mapping[str, Any], name: str, config: Mapping[str, Any]
    ) -> PlannedQuantization:
        """Decide what a job would do; nothing is kept or set aside yet.

        Raises:
            ValidationError: the source, the name or the configuration is not usable.
            ConflictError: the name is taken by a model or by another open job.
            RateLimitExceededError: the tenant has as many open jobs as it may have.
            ModelSizeExceededError: the checkpoint is larger than the tier takes.
        """
        require_name(name)
        settings = QuantizationConfig.from_dict(_without_paths(config))
        await self._require_room(context.tenant_id, name)
        path = self._resolve(context.tenant_id, source)
        checked = await asyncio.to_thread(check_source, path, settings)
        policy.require_model_size(checked.weight_bytes, max_model_size=context.limits.max_model_size)
        shown = ", ".join(f"{key}: {value}" for key, value in source.items())[:LONGEST_SOURCE]
        return PlannedQuantization(
            source=shown,
            path=str(path),
            size_bytes=checked.weight_bytes + checked.companion_bytes,
            parameters=checked.parameters,
            name=name,
            config=dict(config),
        )

    async def submit(self, context: TenantContext, *, planned: PlannedQuantization) -> QuantizationJob:
        """Keep a job, set aside what it costs and its result takes, and hand it to the workers.

        Raises:
            SpendCapReachedError: the tenant's spend cap does not leave what the job costs.
            StorageQuotaExceededError: the result may not fit into the tenant's storage.
        """
        job_id = uuid7(self._clock)
        reserved = int(planned.size_bytes * LARGEST_GROWTH) + FILE_OVERHEAD
        amounts = {job_id: await self._cost(context, parameters=planned.parameters)}
        spending = self._spending.holding(context, amounts=amounts, lifetime=RESERVATION_LIFETIME)
        async with spending, self._unit_of_work():
            reservation = await self._quotas.storage.reserve(
                context, size=reserved, lifetime=RESERVATION_LIFETIME
            )
            job = QuantizationJob(
                id=job_id,
                tenant_id=context.tenant_id,
                tier=context.tier,
                key_id=context.key_id,
                source=planned.source,
                source_path=planned.path,
                model_name=planned.name,
                config=planned.config,
                storage_reservation=reservation.id,
                storage_bytes=reserved,
                created_at=self._clock.now(),
            )
            await self._jobs.add(job)
        await self.enqueue(job)
        return job

    async def _cost(self, context: TenantContext, *, parameters: int) -> int:
        """Return what a job costs by the price list, in millionths of a minor unit."""
        total = UsageTotal(context.tier, Meter.QUANTIZED_PARAMETERS, parameters)
        month = CalendarMonth.of(self._clock.now())
        return micro(await self._prices.list_price([total], period=month))

    async def enqueue(self, job: QuantizationJob) -> None:
        """Hand a kept job to the workers; a failure is not the caller's: workers search for jobs, too."""
        try:
            await self._queue.enqueue(job.id)
        except Exception:  # the job is kept; the worker's search will find it
            logger.exception("quantization_enqueue_failed", job_id=str(job.id))

    async def list(self, tenant_id: UUID, *, limit: int = 100) -> Sequence[QuantizationJob]:
        """Return the tenant's newest jobs, without their layers."""
        return await self._jobs.list(tenant_id, limit=limit)

    async def get(self, tenant_id: UUID, job_id: UUID) -> QuantizationJob:
        """Return one job with its layers; raises NotFoundError, also for somebody else's."""
        job = await self._jobs.get(job_id, tenant_id=tenant_id)
        if job is None:
            raise NotFoundError(f"There is no quantization {job_id}.")
        return job

    async def expect(self, job: QuantizationJob) -> Expectation | None:
        """Return when an open job will be done; None if nothing is known of the pace of its kind yet."""
        if job.state.is_final:
            return None
        newest = await self._jobs.list(limit=PACE_OF)
        return expect_quantization(
            job,
            waiting=await self._jobs.list_in(OPEN_STATES),
            finished=[each for each in newest if each.state is JobState.SUCCEEDED],
            now=self._clock.now(),
        )

    async def cancel(self, tenant_id: UUID, job_id: UUID) -> QuantizationJob:
        """Stop a job at once if it waits, else before its next layer; a cancelled one stays as it is.

        Raises:
            NotFoundError: no such job.
            ConflictError: it has already succeeded or failed.
        """
        while True:  # until the state did not change between reading and writing
            job = await self.get(tenant_id, job_id)
            if job.state in (JobState.SUCCEEDED, JobState.FAILED):
                raise ConflictError(
                    f"The quantization has already {job.state.value}; it cannot be cancelled."
                )
            if job.state in (JobState.CANCELLING, JobState.CANCELLED) or await self._cancel(job):
                return await self.get(tenant_id, job_id)

    async def _cancel(self, job: QuantizationJob) -> bool:
        if job.state is JobState.RUNNING:
            return await self._jobs.move(
                replace(job, state=JobState.CANCELLING), expected=(JobState.RUNNING,)
            )
        cancelled = job.closed(JobState.CANCELLED, at=self._clock.now())
        async with self._unit_of_work():
            is_first = await self._jobs.move(cancelled, expected=(JobState.QUEUED,))
            if is_first:
                await self._spending.void(job.id, tenant_id=job.tenant_id)
                await self._quotas.storage.void(job.reservation)
        return is_first

    def _resolve(self, tenant_id: UUID, source: Mapping[str, Any]) -> Path:
        match dict(source):
            case {"path": str(path), **rest} if not rest:
                return self._registry.resolve(path)
            case {"upload": str(upload), **rest} if not rest:
                try:
                    return self._uploads.path(tenant_id, UUID(upload))
                except ValueError:
                    raise NotFoundError(f"There is no upload {upload[:40]!r}.", kind="upload") from None
        raise ValidationError('The source is {"path": "..."} or {"upload": "<id>"}.', field="source")

    async def release(self, model: RegisteredModel) -> None:
        """Give back the storage of a model that this unit of work forgets; `delete_files` comes after."""
        if self._is_made_here(model):
            size = await asyncio.to_thread(directory_bytes, Path(model.path))
            await self._quotas.storage.release(model.tenant_id, size=size)

    async def delete_files(self, model: RegisteredModel) -> None:
        """Delete the files of a forgotten model that a quantization made; nobody else's are touched."""
        if self._is_made_here(model):
            await asyncio.to_thread(remove_directory, Path(model.path))

    def _is_made_here(self, model: RegisteredModel) -> bool:
        return Path(model.path).is_relative_to(self._models_dir)

    async def _require_room(self, tenant_id: UUID, name: str) -> None:
        if any(model.name == name for model in await self._registry.list(tenant_id)):
            raise ConflictError(
                f"There is already a model named {name!r}. Choose another name.", field="name"
            )
        mine = [job for job in await self._jobs.list_in(OPEN_STATES) if job.tenant_id == tenant_id]
        for job in mine:
            if job.model_name == name:
                raise ConflictError(
                    f"The quantization {job.id} will make a model named {name!r}.", field="name"
                )
        if len(mine) >= MAX_OPEN:
            raise RateLimitExceededError(
                limit_name="open quantizations",
                limit=MAX_OPEN,
                current=len(mine),
                reset_time=self._clock.now() + timedelta(seconds=RETRY_SECONDS),
                retry_after=RETRY_SECONDS,
            )


def _without_paths(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse texts that are named by a path: a tenant must not make the platform read its own files."""
    for name in ("calibration_text", "validation_text"):
        if not isinstance(config.get(name), str | None):
            raise ValidationError(f"{name} must be the text itself.", field=f"config.{name}")
    return config
