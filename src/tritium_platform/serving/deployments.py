"""Keeps what tenants deployed running: which versions there are, and which of them takes a request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import structlog

from tritium.engine.config import EngineConfig
from tritium_platform.errors import NotFoundError, ValidationError
from tritium_platform.serving import policy
from tritium_platform.serving.model import Deployment, DeploymentState, RegisteredModel
from tritium_platform.serving.pool import Pool
from tritium_platform.serving.registry import memory_need, require_name
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.serving.aliases import AliasService
    from tritium_platform.serving.model import EngineReading, ReplicaStatus
    from tritium_platform.serving.pool import Lease, Version
    from tritium_platform.serving.replica import Replica, ReplicaLauncher
    from tritium_platform.serving.residency import Residency
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock

_log = structlog.get_logger(__name__)
MAX_REPLICAS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingLimits:
    """What an engine gets: threads, address space in bytes (0: derived from the model), its own limits.

    With 0 threads the replicas of a deployment divide the cores.
    """

    threads: int = 1
    cores: int = 1
    memory_bytes: int = 0
    engine: EngineConfig = field(default_factory=EngineConfig)

    def threads_of(self, *, replicas: int) -> int:
        """Return the threads of one engine of a deployment that has so many."""
        return self.threads or max(1, self.cores // replicas)


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

    async def change(self, deployment: Deployment) -> bool:
        """Keep a deployment in the place of the one with its id; False if there is none."""

    async def remove(self, *, tenant_id: UUID, deployment_id: UUID) -> None:
        """Forget a deployment; forgetting an unknown one is no error."""


class ModelRegistry(Protocol):
    """Knows the models of a tenant."""

    async def get(self, tenant_id: UUID, name_or_id: str) -> RegisteredModel:
        """Return one model; raises NotFoundError, also for the model of somebody else."""

    async def list(self, tenant_id: UUID) -> Sequence[RegisteredModel]:
        """Return the tenant's models, oldest first."""


Plan = tuple[Deployment, RegisteredModel]


class DeploymentService:
    """Creates, finds, changes and removes the deployments of tenants, and holds their pools of engines."""

    def __init__(
        self,
        *,
        store: DeploymentStore,
        registry: ModelRegistry,
        aliases: AliasService,
        residency: Residency,
        launch: ReplicaLauncher,
        clock: Clock,
        limits: ServingLimits,
    ) -> None:
        self._store = store
        self._registry = registry
        self._aliases = aliases
        self._residency = residency
        self._launch = launch
        self._clock = clock
        self._limits = limits
        self._pools: dict[UUID, Pool] = {}
        # What runs here is found without asking the store: every request asks.
        self._found: dict[tuple[UUID, str], Pool] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._launched = 0
        self._remembered: set[UUID] = set()
        self._differing: set[Deployment] = set()

    async def start_all(self) -> None:
        """Take up every remembered deployment and load what fits: what ran before a restart runs after it."""
        for deployment in await self._store.list():
            await self._take_up(deployment)
        self._residency.load_what_fits(self._pools.values())

    async def follow(self) -> None:
        """Take up what other gateways have changed; run it every second.

        A difference counts when it is seen twice: what this gateway is changing itself is decided by then.
        """
        remembered = {each.id: each for each in await self._store.list()}
        here = {pool.deployment.id: pool.deployment for pool in self._pools.values()}
        differing = set(remembered.values()) ^ set(here.values())
        settled, self._differing = differing & self._differing, differing
        self._remembered |= remembered.keys()
        for deployment in settled:
            now, pool = remembered.get(deployment.id), self._pools.get(deployment.id)
            if now is None:
                if deployment.id in self._remembered:  # else its creation is not committed yet
                    self._remembered.discard(deployment.id)
                    self.retire(deployment)
            elif pool is not None and pool.deployment.model_id == now.model_id:
                self.finish_pin(now)
            elif not any(_is_version(each, of=now) for each in self._residency.pools):
                await self._replace(pool, now)

    async def _replace(self, old: Pool | None, deployment: Deployment) -> None:
        """Take up a deployment or another version of it; the old one finishes what it has and goes."""
        if await self._take_up(deployment):
            self._residency.load_what_fits([self._pools[deployment.id]])
            if old is not None:
                self.discard(old)

    async def _take_up(self, deployment: Deployment) -> bool:
        """Show a remembered deployment; False if its model is not there or not readable."""
        try:
            model = await self._registry.get(deployment.tenant_id, str(deployment.model_id))
            self.show(await self.new_pool(deployment, model=model))
        except NotFoundError:
            _log.warning("deployment_without_model", deployment_id=str(deployment.id))
            return False
        except ValidationError as error:
            _log.warning("model_unreadable", deployment_id=str(deployment.id), reason=error.message)
            return False
        return True

    async def plan(self, context: TenantContext, *, wish: DeploymentWish) -> Plan:
        """Decide what `wish` would deploy; nothing starts yet.

        Raises:
            NotFoundError: the tenant has no such model.
            ModelSizeExceededError: the model is larger than the tier serves.
            RequestTooLargeError: the tenant would have more engines than one may have.
        """
        model = await self._registry.get(context.tenant_id, wish.model)
        policy.require_model_size(model.size_bytes, max_model_size=context.limits.max_model_size)
        await self._require_replicas(context.tenant_id, wanted=wish.replicas)
        deployment = Deployment(
            id=uuid7(self._clock),
            tenant_id=context.tenant_id,
            model_id=model.id,
            name=wish.name or model.name,
            replicas=wish.replicas,
            threads=self._limits.threads_of(replicas=wish.replicas),
            memory_limit_bytes=self.memory_limit(model),
            created_at=self._clock.now(),
        )
        return deployment, model

    async def create(self, plan: Plan) -> Deployment:
        """Remember a planned deployment and begin to load it; that goes on in the background.

        Raises:
            ConflictError: the tenant already uses the name, for a deployment or for an alias.
            RequestTooLargeError: others were created since the plan, and it does not fit any more.
            InsufficientMemoryError: it could never be in memory beside what is pinned.
        """
        deployment, model = plan
        pool = await self.new_pool(deployment, model=model)
        self._residency.require_room(pool.required_bytes)
        async with self._aliases.names:
            await self._require_replicas(deployment.tenant_id, wanted=deployment.replicas)
            await self._aliases.require_free(deployment.tenant_id, deployment.name)
            await self._store.add(deployment)
        self.show(pool)
        self._residency.load(pool)
        return deployment

    async def list(self, tenant_id: UUID) -> Sequence[Deployment]:
        """Return the tenant's deployments, oldest first."""
        return await self._store.list(tenant_id)

    async def get(self, tenant_id: UUID, name_or_id: str) -> Deployment:
        """Return one deployment by id or name; raises NotFoundError, also for somebody else's."""
        running = self._found.get((tenant_id, name_or_id))
        if running is not None:
            return running.deployment
        for deployment in await self.list(tenant_id):
            if name_or_id in {str(deployment.id), deployment.name}:
                return deployment
        raise no_such_deployment()

    def pool_of(self, tenant_id: UUID, name_or_id: str) -> Pool:
        """Return the engines that take new requests for a deployment; NotFoundError if there are none."""
        pool = self._found.get((tenant_id, name_or_id))
        if pool is None:
            raise no_such_deployment()
        return pool

    async def lease(self, tenant_id: UUID, name_or_id: str, *, version: Version) -> Lease:
        """Hold the engines of a deployment for a request, which is the same ones for all of its parts.

        Raises:
            NotFoundError: the tenant has no such deployment.
            InsufficientMemoryError: it does not fit into memory beside what is pinned.
            EngineUnavailableError: it cannot be loaded, or not in time.
        """
        version.pool = version.pool or self.pool_of(tenant_id, name_or_id)
        return await self._residency.lease(version.pool)

    async def delete(self, tenant_id: UUID, name_or_id: str) -> Deployment:
        """Forget a deployment. Call `retire` when that is committed.

        Raises:
            NotFoundError: there is no such deployment.
            ConflictError: an alias leads to it.
        """
        deployment = await self.get(tenant_id, name_or_id)
        await self._aliases.require_unused(tenant_id, deployment.name)
        await self._store.remove(tenant_id=tenant_id, deployment_id=deployment.id)
        return deployment

    def retire(self, deployment: Deployment) -> None:
        """Give a deleted deployment no request from now on; what it runs is finished in the background."""
        pool = self._pools.pop(deployment.id, None)
        if pool is not None:
            for key in _keys(deployment):
                self._found.pop(key, None)
            self.discard(pool)

    async def new_pool(self, deployment: Deployment, *, model: RegisteredModel) -> Pool:
        """Return engines for a deployment that are not loaded; ValidationError if the model is unreadable."""
        need = 0
        if self._residency.is_bounded:
            need = await asyncio.to_thread(memory_need, model, self._limits.engine)
        self._launched += 1
        name = f"{deployment.id.hex[-12:]}-{self._launched}"

        def launch(index: int) -> Replica:
            return self._launch(
                name=f"{name}-{index}",
                model_path=model.path,
                threads=deployment.threads,
                memory_limit_bytes=deployment.memory_limit_bytes,
            )

        return Pool(deployment, need_bytes=need, launch=launch, limits=self._limits.engine)

    def show(self, pool: Pool) -> None:
        """Give new requests for its deployment to a pool, from one moment to the next."""
        deployment = pool.deployment
        self._residency.add(pool)
        self._pools[deployment.id] = pool
        self._found |= dict.fromkeys(_keys(deployment), pool)

    def discard(self, pool: Pool) -> None:
        """Let a pool finish what it has, in the background, and go."""
        pool.is_retired = True
        retiring = asyncio.create_task(self._residency.retire(pool))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    def memory_limit(self, model: RegisteredModel) -> int:
        """Return the address space of an engine for a model, in bytes."""
        return self._limits.memory_bytes or policy.memory_limit_for(model)

    async def pin(self, tenant_id: UUID, name_or_id: str, *, is_pinned: bool) -> Deployment:
        """Remember whether a deployment stays in memory. Call `finish_pin` when that is committed.

        Raises:
            NotFoundError: there is no such deployment.
            InsufficientMemoryError: it does not fit beside what is pinned already.
        """
        pool = self.pool_of(tenant_id, name_or_id)
        if is_pinned:
            self._residency.require_room(pool.required_bytes, of=pool)
        changed = replace(pool.deployment, is_pinned=is_pinned)
        await self._store.change(changed)
        return changed

    def finish_pin(self, deployment: Deployment) -> None:
        """Keep a deployment in memory from now on, or let it leave when others need its place."""
        pool = self._pools[deployment.id]
        pool.deployment = deployment
        if deployment.is_pinned and not pool.is_in_memory:
            self._residency.load(pool)

    def statuses(self, deployment: Deployment) -> Sequence[ReplicaStatus]:
        """Return the status of each replica; empty when none is in memory here."""
        pool = self._pools.get(deployment.id)
        return pool.statuses if pool else []

    def all_statuses(self) -> Sequence[ReplicaStatus]:
        """Return the status of every replica of everybody, for the operator."""
        return [status for pool in self._pools.values() for status in pool.statuses]

    def engines(self) -> Sequence[EngineReading]:
        """Return what every engine that was asked for something has to do, for the operator."""
        return [reading for pool in self._residency.pools for reading in pool.readings()]

    def state(self, deployment: Deployment) -> DeploymentState:
        """Return what a tenant sees of this deployment."""
        pool = self._pools.get(deployment.id)
        return pool.state if pool else DeploymentState.DELETING

    async def shut_down(self) -> None:
        """Let every engine finish what it runs, then stop it; what is remembered stays remembered."""
        await self._residency.shut_down()
        for retiring in self._retiring:
            retiring.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        self._pools.clear()
        self._found.clear()

    async def _require_replicas(self, tenant_id: UUID, *, wanted: int) -> None:
        running = sum(one.replicas for one in await self.list(tenant_id))
        policy.require_replicas(wanted=wanted, running=running)


def no_such_deployment() -> NotFoundError:
    """Return what is raised for a deployment that is not there, or is somebody else's."""
    return NotFoundError("There is no such deployment.", kind="deployment")


def _is_version(pool: Pool, *, of: Deployment) -> bool:
    """Tell whether a pool runs what a deployment is to serve: one that a swap of this gateway loads, too."""
    return (pool.deployment.id, pool.deployment.model_id) == (of.id, of.model_id) and not pool.is_retired


def _keys(deployment: Deployment) -> Sequence[tuple[UUID, str]]:
    return [(deployment.tenant_id, deployment.name), (deployment.tenant_id, str(deployment.id))]
