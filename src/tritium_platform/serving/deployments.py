"""Keeps what tenants deployed running: which engine processes exist, and which of them takes a request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.errors import NotFoundError, ValidationError
from tritium_platform.metering.model import LONGEST_NAME, OperationType
from tritium_platform.serving import policy
from tritium_platform.serving.errors import EngineUnavailableError
from tritium_platform.serving.model import Consumption, Deployment, DeploymentState, Outcome, RegisteredModel
from tritium_platform.serving.registry import require_name
from tritium_platform.tenancy.model import Scope
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from uuid import UUID

    from tritium.engine.request import EmbeddingOutput, GenerationRequest, TokenOutput
    from tritium_platform.serving.aliases import AliasService
    from tritium_platform.serving.model import ReplicaStatus
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock

_log = structlog.get_logger(__name__)
MAX_REPLICAS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingLimits:
    """What an engine gets: threads, address space in bytes (0: derived from the model), seconds to drain."""

    threads: int = 1
    memory_bytes: int = 0
    drain_seconds: float = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DeploymentWish:
    """What a tenant asks for; the name defaults to the model's."""

    model: str
    name: str | None = None
    replicas: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= MAX_REPLICAS:
            raise ValidationError(f"A deployment has 1 to {MAX_REPLICAS} replicas.", field="replicas")
        if self.name is not None:
            require_name(self.name)


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
        self,
        *,
        store: DeploymentStore,
        registry: ModelRegistry,
        aliases: AliasService,
        launch: ReplicaLauncher,
        clock: Clock,
        limits: ServingLimits,
    ) -> None:
        self._store = store
        self._registry = registry
        self._aliases = aliases
        self._launch = launch
        self._clock = clock
        self._limits = limits
        self._running: dict[UUID, list[Replica]] = {}
        # What runs here is found without asking the store: every request asks.
        self._found: dict[tuple[UUID, str], Deployment] = {}
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
            RequestTooLargeError: the tenant would have more engines than one may have.
        """
        model = await self._registry.get(context.tenant_id, wish.model)
        policy.require_model_size(model.size_bytes, max_model_size=context.limits.max_model_size)
        await self._require_room(context.tenant_id, wanted=wish.replicas)
        deployment = Deployment(
            id=uuid7(self._clock),
            tenant_id=context.tenant_id,
            model_id=model.id,
            name=wish.name or model.name,
            replicas=wish.replicas,
            threads=self._limits.threads,
            memory_limit_bytes=self._limits.memory_bytes or policy.memory_limit_for(model),
            created_at=self._clock.now(),
        )
        return deployment, model

    async def create(self, plan: Plan) -> Deployment:
        """Remember a planned deployment and start its replicas; loading goes on in the background.

        Raises:
            ConflictError: the tenant already uses the name, for a deployment or for an alias.
            RequestTooLargeError: others were created since the plan, and it does not fit any more.
        """
        deployment, model = plan
        async with self._aliases.names:
            await self._require_room(deployment.tenant_id, wanted=deployment.replicas)
            await self._aliases.require_free(deployment.tenant_id, deployment.name)
            await self._store.add(deployment)
        await self._start(deployment, model=model)
        return deployment

    async def list(self, tenant_id: UUID) -> Sequence[Deployment]:
        """Return the tenant's deployments, oldest first."""
        return await self._store.list(tenant_id)

    async def get(self, tenant_id: UUID, name_or_id: str) -> Deployment:
        """Return one deployment by id or name; raises NotFoundError, also for somebody else's."""
        running = self._found.get((tenant_id, name_or_id))
        if running is not None:
            return running
        for deployment in await self.list(tenant_id):
            if name_or_id in {str(deployment.id), deployment.name}:
                return deployment
        raise NotFoundError("There is no such deployment.", kind="deployment")

    async def delete(self, tenant_id: UUID, name_or_id: str) -> Deployment:
        """Forget a deployment: it takes no request from now on. Call `retire` when that is committed.

        Raises:
            NotFoundError: there is no such deployment.
            ConflictError: an alias leads to it.
        """
        deployment = await self.get(tenant_id, name_or_id)
        await self._aliases.require_unused(tenant_id, deployment.name)
        await self._store.remove(tenant_id=tenant_id, deployment_id=deployment.id)
        for key in self._keys(deployment):
            self._found.pop(key, None)
        return deployment

    def retire(self, deployment: Deployment) -> None:
        """Let the replicas of a deleted deployment finish what they run, in the background, then end."""
        replicas = self._running.pop(deployment.id, [])
        for replica in replicas:
            drain = asyncio.create_task(replica.drain(timeout=self._limits.drain_seconds))
            self._drains.add(drain)
            drain.add_done_callback(self._drains.discard)

    def statuses(self, deployment: Deployment) -> Sequence[ReplicaStatus]:
        """Return the status of each replica; empty when none runs on this machine."""
        return [replica.status for replica in self._running.get(deployment.id, ())]

    def all_statuses(self) -> Sequence[ReplicaStatus]:
        """Return the status of every replica of everybody, for the operator."""
        return [replica.status for replicas in self._running.values() for replica in replicas]

    def state(self, deployment: Deployment) -> DeploymentState:
        """Return what a tenant sees of this deployment."""
        if deployment.id not in self._running:
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
        """Wait until every replica answers; raises EngineUnavailableError if one never will."""
        await asyncio.gather(*(replica.wait_ready() for replica in self._running.get(deployment.id, ())))

    async def shut_down(self) -> None:
        """Let every replica finish what it runs, then stop it; what is remembered stays remembered."""
        replicas = [replica for running in self._running.values() for replica in running]
        await asyncio.gather(
            *(replica.drain(timeout=self._limits.drain_seconds) for replica in replicas), *self._drains
        )
        self._running.clear()

    async def _require_room(self, tenant_id: UUID, *, wanted: int) -> None:
        running = sum(one.replicas for one in await self.list(tenant_id))
        policy.require_replicas(wanted=wanted, running=running)

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
        self._found |= dict.fromkeys(self._keys(deployment), deployment)
        for replica in replicas:
            await replica.start()

    @staticmethod
    def _keys(deployment: Deployment) -> Sequence[tuple[UUID, str]]:
        return [(deployment.tenant_id, deployment.name), (deployment.tenant_id, str(deployment.id))]


class DeployModel:
    """The customer's request to keep a model running; it is done when the replicas have begun to load."""

    operation = OperationType.DEPLOYMENT
    scope = Scope.DEPLOYMENTS

    def __init__(self, service: DeploymentService, *, wish: DeploymentWish) -> None:
        self.model = wish.model
        self.subject = ResourceIdentifier("model", wish.model[:LONGEST_NAME])
        self._service = service
        self._wish = wish
        self._plan: Plan | None = None

    async def admit(self, context: TenantContext) -> int:
        """Check model, name and tier; a deployment needs no tokens."""
        self._plan = await self._service.plan(context, wish=self._wish)
        self.model = self._plan[1].name
        self.subject = ResourceIdentifier("deployment", str(self._plan[0].id))
        return 0

    async def execute(self) -> AsyncGenerator[Deployment, None]:
        """Create it."""
        assert self._plan is not None  # noqa: S101 - the gateway admits first
        yield await self._service.create(self._plan)

    def is_last(self, piece: Deployment) -> bool:  # noqa: ARG002 - there is only one
        """Whether nothing follows: always."""
        return True

    def consumed(self, outcome: Outcome) -> Consumption:
        """Return nothing but the request itself."""
        return Consumption(is_counted=outcome is Outcome.SUCCESS)
