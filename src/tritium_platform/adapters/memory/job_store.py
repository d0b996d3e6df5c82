"""Quantization jobs in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.serving.job import JobLayer, JobState, QuantizationJob


class MemoryJobStore:
    """Keeps quantization jobs and what became of their layers."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, job: QuantizationJob) -> None:
        """Keep a new job."""
        async with self._database.write():
            self._jobs[job.id] = replace(job, layers=())

    async def get(self, job_id: UUID, *, tenant_id: UUID | None = None) -> QuantizationJob | None:
        """Return a job with its layers; None for an unknown one, and for another tenant's if one is named."""
        job = self._jobs.get(job_id)
        if job is None or tenant_id not in {None, job.tenant_id}:
            return None
        layers = sorted(
            (layer for (of, _), layer in self._layers.items() if of == job_id), key=lambda layer: layer.index
        )
        return replace(job, layers=tuple(layers))

    async def list(self, tenant_id: UUID | None = None, *, limit: int = 100) -> Sequence[QuantizationJob]:
        """Return jobs of a tenant, or of everybody, newest first, without their layers."""
        found = [job for job in self._jobs.values() if tenant_id in {None, job.tenant_id}]
        return sorted(found, key=lambda job: job.id, reverse=True)[:limit]

    async def list_in(self, states: Collection[JobState]) -> Sequence[QuantizationJob]:
        """Return the jobs in these states, oldest first, without their layers."""
        return sorted((job for job in self._jobs.values() if job.state in states), key=lambda job: job.id)

    async def move(self, job: QuantizationJob, *, expected: Collection[JobState]) -> bool:
        """Write all of a job that may change, if it is in an expected state; else return False."""
        async with self._database.write():
            kept = self._jobs.get(job.id)
            if kept is None or kept.tenant_id != job.tenant_id or kept.state not in expected:
                return False
            self._jobs[job.id] = replace(
                kept,
                config=job.config,
                state=job.state,
                started_at=job.started_at,
                finished_at=job.finished_at,
                total_layers=job.total_layers,
                error_code=job.error_code,
                error_message=job.error_message,
                error_recovery=job.error_recovery,
            )
        return True

    async def record_layer(self, job_id: UUID, layer: JobLayer) -> None:
        """Keep what became of a layer; the first account of it stands."""
        async with self._database.write():
            self._layers.setdefault((job_id, layer.index), layer)

    @property
    def _jobs(self) -> dict[UUID, QuantizationJob]:
        return self._database.tables["quantization_jobs"]

    @property
    def _layers(self) -> dict[tuple[UUID, int], JobLayer]:
        return self._database.tables["quantization_layers"]
