"""Quantization jobs in SQL: a state changes only from the state its author believed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from tritium_platform.adapters.sql.tables.jobs import quantization_jobs, quantization_layers
from tritium_platform.serving.job import JobLayer, JobState, QuantizationJob
from tritium_platform.tenancy.model import TenantTier

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from sqlalchemy import Row

    from tritium_platform.adapters.sql.database import Database

_CHANGING = (
    "config",
    "state",
    "started_at",
    "finished_at",
    "total_layers",
    "error_code",
    "error_message",
    "error_recovery",
)


class SqlJobStore:
    """Keeps quantization jobs and what became of their layers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, job: QuantizationJob) -> None:
        """Keep a new job."""
        values = {column.name: getattr(job, column.name) for column in quantization_jobs.columns}
        async with self._database.write() as connection:
            await connection.execute(insert(quantization_jobs).values(**_plain(values)))

    async def get(self, job_id: UUID, *, tenant_id: UUID | None = None) -> QuantizationJob | None:
        """Return a job with its layers; None for an unknown one, and for another tenant's if one is named."""
        statement = select(quantization_jobs).where(quantization_jobs.c.id == job_id)
        if tenant_id is not None:
            statement = statement.where(quantization_jobs.c.tenant_id == tenant_id)
        layers = (
            select(quantization_layers)
            .where(quantization_layers.c.job_id == job_id)
            .order_by(quantization_layers.c.index)
        )
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).one_or_none()
            if row is None:
                return None
            return _job(row, layers=[_layer(each) for each in await connection.execute(layers)])

    async def list(self, tenant_id: UUID | None = None, *, limit: int = 100) -> Sequence[QuantizationJob]:
        """Return jobs of a tenant, or of everybody, newest first, without their layers."""
        statement = select(quantization_jobs).order_by(quantization_jobs.c.id.desc()).limit(limit)
        if tenant_id is not None:
            statement = statement.where(quantization_jobs.c.tenant_id == tenant_id)
        async with self._database.read() as connection:
            return [_job(row) for row in await connection.execute(statement)]

    async def list_in(self, states: Collection[JobState]) -> Sequence[QuantizationJob]:
        """Return the jobs in these states, oldest first, without their layers."""
        statement = (
            select(quantization_jobs)
            .where(quantization_jobs.c.state.in_([state.value for state in states]))
            .order_by(quantization_jobs.c.id)
        )
        async with self._database.read() as connection:
            return [_job(row) for row in await connection.execute(statement)]

    async def move(self, job: QuantizationJob, *, expected: Collection[JobState]) -> bool:
        """Write all of a job that may change, if it is in an expected state; else return False."""
        statement = (
            update(quantization_jobs)
            .where(
                quantization_jobs.c.id == job.id,
                quantization_jobs.c.tenant_id == job.tenant_id,
                quantization_jobs.c.state.in_([state.value for state in expected]),
            )
            .values(**_plain({name: getattr(job, name) for name in _CHANGING}))
            .returning(quantization_jobs.c.id)
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def record_layer(self, job_id: UUID, layer: JobLayer) -> None:
        """Keep what became of a layer; the first account of it stands."""
        values = {name: getattr(layer, name) for name in JobLayer.__slots__}
        statement = self._database.insert(quantization_layers).values(job_id=job_id, **values)
        key = [quantization_layers.c.job_id, quantization_layers.c.index]
        async with self._database.write() as connection:
            await connection.execute(statement.on_conflict_do_nothing(index_elements=key))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.value if isinstance(value, JobState | TenantTier) else value
        for name, value in values.items()
    }


def _job(row: Row[Any], *, layers: Sequence[JobLayer] = ()) -> QuantizationJob:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name begins with an underscore
    values["tier"], values["state"] = TenantTier(row.tier), JobState(row.state)
    return QuantizationJob(**values, layers=tuple(layers))


def _layer(row: Row[Any]) -> JobLayer:
    return JobLayer(**{name: value for name, value in row._mapping.items() if name != "job_id"})  # noqa: SLF001
