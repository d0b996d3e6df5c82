"""What a tenant deploys, however many ask at the same time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tritium_platform.adapters.memory.alias_store import MemoryAliasStore
from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.model_store import MemoryDeploymentStore, MemoryModelStore
from tritium_platform.errors import NotFoundError, RequestTooLargeError
from tritium_platform.serving.aliases import AliasService
from tritium_platform.serving.deployments import DeploymentService, DeploymentWish, ServingLimits
from tritium_platform.serving.model import ModelKind, ReplicaState, ReplicaStatus
from tritium_platform.serving.policy import MAX_TENANT_REPLICAS
from tritium_platform.serving.registry import RegistryService
from tritium_platform.serving.residency import Residency
from tritium_platform.tenancy.model import ALL_SCOPES, TIER_LIMITS, TenantContext, TenantTier
from tritium_platform.values import uuid7


class Standing:
    """A replica that only stands there."""

    status = ReplicaStatus(name="r", state=ReplicaState.READY)

    def watch(self, changed):
        pass

    def weigh(self, weight):
        pass

    async def start(self):
        pass

    async def wait_ready(self):
        pass

    async def drain(self, *, timeout):  # noqa: ASYNC109 - the protocol's signature
        pass


async def test_nobody_gets_more_engines_by_asking_many_times_at_once():
    clock, database = ManualClock(), MemoryDatabase()
    limits = TIER_LIMITS[TenantTier.TEAM]
    context = TenantContext(uuid7(clock), "Ada", TenantTier.TEAM, limits, "abcDEF012345", ALL_SCOPES)
    registry = RegistryService(store=MemoryModelStore(database), roots=(), clock=clock)
    await registry.add(
        context.tenant_id, name="m", path=Path("m"), kind=ModelKind.GENERATE, size=1, source="path"
    )
    started = []

    def launch(**replica):
        started.append(replica["name"])
        return Standing()

    store = MemoryDeploymentStore(database)
    service = DeploymentService(
        store=store,
        registry=registry,
        aliases=AliasService(store=MemoryAliasStore(database), deployments=store, clock=clock),
        residency=Residency(budget_bytes=0, load_seconds=1, idle_seconds=0, drain_seconds=1, clock=clock),
        launch=launch,
        clock=clock,
        limits=ServingLimits(),
    )
    wishes = [DeploymentWish(model="m", name=f"d{number}", replicas=5) for number in range(6)]
    plans = [await service.plan(context, wish=wish) for wish in wishes]
    ends = await asyncio.gather(*(service.create(plan) for plan in plans), return_exceptions=True)
    assert [type(end) for end in ends if isinstance(end, Exception)] == [RequestTooLargeError] * 3
    assert len(started) == 15 <= MAX_TENANT_REPLICAS


@pytest.mark.parametrize(("threads", "replicas", "each"), [(0, 1, 8), (0, 3, 2), (0, 8, 1), (4, 3, 4)])
def test_replicas_divide_the_cores_unless_their_threads_are_set(threads, replicas, each):
    assert ServingLimits(threads=threads, cores=8).threads_of(replicas=replicas) == each


async def test_a_gateway_follows_what_another_deploys_swaps_and_deletes_and_never_what_it_makes_itself():
    clock, database = ManualClock(), MemoryDatabase()
    limits = TIER_LIMITS[TenantTier.TEAM]
    context = TenantContext(uuid7(clock), "Ada", TenantTier.TEAM, limits, "abcDEF012345", ALL_SCOPES)
    registry = RegistryService(store=MemoryModelStore(database), roots=(), clock=clock)
    models = [
        await registry.add(
            context.tenant_id, name=name, path=Path(name), kind=ModelKind.GENERATE, size=1, source="path"
        )
        for name in ("m", "n")
    ]
    store = MemoryDeploymentStore(database)

    def gateway():
        return DeploymentService(
            store=store,
            registry=registry,
            aliases=AliasService(store=MemoryAliasStore(database), deployments=store, clock=clock),
            residency=Residency(budget_bytes=0, load_seconds=1, idle_seconds=0, drain_seconds=1, clock=clock),
            launch=lambda **_: Standing(),
            clock=clock,
            limits=ServingLimits(),
        )

    def model_at(service):
        try:
            return service.pool_of(context.tenant_id, "d").deployment.model_id
        except NotFoundError:
            return None

    async def follow(service):
        for _ in range(2):
            await service.follow()

    one, other = gateway(), gateway()
    made = await one.create(await one.plan(context, wish=DeploymentWish(model="m", name="d")))
    await follow(other)
    assert model_at(other) == models[0].id
    await store.change(replace(made, model_id=models[1].id))
    await follow(other)
    assert model_at(other) == models[1].id
    await one.delete(context.tenant_id, "d")
    await other.follow()
    assert model_at(other) is not None  # once may be this gateway's own doing
    await other.follow()
    assert model_at(other) is None
    # What is shown here and not committed yet stays.
    deployment, model = await one.plan(context, wish=DeploymentWish(model="m", name="d"))
    other.show(await other.new_pool(deployment, model=model))
    await follow(other)
    assert model_at(other) == models[0].id
    for service in (one, other):
        await service.shut_down()
