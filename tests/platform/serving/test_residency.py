"""The budget of memory holds whatever is asked for, held, loaded, failing and leaving at the same time.

The engines here are doubles: this file is about the rules. tests/integration/test_residency.py has real ones.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tritium.engine.config import EngineConfig
from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.errors import InsufficientMemoryError
from tritium_platform.serving.errors import EngineUnavailableError
from tritium_platform.serving.model import Deployment, DeploymentState, ReplicaState, ReplicaStatus
from tritium_platform.serving.pool import Pool
from tritium_platform.serving.residency import MOST_WAITING, Residency
from tritium_platform.values import uuid7

BUDGET = 10


@dataclass
class Machine:
    """The memory that the engines share, and what must never happen to it."""

    budget: int = BUDGET
    engines: list[Engine] = field(default_factory=list)
    launches: int = 0
    is_ending: bool = False

    @property
    def used(self):
        return sum(max(engine.pool.need_bytes, engine.resident_bytes) for engine in self.engines)


class Engine:
    """A double of an engine: it is ready, or fails, when the test says so."""

    def __init__(self, machine, holder):
        self.machine, self.pool = machine, holder[0]
        self.state, self.resident_bytes = ReplicaState.STARTING, 0
        self.decided = asyncio.Event()
        machine.launches += 1

    @property
    def status(self):
        return ReplicaStatus(name="e", state=self.state, resident_bytes=self.resident_bytes)

    def watch(self, changed):
        pass

    def weigh(self, weight):
        pass

    async def start(self):
        pass

    async def wait_ready(self):
        await self.decided.wait()
        if self.state is not ReplicaState.READY:
            raise EngineUnavailableError("broken")

    def decide(self, state):
        self.state = state
        self.decided.set()

    async def drain(self, *, timeout):  # noqa: ASYNC109 - the protocol's signature
        if not self.machine.is_ending:
            assert self.pool.leases == 0, "an engine was stopped under a request"
            assert self.pool.is_retired or not self.pool.deployment.is_pinned, "a pinned engine was stopped"
        for _ in range(3):  # a process takes a moment to end, and its memory is taken until then
            await asyncio.sleep(0)
        self.state = ReplicaState.STOPPED
        self.decided.set()
        self.machine.engines.remove(self)


def a_pool(machine, clock, *, need, replicas=1, is_pinned=False, tenant_id=None):
    holder = []

    def launch(_index):
        engine = Engine(machine, holder)
        machine.engines.append(engine)
        own = [each for each in machine.engines if each.pool is engine.pool]
        assert len(own) <= replicas, "a model was loaded twice"
        assert machine.used <= machine.budget or not machine.budget, "a load went beyond the budget"
        return engine

    deployment = Deployment(
        id=uuid7(clock),
        tenant_id=tenant_id or uuid7(clock),
        model_id=uuid7(clock),
        name=f"need-{need}",
        replicas=replicas,
        threads=1,
        memory_limit_bytes=0,
        created_at=clock.now(),
        is_pinned=is_pinned,
    )
    holder.append(Pool(deployment, need_bytes=need, launch=launch, limits=EngineConfig()))
    return holder[0]


def a_residency(clock, *, budget=BUDGET, load_seconds=60.0, idle_seconds=0.0):
    return Residency(
        budget_bytes=budget,
        load_seconds=load_seconds,
        idle_seconds=idle_seconds,
        drain_seconds=60.0,
        clock=clock,
    )


async def settle():
    """Let everything happen that can happen by itself."""
    for _ in range(30):
        await asyncio.sleep(0)


NUMBERS = st.integers(min_value=0, max_value=1000)


class Budget(RuleBasedStateMachine):
    """Requests come, wait, leave and end; engines load, fail, grow; versions are replaced."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock, self.machine = ManualClock(), Machine()
        self.residency = a_residency(self.clock, idle_seconds=50.0)
        shapes = ((3, 1, False), (4, 1, False), (5, 1, False), (2, 2, False), (2, 1, True), (9, 1, False))
        self.pools = [
            a_pool(self.machine, self.clock, need=need, replicas=replicas, is_pinned=is_pinned)
            for need, replicas, is_pinned in shapes
        ]
        self.residency.add(*self.pools)
        self.waiting, self.held, self.retiring = [], [], []

    def run(self, *steps):
        async def go():
            for step in steps:
                step()
            await settle()

        self.loop.run_until_complete(go())
        for task in [each for each in self.waiting if each.done()]:
            self.waiting.remove(task)
            if not task.cancelled() and task.exception() is None:
                self.held.append(task.result())
            elif not task.cancelled():
                assert isinstance(task.exception(), InsufficientMemoryError | EngineUnavailableError)

    @rule(number=NUMBERS)
    def ask(self, number):
        pool = self.pools[number % len(self.pools)]
        self.run(lambda: self.waiting.append(self.loop.create_task(self.residency.lease(pool))))

    @rule(number=NUMBERS)
    def leave(self, number):
        if self.waiting:
            self.run(self.waiting[number % len(self.waiting)].cancel)

    @rule(number=NUMBERS)
    def end(self, number):
        if self.held:
            lease = self.held.pop(number % len(self.held))
            self.run(lease.release, lease.release)

    @rule(number=NUMBERS, is_broken=st.sampled_from((False, False, False, True)))
    def load(self, number, is_broken):
        starting = [each for each in self.machine.engines if each.state is ReplicaState.STARTING]
        if starting:
            state = ReplicaState.FAILED if is_broken else ReplicaState.READY
            self.run(lambda: starting[number % len(starting)].decide(state))

    @rule(number=NUMBERS)
    def grow(self, number):
        if self.machine.engines:
            self.machine.engines[number % len(self.machine.engines)].resident_bytes += 1

    @rule(seconds=st.integers(min_value=1, max_value=60))
    def trim(self, seconds):
        self.clock.advance(seconds=seconds)
        self.run(lambda: self.retiring.append(self.loop.create_task(self.residency.trim())))

    @rule(number=NUMBERS)
    def replace(self, number):
        place = number % len(self.pools)
        old = self.pools[place]
        new = a_pool(
            self.machine,
            self.clock,
            need=old.need_bytes,
            replicas=old.deployment.replicas,
            is_pinned=old.deployment.is_pinned,
        )
        self.pools[place] = new
        self.residency.add(new)
        self.run(lambda: self.retiring.append(self.loop.create_task(self.residency.retire(old))))

    @invariant()
    def what_is_charged_is_what_is_there(self):
        assert self.residency.charged_bytes == self.machine.used

    @invariant()
    def what_is_held_is_in_memory(self):
        for lease in self.held:
            assert lease.pool.is_in_memory

    @invariant()
    def nobody_waits_for_a_model_that_is_ready(self):
        assert not (self.waiting and all(pool.state is DeploymentState.READY for pool in self.pools))

    def teardown(self):
        # Whoever waits is served or refused once the others have ended, and so is a load that nobody wants.
        for _ in range(200):
            if not self.waiting and all(task.done() for task in self.retiring):
                break
            for engine in list(self.machine.engines):
                if engine.state is ReplicaState.STARTING:
                    self.run(lambda engine=engine: engine.decide(ReplicaState.READY))
                engine.resident_bytes = 0
            while self.held:
                self.run(self.held.pop().release)
        assert not self.waiting, "a request waits for ever"
        while self.held:
            self.run(self.held.pop().release)
        self.run()
        assert all(task.done() and not task.exception() for task in self.retiring)
        self.machine.is_ending = True
        self.loop.run_until_complete(self.residency.shut_down())
        assert self.machine.engines == []
        self.loop.close()


Budget.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_the_budget_holds = Budget.TestCase


async def test_many_requests_for_one_model_share_one_load():
    machine, clock = Machine(), ManualClock()
    residency, pool = a_residency(clock), a_pool(machine, clock, need=3)
    residency.add(pool)
    asks = [asyncio.create_task(residency.lease(pool)) for _ in range(50)]
    await settle()
    machine.engines[0].decide(ReplicaState.READY)
    leases = await asyncio.gather(*asks)
    assert machine.launches == 1
    assert pool.leases == 50
    for lease in leases:
        lease.release()
    assert pool.leases == 0


async def test_the_least_recently_used_leaves_and_comes_back_when_asked_for():
    machine, clock = Machine(), ManualClock()
    residency = a_residency(clock)
    first, second, third = pools = [a_pool(machine, clock, need=4) for _ in range(3)]
    residency.add(*pools)

    async def use(pool):
        ask = asyncio.create_task(residency.lease(pool))
        await settle()
        for engine in machine.engines:
            engine.decide(ReplicaState.READY)
        (await ask).release()
        clock.advance(seconds=1)

    for pool in (first, second, first, third):
        await use(pool)
    assert [pool.state for pool in pools] == ["ready", "unloaded", "ready"]
    await use(second)
    assert [pool.state for pool in pools] == ["unloaded", "ready", "ready"]


async def test_what_can_never_fit_is_refused_at_once_with_both_numbers():
    clock = ManualClock()
    residency, machine = a_residency(clock), Machine()
    pinned, large = a_pool(machine, clock, need=4, is_pinned=True), a_pool(machine, clock, need=7)
    residency.add(pinned, large)
    with pytest.raises(InsufficientMemoryError) as refusal:
        await residency.lease(large)
    assert refusal.value.details == {"required": 7, "available": 6}
    assert large.leases == 0


async def test_a_request_waits_for_room_and_no_longer_than_it_may():
    machine, clock = Machine(), ManualClock()
    residency = a_residency(clock, load_seconds=0.2)
    busy, other = (a_pool(machine, clock, need=6) for _ in range(2))
    residency.add(busy, other)
    ask = asyncio.create_task(residency.lease(busy))
    await settle()
    machine.engines[0].decide(ReplicaState.READY)
    lease = await ask
    with pytest.raises(EngineUnavailableError, match="are in use") as refusal:
        await residency.lease(other)
    assert refusal.value.details["retry_after"] == 1
    assert busy.is_in_memory
    ask = asyncio.create_task(residency.lease(other))
    await settle()
    lease.release()
    await settle()
    machine.engines[0].decide(ReplicaState.READY)
    await ask
    assert (busy.state, other.state) == ("unloaded", "ready")


async def test_only_so_many_wait_for_one_model():
    machine, clock = Machine(), ManualClock()
    residency, pool = a_residency(clock), a_pool(machine, clock, need=3)
    residency.add(pool)
    asks = [asyncio.create_task(residency.lease(pool)) for _ in range(MOST_WAITING)]
    await settle()
    with pytest.raises(EngineUnavailableError, match="wait for the model"):
        await residency.lease(pool)
    machine.engines[0].decide(ReplicaState.READY)
    await asyncio.gather(*asks)
    await residency.lease(pool)


async def test_without_a_budget_everything_stays():
    machine, clock = Machine(budget=0), ManualClock()
    residency = a_residency(clock, budget=0)
    pools = [a_pool(machine, clock, need=1000) for _ in range(5)]
    residency.add(*pools)
    residency.load_what_fits(pools)
    await settle()
    for engine in machine.engines:
        engine.decide(ReplicaState.READY)
    await settle()
    await residency.trim()
    assert {pool.state for pool in pools} == {"ready"}


async def test_a_model_is_idle_since_it_was_there_and_not_since_its_load_began():
    machine, clock = Machine(), ManualClock()
    residency = a_residency(clock, idle_seconds=5.0)
    pool = a_pool(machine, clock, need=1)
    residency.add(pool)
    residency.load_what_fits([pool])
    await settle()
    clock.advance(seconds=60)  # a slow load that no request waits for
    machine.engines[0].decide(ReplicaState.READY)
    await settle()
    await residency.trim()
    assert pool.state is DeploymentState.READY
    clock.advance(seconds=4)
    await residency.trim()
    assert pool.state is DeploymentState.READY
    clock.advance(seconds=2)
    await residency.trim()
    assert pool.state is DeploymentState.UNLOADED


async def test_at_the_start_what_is_pinned_comes_first_and_the_rest_as_far_as_it_fits():
    machine, clock = Machine(), ManualClock()
    residency = a_residency(clock)
    pools = [
        a_pool(machine, clock, need=5),
        a_pool(machine, clock, need=4),
        a_pool(machine, clock, need=3, is_pinned=True),
    ]
    residency.add(*pools)
    residency.load_what_fits(pools)
    await settle()
    assert [pool.state for pool in pools] == ["starting", "unloaded", "starting"]
