"""Models and deployments of tenants in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select, update

from tritium_platform.adapters.sql.tables.serving import deployments, models
from tritium_platform.errors import ConflictError
from tritium_platform.serving.model import Deployment, ModelKind, RegisteredModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import Row

    from tritium_platform.adapters.sql.database import Database

DEPLOYMENT_COLUMNS = (
    "id",
    "tenant_id",
    "model_id",
    "name",
    "replicas",
    "threads",
    "memory_limit_bytes",
    "created_at",
    "is_pinned",
)


class SqlModelStore:
    """Remembers models; a tenant's name for a model is unique within the tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, model: RegisteredModel) -> None:
        """Keep a model; ConflictError when the tenant already uses the name."""
        statement = (
            self._database.insert(models)
            .values(
                id=model.id,
                tenant_id=model.tenant_id,
                name=model.name,
                path=model.path,
                kind=model.kind.value,
                size_bytes=model.size_bytes,
                source=model.source,
                created_at=model.created_at,
            )
            .on_conflict_do_nothing()
            .returning(models.c.id)
        )
        async with self._database.write() as connection:
            if (await connection.execute(statement)).one_or_none() is None:
                raise ConflictError("A model with this name exists already.", field="name")

    async def list(self, tenant_id: UUID) -> Sequence[RegisteredModel]:
        """Return the tenant's models, oldest first."""
        statement = (
            select(models).where(models.c.tenant_id == tenant_id).order_by(models.c.created_at, models.c.id)
        )
        async with self._database.read() as connection:
            rows = await connection.execute(statement)
        return [_model(row) for row in rows]

    async def remove(self, *, tenant_id: UUID, model_id: UUID) -> bool:
        """Forget a model; False if the tenant has no such model."""
        statement = delete(models).where(models.c.tenant_id == tenant_id, models.c.id == model_id)
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount == 1


class SqlDeploymentStore:
    """Remembers deployments; a tenant's name for a deployment is unique within the tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, deployment: Deployment) -> None:
        """Keep a deployment; ConflictError when the tenant already uses the name."""
        statement = (
            self._database.insert(deployments)
            .values(**{name: getattr(deployment, name) for name in DEPLOYMENT_COLUMNS})
            .on_conflict_do_nothing()
            .returning(deployments.c.id)
        )
        async with self._database.write() as connection:
            if (await connection.execute(statement)).one_or_none() is None:
                raise ConflictError("A deployment with this name exists already.", field="name")

    async def list(self, tenant_id: UUID | None = None) -> Sequence[Deployment]:
        """Return the deployments of a tenant, or of everybody, oldest first."""
        statement = select(deployments).order_by(deployments.c.created_at, deployments.c.id)
        if tenant_id is not None:
            statement = statement.where(deployments.c.tenant_id == tenant_id)
        async with self._database.read() as connection:
            rows = await connection.execute(statement)
        return [Deployment(**{name: getattr(row, name) for name in DEPLOYMENT_COLUMNS}) for row in rows]

    async def change(self, deployment: Deployment) -> bool:
        """Keep a deployment in the place of the one with its id; False if there is none."""
        statement = (
            update(deployments)
            .where(deployments.c.tenant_id == deployment.tenant_id, deployments.c.id == deployment.id)
            .values(**{name: getattr(deployment, name) for name in DEPLOYMENT_COLUMNS})
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def remove(self, *, tenant_id: UUID, deployment_id: UUID) -> None:
        """Forget a deployment; forgetting an unknown one is no error."""
        statement = delete(deployments).where(
            deployments.c.tenant_id == tenant_id, deployments.c.id == deployment_id
        )
        async with self._database.write() as connection:
            await connection.execute(statement)


def _model(row: Row[Any]) -> RegisteredModel:
    return RegisteredModel(
        id=row.id,
        tenant_id=row.tenant_id,
        name=row.name,
        path=row.path,
        kind=ModelKind(row.kind),
        size_bytes=row.size_bytes,
        source=row.source,
        created_at=row.created_at,
    )
