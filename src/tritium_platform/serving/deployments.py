"""Keeps what tenants deployed running: which engine processes exist, and which of them takes a request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from tritium_platform.errors import NotFoundError
from tritium_platform.serving import policy
from tritium_platform.serving.errors import EngineUnavailableError
from tritium_platform.serving.model import Deployment, DeploymentState, RegisteredModel
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from uuid import UUID

    from tritium.engine.request import EmbeddingOutput, GenerationRequest, TokenOutput
    from tritium_platform.serving.model import ReplicaStatus
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock

_log = structlog.get_logger(__name__)
DRAIN_SECONDS = 30.0
MAX_REPLICAS = 8
MAX_THREADS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class DeploymentWish:
    """What a tenant asks for; the name defaults to the model's."""

    model: str
    name: str | None = None
    replicas: int = 1
    threads: int = 1


class DeploymentStore(Protocol):
    """Remembers deployments; a tenant's name for a deployment is unique within the tenant."""

    async def add(self, deployment: Deployment) -> None:
        """Keep a deployment; raises ConflictError when the tenant already uses the name."""

    async def list(self, tenant_id: UUID | None = None) -> Sequence[Deployment]:
        """Return the deployments of a tenant, or of everybody, oldest first."""

    async def remove(self, *, tenant_id: UUID, deployment_id: UUID) -> None:
        """Forget a deployment; forgetting an unknown one is no error."""


class ModelRegistry(Protocol):
    """Knows the models of a tenant."""

    async def get(self, tenant_id: UUID, name_or_id: str) -> RegisteredModel:
        """Return one model; raises NotFoundError, also for the model of somebody else."""

    async def list(self, tenant_id: UUID) -> Sequence[RegisteredModel]:
        """Return the tenant's models, oldest first."""


class Replica(Protocol):
    """One engine that serves one model."""

    @property
    def status(self) -> ReplicaStatus:
        """This replica at this moment."""

    async def start(self) -> None:
        """Begin to load; returns at once."""

    async def wait_ready(self) -> None:
        """Wait for the model; raises EngineUnavailableError if it never comes."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        """Yield the tokens of one request; closing the iterator cancels it."""

    async def embed(self, request_id: str, *, token_ids: Sequence[tuple[int, ...]]) -> EmbeddingOutput:
        """Embed token id lists."""

    async def drain(self, *, timeout: float) -> None:  # noqa: ASYNC109 - the limit is the caller's to own
        """Finish what runs, then stop."""


class ReplicaLauncher(Protocol):
    """Makes replicas; nothing runs before `start`."""

    def __call__(self, *, name: str, model_path: str, threads: int, memory_limit_bytes: int) -> Replica:
        """Return a replica that is not started yet."""


Plan = tuple[Deployment, RegisteredModel]


class DeploymentService:
    """Creates, finds and removes the deployments of tenants, and holds their running replicas."""

    def __init__(
        self, *, store: DeploymentStore, registry: ModelRegistry, launch: ReplicaLauncher, clock: Clock
    ) -> None:
        self._store = store
        self._registry = registry
        self._launch = launch
        self._clock = clock
        self._running: dict[UUID, tuple[Deployment, list[Replica]]] = {}
        self._deleting: set[UUID] = set()
        self._drains: set[asyncio.Task[None]] = set()

    async def start_all(self) -> None:
        """Start every remembered deployment: what ran before a restart runs after it."""
        for deployment in await self._store.list():
            try:
                model = await self._registry.get(deployment.tenant_id, str(deployment.model_id))
            except NotFoundError:
                _log.warning("deployment_without_model", deployment_id=str(deployment.id))
                continue
            await self._start(deployment, model=model)

    async def plan(self, context: TenantContext, *, wish: DeploymentWish) -> Plan:
        """Decide what `wish` would deploy; nothing starts yet.

        Raises:
            NotFoundError: the tenant has no such model.
            ModelSizeExceededError: the model is larger than the tier serves.
        """
        model = await self._registry.get(context.tenant_id, wish.model)
        policy.require_model_size(model.size_bytes, max_model_size=context.limits.max_model_size)
        deployment = Deployment(
            id=uuid7(self._clock),
            tenant_id=context.tenant_id,
            model_id=model.id,
            name=wish.name or model.name,
            replicas=wish.replicas,
            threads=wish.threads,
            memory_limit_bytes=policy.memory_limit_for(model),
            created_at=self._clock.now(),
        )
        return deployment, model

    async def create(self, plan: Plan) -> Deployment:
        """Remember a planned deployment and start its replicas; loading goes on in the background.

        Raises:
            ConflictError: the tenant already uses the name.
        """
        deployment, model = plan
        await self._store.add(deployment)
        await self._start(deployment, model=model)
        return deployment

    async def list(self, tenant_id: UUID) -> Sequence[Deployment]:
        """Return the tenant's deployments, oldest first."""
        return [one for one in await self._store.list(tenant_id) if one.id not in self._deleting]

    async def get(self, tenant_id: UUID, name_or_id: str) -> Deployment:
        """Return one deployment by id or name; raises NotFoundError, also for somebody else's."""
        for deployment in await self.list(tenant_id):
            if name_or_id in {str(deployment.id), deployment.name}:
                return deployment
        raise NotFoundError(f"There is no deployment {name_or_id!r}.")

    async def delete(self, tenant_id: UUID, name_or_id: str) -> Deployment:
        """Take a deployment out of use at once and let its replicas finish what they run in the background."""
        deployment = await self.get(tenant_id, name_or_id)
        self._deleting.add(deployment.id)
        drain = asyncio.create_task(self._drain_and_forget(deployment), name=f"drain {deployment.id}")
        self._drains.add(drain)
        drain.add_done_callback(self._drains.discard)
        return deployment

    def statuses(self, deployment: Deployment) -> list[ReplicaStatus]:
        """Return the status of each replica; empty when none runs on this machine."""
        return [replica.status for replica in self._running.get(deployment.id, ())]

    def state(self, deployment: Deployment) -> DeploymentState:
        """Return what a tenant sees of this deployment."""
        if deployment.id in self._deleting:
            return DeploymentState.DELETING
        return policy.deployment_state(self.statuses(deployment))

    def choose(self, deployment: Deployment) -> Replica:
        """Return the ready replica with the least to do.

        Raises:
            EngineUnavailableError: none is ready; the message says why.
        """
        replicas = self._running.get(deployment.id, [])
        statuses = [replica.status for replica in replicas]
        index = policy.choose_replica(statuses)
        if index is not None:
            return replicas[index]
        reasons = {status.last_error for status in statuses if status.last_error}
        raise EngineUnavailableError(
            f"The deployment {deployment.name} is {policy.deployment_state(statuses)}"
            f"{': ' + '; '.join(sorted(reasons)) if reasons else ''}. Send the request again in a moment.",
            retry_after=1,
        )

    async def wait_ready(self, deployment: Deployment) -> None:
        """Wait until every replica of a deployment answers; raises EngineUnavailableError if one never will."""
        await asyncio.gather(*(replica.wait_ready() for replica in self._running.get(deployment.id, ())))

    async def shut_down(self) -> None:
        """Let every replica finish what it runs, then stop it; what is remembered stays remembered."""
        replicas = [replica for _, running in self._running.items() for replica in running]
        await asyncio.gather(*(replica.drain(timeout=DRAIN_SECONDS) for replica in replicas), *self._drains)
        self._running.clear()

    async def _start(self, deployment: Deployment, *, model: RegisteredModel) -> None:
        replicas = [
            self._launch(
                name=f"{deployment.id.hex[-12:]}-{index}",
                model_path=model.path,
                threads=deployment.threads,
                memory_limit_bytes=deployment.memory_limit_bytes,
            )
            for index in range(deployment.replicas)
        ]
        self._running[deployment.id] = replicas
        for replica in replicas:
            await replica.start()

    async def _drain_and_forget(self, deployment: Deployment) -> None:
        replicas = self._running.pop(deployment.id, [])
        await asyncio.gather(*(replica.drain(timeout=DRAIN_SECONDS) for replica in replicas))
        await self._store.remove(tenant_id=deployment.tenant_id, deployment_id=deployment.id)
        self._deleting.discard(deployment.id)
