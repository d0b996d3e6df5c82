"""Whose models leave first: a tenant within its share of the memory keeps what it uses.

The engines here are doubles: this file is about the rules. tests/integration/test_residency.py has real ones.
"""

from __future__ import annotations

import asyncio
from fractions import Fraction
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.engine.config import EngineConfig
from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.quotas.fairshare import ShareBound
from tritium_platform.serving.memory_shares import RECENT_NANOSECONDS, leaving_order, share_memory
from tritium_platform.serving.model import Deployment, ReplicaState, ReplicaStatus
from tritium_platform.serving.pool import Pool
from tritium_platform.serving.residency import Residency, choose_leaving
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import uuid7

BUDGET = 10
A, B = UUID(int=1), UUID(int=2)


class Engine:
    """A double of an engine that is ready at once and ends at once."""

    status = ReplicaStatus(name="e", state=ReplicaState.READY)

    def weigh(self, weight):
        pass

    async def start(self):
        pass

    async def wait_ready(self):
        pass

    async def drain(self, *, timeout):  # noqa: ASYNC109 - the protocol's signature
        pass


def a_pool(*, tenant_id, need=1, used_at=None, is_pinned=False, tier=TenantTier.DEVELOPER, leases=0):
    clock = ManualClock()
    deployment = Deployment(
        id=uuid7(clock),
        tenant_id=tenant_id,
        model_id=uuid7(clock),
        name=f"need-{need}",
        replicas=1,
        threads=1,
        memory_limit_bytes=0,
        created_at=clock.now(),
        is_pinned=is_pinned,
    )
    pool = Pool(deployment, need_bytes=need, launch=lambda _: Engine(), limits=EngineConfig())
    pool.tier, pool.leases = tier, leases
    if used_at is not None:
        pool.launch()
        pool.last_used = used_at
    return pool


def test_a_tenant_that_cycles_through_many_models_pushes_out_its_own():
    clock = ManualClock()
    clock.advance(seconds=1)
    residency = Residency(budget_bytes=BUDGET, load_seconds=60, idle_seconds=0, drain_seconds=1, clock=clock)
    steady = a_pool(tenant_id=B)
    many = [a_pool(tenant_id=A) for _ in range(12)]
    residency.add(steady, *many)
    reloads = 0

    async def go():
        nonlocal reloads
        for turn in range(120):
            if turn % 12 == 0:  # B asks once while A asks twelve times: by last use, B would always be next
                reloads += not steady.is_in_memory
                (await residency.lease(steady)).release()
            (await residency.lease(many[turn % 12])).release()
            clock.advance(seconds=1)
            assert residency.charged_bytes <= BUDGET

    asyncio.run(go())
    assert reloads == 1  # the first time
    shares = {share.tenant_id: share for share in residency.shares()}
    assert (shares[B].used_bytes, shares[B].share.amount) == (1, 1)
    assert (shares[A].wanted_bytes, shares[A].share.amount) == (12, 9)
    assert shares[A].share.bound is ShareBound.LEVEL


def test_what_nobody_used_for_a_while_leaves_before_anything_else():
    now = 2 * RECENT_NANOSECONDS
    forgotten = a_pool(tenant_id=B, need=1, used_at=now - RECENT_NANOSECONDS)
    busy = [a_pool(tenant_id=A, used_at=now - 1 - place) for place in range(9)]
    newcomer = a_pool(tenant_id=A)
    order = leaving_order([forgotten, *busy, newcomer], budget=BUDGET, now=now, newcomer=newcomer)
    assert order[0] is forgotten


def test_the_share_follows_the_tier_and_what_is_pinned_is_guaranteed():
    now = RECENT_NANOSECONDS
    pools = [
        a_pool(tenant_id=A, need=9, used_at=now - 1, tier=TenantTier.TEAM),
        a_pool(tenant_id=B, need=9, used_at=now - 1),
        a_pool(tenant_id=UUID(int=3), need=4, used_at=now - 1, is_pinned=True),
    ]
    shares = share_memory(pools, budget=14, now=now)
    assert [share.share.amount for share in shares.values()] == [8, 2, 4]
    assert shares[UUID(int=3)].share.bound is ShareBound.DEMAND
    unbounded = share_memory(pools, budget=0, now=now)
    assert [share.share for share in unbounded.values()] == [None] * 3
    assert unbounded[UUID(int=3)].pinned_bytes == 4


def test_engines_that_have_outgrown_what_was_pinned_are_shared_out_by_weight_alone():
    pools = [a_pool(tenant_id=tenant, need=8, used_at=1, is_pinned=True) for tenant in (A, B)]
    assert {share.share.amount for share in share_memory(pools, budget=10, now=2).values()} == {5}


@st.composite
def memories(draw):
    """Pools of four tenants in a memory that is full, and one more that is asked for."""
    now = 2 * RECENT_NANOSECONDS
    pools = [
        a_pool(
            tenant_id=UUID(int=draw(st.integers(1, 4))),
            need=draw(st.integers(1, 5)),
            used_at=now - draw(st.integers(1, 2 * RECENT_NANOSECONDS - 1)),
            is_pinned=draw(st.sampled_from((False, False, False, True))),
            tier=draw(st.sampled_from(TenantTier)),
            leases=draw(st.sampled_from((0, 0, 1))),
        )
        for _ in range(draw(st.integers(1, 10)))
    ]
    newcomer = a_pool(tenant_id=UUID(int=draw(st.integers(1, 4))), need=draw(st.integers(1, 5)))
    budget = max(1, sum(pool.charged_bytes for pool in pools) - draw(st.integers(-5, 5)))
    return pools, newcomer, budget, now


@given(memories())
@settings(max_examples=60)
def test_who_stays_within_its_share_loses_a_model_only_if_nothing_else_makes_the_room(memory):
    pools, newcomer, budget, now = memory
    everybody = [*pools, newcomer]
    excess = sum(pool.charged_bytes for pool in pools) + newcomer.required_bytes - budget
    order = leaving_order(everybody, budget=budget, now=now, newcomer=newcomer)
    assert set(order) == {pool for pool in pools if pool.is_evictable}
    leaving = choose_leaving(order, excess=excess)
    shares = share_memory(everybody, budget=budget, now=now, newcomer=newcomer)
    for lost in leaving:
        tenant = lost.deployment.tenant_id
        is_recent = now - lost.last_used < RECENT_NANOSECONDS
        if shares[tenant].beyond <= 0 and is_recent:
            # All that is not used, and all that others have beyond their shares, leaves too.
            for other in order:
                idle = now - other.last_used >= RECENT_NANOSECONDS
                gone = sum(
                    pool.charged_bytes
                    for pool in leaving
                    if pool.deployment.tenant_id == other.deployment.tenant_id
                )
                is_over = shares[other.deployment.tenant_id].beyond - gone > 0
                assert other in leaving or not (idle or is_over)


@given(memories())
@settings(max_examples=60)
def test_shares_are_never_more_than_the_budget(memory):
    pools, newcomer, budget, now = memory
    shares = share_memory([*pools, newcomer], budget=budget, now=now, newcomer=newcomer)
    assert sum((share.share.amount for share in shares.values()), Fraction(0)) <= budget
