"""The steps of a quantization job, as a worker does them.

Every step may run again: after a crash the step that was running starts over, and its effects are the same.
A step returns plain values; an error that has a name ends the job with that name, and is no crash.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import structlog

from tritium.errors import BitNetServiceError, ErrorCategory, InsufficientMemoryError, PlatformError
from tritium.formats.native import is_native
from tritium.formats.storage import write_file_atomically
from tritium.quantize.config import QuantizationConfig
from tritium.quantize.pipeline import assemble, plan_quantization, quantize_layer
from tritium.quantize.plan import QuantizationPlan
from tritium_platform.audit.model import ActionOutcome, AuditIntent, ResourceIdentifier
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.quotas.spend_cap import micro
from tritium_platform.serving.directories import directory_bytes, remove_directory
from tritium_platform.serving.job import JobLayer, JobState
from tritium_platform.serving.model import RegisteredModel
from tritium_platform.serving.registry import inspect_checkpoint
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tritium_platform.billing.invoicing import BillingService
    from tritium_platform.metering.service import MeteringService
    from tritium_platform.quotas.service import QuotaService
    from tritium_platform.quotas.spending import SpendService
    from tritium_platform.serving.job import QuantizationJob
    from tritium_platform.serving.quantization import JobStore
    from tritium_platform.serving.registry import ModelStore
    from tritium_platform.values import Clock, UnitOfWork

logger = structlog.get_logger(__name__)
SOURCE = "quantization"
STOPPED = "stopped"


class Outbox(Protocol):
    """Keeps audit intents in the transaction of the change they report."""

    async def add(self, intent: AuditIntent) -> None:
        """Keep an intent."""


@dataclass(frozen=True, kw_only=True)
class WorkBooks:
    """Where a worker reads jobs and writes down what became of them."""

    jobs: JobStore
    models: ModelStore
    quotas: QuotaService
    spending: SpendService
    prices: BillingService
    metering: MeteringService
    outbox: Outbox
    unit_of_work: UnitOfWork
    clock: Clock


class QuantizationWork:
    """Does the steps of jobs; work in progress lies in `jobs_dir`, results in `models_dir/<tenant>/<job>`."""

    def __init__(self, *, books: WorkBooks, jobs_dir: Path, models_dir: Path) -> None:
        self._books = books
        self._jobs_dir = jobs_dir
        self._models_dir = models_dir

    def clean(self) -> None:
        """Remove what a crash left half written beside the results; nothing may be at work meanwhile."""
        for path in self._models_dir.glob("*/.*"):
            shutil.rmtree(path, ignore_errors=True)

    async def remove_orphans(self) -> None:
        """Remove results that are no models: a crash came after one was forgotten, before its files went."""
        for path in self._models_dir.glob("*/*-*-*-*-*"):
            # The job first: one that is closed has its model registered, or it was forgotten since.
            job = await self._books.jobs.get(UUID(path.name))
            if job is None or not job.state.is_final or path != self._model_dir(job):
                continue
            if all(model.id != job.id for model in await self._books.models.list(job.tenant_id)):
                logger.warning("quantization_orphan_removed", job_id=str(job.id))
                await asyncio.to_thread(remove_directory, path)

    async def plan(self, job_id: UUID) -> dict[str, Any]:
        """Begin a job: return `{"layers": count}`."""

        async def do(job: QuantizationJob) -> dict[str, Any]:
            config = QuantizationConfig.from_dict(job.config)
            plan = await asyncio.to_thread(plan_quantization, job.source_path, config)
            directory = self._work_dir(job)
            directory.mkdir(parents=True, exist_ok=True)
            text = json.dumps(plan.to_dict())
            await asyncio.to_thread(write_file_atomically, directory / "plan.json", [text.encode()])
            started_at = job.started_at or self._books.clock.now()
            started = replace(job, started_at=started_at, total_layers=len(plan.layers))
            await self._move(started, JobState.RUNNING, expected=(JobState.QUEUED, JobState.RUNNING))
            return {"layers": len(plan.layers)}

        return await self._step(job_id, do)

    async def layer(self, job_id: UUID, index: int) -> dict[str, Any]:
        """Quantize one layer and keep its figures."""

        async def do(job: QuantizationJob) -> dict[str, Any]:
            started = time.monotonic()
            figures = await asyncio.to_thread(quantize_layer, self._plan(job), index, self._work_dir(job))
            layer = _job_layer(figures, index=index, seconds=time.monotonic() - started)
            await self._books.jobs.record_layer(job.id, layer)
            return {"layer": layer.name}

        return await self._step(job_id, do)

    async def assemble(self, job_id: UUID) -> dict[str, Any]:
        """Make the model's directory out of its layers and measure it."""

        async def do(job: QuantizationJob) -> dict[str, Any]:
            target = self._model_dir(job)
            if is_native(target):  # a crash came after the rename and before this step was noted
                return {}
            target.parent.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(assemble, self._plan(job), self._work_dir(job), target)
            return {}

        return await self._step(job_id, do)

    async def finish(self, job_id: UUID) -> dict[str, Any]:
        """Register the model, count what was used and close the job, in one transaction."""
        result = await self._step(job_id, self._succeed)
        if STOPPED in result:
            await self.stop(job_id, result)
        await asyncio.to_thread(shutil.rmtree, self._jobs_dir / str(job_id), ignore_errors=True)
        return result

    async def _succeed(self, job: QuantizationJob) -> dict[str, Any]:
        target = self._model_dir(job)
        kind, size = await asyncio.to_thread(inspect_checkpoint, target)
        now = self._books.clock.now()
        model = RegisteredModel(
            id=job.id,
            tenant_id=job.tenant_id,
            name=job.model_name,
            path=str(target),
            kind=kind,
            size_bytes=size,
            source=f"{SOURCE} of {job.source}"[:400],
            created_at=now,
        )
        usage = self._usage(job, size=directory_bytes(target), parameters=self._parameters(job))
        async with self._books.unit_of_work():
            closed = job.closed(JobState.SUCCEEDED, at=now)
            await self._move(closed, JobState.SUCCEEDED, expected=(JobState.RUNNING,))
            await self._books.models.add(model)
            await self._spend(job, usage)
            await self._books.quotas.storage.settle(job.reservation, size=usage.resources.storage_bytes)
            await self._books.metering.record(usage)
            await self._books.outbox.add(self._intent(job, ActionOutcome.SUCCESS, usage=usage))
        return {"model": job.model_name}

    async def _spend(self, job: QuantizationJob, usage: UsageRecord) -> None:
        """Count what a job cost against the cap of the month it is billed in, beyond the cap too."""
        spending, month = self._books.spending, CalendarMonth.of(usage.occurred_at)
        await spending.refresh()  # a gateway may have set the cap a moment ago
        await spending.void(job.id, tenant_id=job.tenant_id)
        if spending.is_capped(job.tenant_id):
            cost = micro((await self._books.prices.price(usage, period=month)).total)
            await spending.count(job.tenant_id, amount=cost, period=str(month))

    async def _step(
        self, job_id: UUID, do: Callable[[QuantizationJob], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Do one step of a job that is still wanted; return what it gave, or why the job stops."""
        job = await self._books.jobs.get(job_id)
        if job is None or job.state not in (JobState.QUEUED, JobState.RUNNING):
            state = job.state if job is not None and job.state.is_final else JobState.CANCELLED
            return {STOPPED: state.value}
        try:
            return await do(job)
        except _NoLongerWantedError:
            return {STOPPED: JobState.CANCELLED.value}
        except BitNetServiceError as error:
            if error.category is ErrorCategory.TRANSIENT:
                logger.warning("quantization_step_tried_again", job_id=str(job_id), reason=error.message)
                raise
            return failure(error)
        except MemoryError:
            return failure(InsufficientMemoryError("The quantization needs more memory than there is."))
        except Exception:
            logger.exception("quantization_step_failed", job_id=str(job_id))
            return failure(
                PlatformError("The quantization failed for a reason that is ours; the operator's log has it.")
            )

    async def stop(self, job_id: UUID, result: dict[str, Any]) -> dict[str, Any]:
        """Close a job that one of its steps ended, and remove what it left on the disk."""
        while (job := await self._books.jobs.get(job_id)) is not None:
            if job.state is not JobState.SUCCEEDED:
                await asyncio.to_thread(shutil.rmtree, self._model_dir(job), ignore_errors=True)
                await asyncio.to_thread(shutil.rmtree, self._work_dir(job), ignore_errors=True)
            if job.state.is_final or await self._close(job, result):
                break  # else it was cancelled between reading and writing
        return result

    async def _close(self, job: QuantizationJob, result: dict[str, Any]) -> bool:
        state = JobState(result[STOPPED])
        closed = replace(
            job.closed(state, at=self._books.clock.now()),
            error_code=result.get("code"),
            error_message=self._without_places(result.get("message"), job=job),
            error_recovery=result.get("recovery"),
        )
        outcome = ActionOutcome.FAILURE if state is JobState.FAILED else ActionOutcome.DENIED
        async with self._books.unit_of_work():
            is_first = await self._books.jobs.move(closed, expected=(job.state,))
            if is_first:
                await self._books.spending.void(job.id, tenant_id=job.tenant_id)
                await self._books.quotas.storage.void(job.reservation)
                await self._books.outbox.add(self._intent(job, outcome, code=closed.error_code))
        return is_first

    def _without_places(self, message: str | None, *, job: QuantizationJob) -> str | None:
        """Take our own directories out of what a tenant reads."""
        places = {
            job.source_path: job.source,
            str(self._work_dir(job)): "the work directory",
            str(self._model_dir(job)): "the model's directory",
        }
        for place, shown in places.items():
            message = message and message.replace(place, shown)
        return message

    async def _move(self, job: QuantizationJob, state: JobState, *, expected: tuple[JobState, ...]) -> None:
        if not await self._books.jobs.move(replace(job, state=state), expected=expected):
            raise _NoLongerWantedError

    def _usage(self, job: QuantizationJob, *, size: int, parameters: int) -> UsageRecord:
        return UsageRecord(
            id=uuid7(self._books.clock),
            tenant_id=job.tenant_id,
            source=SOURCE,
            event_id=str(job.id),
            operation=OperationType.QUANTIZATION,
            tier=job.tier,
            outcome="success",
            occurred_at=self._books.clock.now(),
            quantities=UsageQuantities(quantized_parameters=parameters),
            resources=ResourceUsage(
                compute_time_ms=round(1000 * sum(layer.seconds for layer in job.layers)), storage_bytes=size
            ),
            model=job.model_name,
            key_id=job.key_id,
        )

    def _intent(
        self,
        job: QuantizationJob,
        outcome: ActionOutcome,
        *,
        usage: UsageRecord | None = None,
        code: str | None = None,
    ) -> AuditIntent:
        details: dict[str, str | int | bool | None] = {"model": job.model_name, "source": job.source}
        if usage is not None:
            details["quantized_parameters"] = usage.quantities.quantized_parameters
        if code is not None:
            details["error"] = code
        return AuditIntent(
            id=uuid7(self._books.clock),
            event_id=job.id,
            occurred_at=self._books.clock.now(),
            action="quantization.finish",
            resource_affected=ResourceIdentifier("quantization", str(job.id)),
            outcome=outcome,
            tenant_id=job.tenant_id,
            key_id=job.key_id,
            details=details,
        )

    def _plan(self, job: QuantizationJob) -> QuantizationPlan:
        return QuantizationPlan.from_dict(json.loads((self._work_dir(job) / "plan.json").read_bytes()))

    def _parameters(self, job: QuantizationJob) -> int:
        return sum(layer.out_features * layer.in_features for layer in self._plan(job).layers)

    def _work_dir(self, job: QuantizationJob) -> Path:
        return self._jobs_dir / str(job.id)

    def _model_dir(self, job: QuantizationJob) -> Path:
        return self._models_dir / str(job.tenant_id) / str(job.id)


class _NoLongerWantedError(Exception):
    """The job was cancelled while a step ran."""


def failure(error: BitNetServiceError) -> dict[str, Any]:
    """Return what a step gives when an error ends its job."""
    return {
        STOPPED: JobState.FAILED.value,
        "code": error.code,
        "message": error.message,
        "recovery": error.recovery.value,
    }


def _job_layer(figures: dict[str, Any], *, index: int, seconds: float) -> JobLayer:
    loss = figures["weight_error"] if figures["output_error"] is None else figures["output_error"]
    return JobLayer(
        index=index,
        name=figures["name"],
        strategy=figures["strategy"],
        planes=figures["planes"],
        loss=loss,
        seconds=seconds,
    )
