"""Models and deployments of tenants in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.serving.model import Deployment, RegisteredModel


class MemoryModelStore:
    """Remembers models; a tenant's name for a model is unique within the tenant."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, model: RegisteredModel) -> None:
        """Keep a model; ConflictError when the tenant already uses the name."""
        async with self._database.write():
            for kept in self._models.values():
                if kept.id == model.id or (kept.tenant_id, kept.name) == (model.tenant_id, model.name):
                    raise ConflictError("A model with this name exists already.", field="name")
            self._models[model.id] = model

    async def list(self, tenant_id: UUID) -> Sequence[RegisteredModel]:
        """Return the tenant's models, oldest first."""
        found = [each for each in self._models.values() if each.tenant_id == tenant_id]
        return sorted(found, key=lambda each: (each.created_at, each.id))

    async def remove(self, *, tenant_id: UUID, model_id: UUID) -> bool:
        """Forget a model; False if the tenant has no such model."""
        async with self._database.write():
            found = self._models.get(model_id)
            if found is None or found.tenant_id != tenant_id:
                return False
            del self._models[model_id]
        return True

    @property
    def _models(self) -> dict[UUID, RegisteredModel]:
        return self._database.tables["models"]


class MemoryDeploymentStore:
    """Remembers deployments; a tenant's name for a deployment is unique within the tenant."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, deployment: Deployment) -> None:
        """Keep a deployment; ConflictError when the tenant already uses the name."""
        wanted = (deployment.tenant_id, deployment.name)
        async with self._database.write():
            for kept in self._deployments.values():
                if kept.id == deployment.id or (kept.tenant_id, kept.name) == wanted:
                    raise ConflictError("A deployment with this name exists already.", field="name")
            self._deployments[deployment.id] = deployment

    async def list(self, tenant_id: UUID | None = None) -> Sequence[Deployment]:
        """Return the deployments of a tenant, or of everybody, oldest first."""
        found = [each for each in self._deployments.values() if tenant_id in {None, each.tenant_id}]
        return sorted(found, key=lambda each: (each.created_at, each.id))

    async def change(self, deployment: Deployment) -> bool:
        """Keep a deployment in the place of the one with its id; False if there is none."""
        async with self._database.write():
            kept = self._deployments.get(deployment.id)
            if kept is None or kept.tenant_id != deployment.tenant_id:
                return False
            self._deployments[deployment.id] = deployment
        return True

    async def remove(self, *, tenant_id: UUID, deployment_id: UUID) -> None:
        """Forget a deployment; forgetting an unknown one is no error."""
        async with self._database.write():
            found = self._deployments.get(deployment_id)
            if found is not None and found.tenant_id == tenant_id:
                del self._deployments[deployment_id]

    @property
    def _deployments(self) -> dict[UUID, Deployment]:
        return self._database.tables["deployments"]
