"""The lazy heap against a twin that looks at everybody, with fractions, and forgets nobody."""

from __future__ import annotations

import heapq
import itertools
from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tritium.engine import fair_share
from tritium.engine.fair_share import FairShare
from tritium.engine.first_come import FirstComeFirstServed
from tritium.engine.request import MAX_PRIORITY, MAX_WEIGHT, GenerationRequest, SamplingParams
from tritium.engine.sequence import Sequence
from tritium.errors import ValidationError

SERIALS = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def forgets_early():
    """Let tenants be forgotten as soon as they can be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fair_share, "_FEWEST_TENANTS", 1)
        yield


def new_sequence(tenant="a", *, weight=1, priority=0, num_prompt=4, arrival=0.0) -> Sequence:
    serial = next(SERIALS)
    request = GenerationRequest(
        request_id=str(serial),
        prompt_token_ids=(1,) * num_prompt,
        sampling=SamplingParams(max_tokens=100),
        arrival=arrival,
        tenant=tenant,
        weight=weight,
        priority=priority,
    )
    return Sequence(request, decoder=None, limit=1000, serial=serial)


class BruteForce:
    """The same rules, written as they are said: every question looks at all tenants."""

    def __init__(self) -> None:
        self.counters: dict[str, Fraction] = {}
        self.weights: dict[str, int] = {}
        self.turns: dict[str, int] = {}
        self.waiting: list[Sequence] = []
        self.last: str | None = None
        self.num_turns = 0

    def queued(self) -> set[str]:
        return {sequence.request.tenant for sequence in self.waiting}

    def first_tenant(self) -> str | None:
        return min(self.queued(), key=lambda name: (self.counters[name], self.turns[name]), default=None)

    def add(self, sequence: Sequence) -> None:
        self.weights[sequence.request.tenant] = sequence.request.weight
        self.wait(sequence)

    def wait(self, sequence: Sequence) -> None:
        name = sequence.request.tenant
        if name not in self.queued():
            base = self.first_tenant() or self.last
            floor = self.counters[base] if base is not None else Fraction(0)
            self.counters[name] = max(self.counters.get(name, Fraction(0)), floor)
            self.num_turns += 1
            self.turns[name] = self.num_turns
        self.waiting.append(sequence)

    def next(self) -> Sequence | None:
        name = self.first_tenant()
        own = [sequence for sequence in self.waiting if sequence.request.tenant == name]
        return min(own, key=lambda s: (s.request.priority, s.request.arrival, s.serial), default=None)

    def leave(self, sequence: Sequence) -> None:
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            if sequence.request.tenant not in self.queued():
                self.last = sequence.request.tenant

    def start(self, sequence: Sequence) -> None:
        self.leave(sequence)
        if not sequence.num_preemptions:
            self.serve(sequence, sequence.num_prompt - sequence.num_computed)

    def serve(self, sequence: Sequence, price: int) -> None:
        name = sequence.request.tenant
        self.counters[name] += Fraction(price, self.weights[name])


class Turns(RuleBasedStateMachine):
    """Both twins live through the same requests, and name the same next one at every moment."""

    def __init__(self) -> None:
        super().__init__()
        self.policy, self.twin = FairShare(), BruteForce()
        self.running: list[Sequence] = []

    @rule(
        tenant=st.sampled_from("abcdef"),
        weight=st.sampled_from((1, 1, 1, 2, 3, 7, 32)),
        priority=st.integers(-1, 1),
        arrival=st.integers(0, 3),
        num_prompt=st.integers(1, 9),
    )
    def add(self, tenant: str, weight: int, priority: int, arrival: int, num_prompt: int) -> None:
        sequence = new_sequence(
            tenant, weight=weight, priority=priority, arrival=float(arrival), num_prompt=num_prompt
        )
        self.policy.add(sequence)
        self.twin.add(sequence)

    @precondition(lambda self: self.twin.waiting)
    @rule(num_shared=st.integers(0, 8))
    def start(self, num_shared: int) -> None:
        sequence = self.policy.next()
        sequence.num_computed = min(num_shared, sequence.num_prompt - 1)
        self.policy.start(sequence)
        self.twin.start(sequence)
        self.running.append(sequence)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), num_tokens=st.integers(1, 30))
    def write(self, data: st.DataObject, num_tokens: int) -> None:
        sequence = data.draw(st.sampled_from(self.running))
        for _ in range(num_tokens):
            self.policy.charge(sequence)
            self.twin.serve(sequence, 2)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.running))
        self.running.remove(sequence)
        sequence.forget_computed()
        self.policy.stop(sequence)
        self.twin.wait(sequence)

    @precondition(lambda self: self.running or self.twin.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from([*self.running, *self.twin.waiting]))
        if sequence in self.running:
            self.running.remove(sequence)
        self.policy.remove(sequence)
        self.twin.leave(sequence)

    @rule()
    def drain(self) -> None:
        while (sequence := self.policy.next()) is not None:
            assert sequence is self.twin.next()
            for each in (self.policy, self.twin):
                each.start(sequence)
            self.policy.remove(sequence)
        for sequence in self.running:
            self.policy.remove(sequence)
        self.running.clear()

    @invariant()
    def both_name_the_same(self) -> None:
        assert self.policy.next() is self.twin.next()
        assert len(self.policy) == len(self.twin.waiting)

    @invariant()
    def counters_are_exact_and_running_ones_are_ranked_by_them(self) -> None:
        for name, tenant in self.policy._tenants.items():
            if tenant.known:
                assert Fraction(tenant.counter, fair_share._UNIT) == self.twin.counters[name]
        ranked = sorted(self.running, key=self.policy.rank)
        counters = [self.twin.counters[sequence.request.tenant] for sequence in ranked]
        assert counters == sorted(counters)

    @invariant()
    def memory_is_that_of_who_is_there(self) -> None:
        assert len(self.policy._heap) <= len(self.twin.counters)
        assert sum(t.known for t in self.policy._tenants.values()) == len(self.running) + len(self.policy)


TestTurns = Turns.TestCase
TestTurns.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


@pytest.mark.parametrize("policy", [FairShare, FirstComeFirstServed])
def test_a_policy_holds_who_waits_and_lets_go_of_everybody_in_every_state(policy):
    turns = policy()
    assert turns.next() is None
    sequences = [new_sequence(name, arrival=float(place)) for place, name in enumerate("abcabc")]
    for sequence in sequences:
        turns.add(sequence)
    assert len(turns) == 6
    started = []
    for _ in range(4):
        started.append(turns.next())
        turns.start(started[-1])
        turns.charge(started[-1])
    assert len(set(started)) == 4
    assert len(turns) == 2
    started[0].forget_computed()
    turns.stop(started[0])
    assert len(turns) == 3
    assert len({turns.rank(sequence) for sequence in started[1:]}) == 3
    for sequence in sequences:
        turns.remove(sequence)
    assert len(turns) == 0
    assert turns.next() is None


def test_one_tenant_alone_is_served_in_the_order_of_arrival_behind_its_urgent_requests():
    turns = FairShare()
    late, early, urgent = (
        new_sequence(arrival=2.0), new_sequence(arrival=1.0), new_sequence(arrival=3.0, priority=-1)
    )  # fmt: skip
    for sequence in (late, early, urgent):
        turns.add(sequence)
    order = []
    while (sequence := turns.next()) is not None:
        turns.start(sequence)
        order.append(sequence)
    assert order == [urgent, early, late]


def start_all(turns, *, places) -> list[str]:
    started = []
    while len(started) < places and (sequence := turns.next()) is not None:
        turns.start(sequence)
        started.append(sequence.request.tenant)
    return started


def test_places_are_kept_for_who_comes_next_once_there_is_anybody_else(monkeypatch):
    monkeypatch.setattr(fair_share, "_FEWEST_TENANTS", 1024)
    turns = FairShare(places=16)
    for _ in range(40):
        turns.add(new_sequence("flood"))
    assert start_all(turns, places=16) == ["flood"] * 16  # nobody else has ever come
    turns = FairShare(places=16)
    visitor = new_sequence("visitor")
    turns.add(visitor)
    turns.remove(visitor)
    for _ in range(40):
        turns.add(new_sequence("flood"))
    assert start_all(turns, places=16) == ["flood"] * 14
    turns.add(new_sequence("visitor"))
    assert "visitor" in start_all(turns, places=2)
    assert len(turns) in {25, 24}


def test_tenants_that_owe_nothing_are_forgotten_and_debtors_are_not():
    turns = FairShare()
    debtor = new_sequence("debtor")
    turns.add(debtor)
    turns.start(debtor)
    other = new_sequence("other")
    turns.add(other)
    for _ in range(1000):
        turns.charge(debtor)
    turns.remove(debtor)
    turns.start(other)
    turns.remove(other)
    for number in range(50):
        visitor = new_sequence(f"visitor-{number}", num_prompt=1)
        turns.add(visitor)
        turns.start(visitor)
        turns.remove(visitor)
    assert "debtor" in turns._tenants
    assert len(turns._tenants) <= 4


@pytest.mark.parametrize(
    ("field", "value"),
    [("weight", 0), ("weight", MAX_WEIGHT + 1), ("weight", 1.5), ("priority", MAX_PRIORITY + 1)],
)
def test_a_weight_or_a_priority_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ValidationError) as caught:
        GenerationRequest(request_id="r", prompt_token_ids=(1,), **{field: value})
    assert caught.value.details["param"] == field


def test_a_pick_among_thousands_of_tenants_puts_one_entry_right(monkeypatch):
    mended = []
    replace = heapq.heapreplace
    monkeypatch.setattr(heapq, "heapreplace", lambda *args: (mended.append(1), replace(*args))[1])
    turns = FairShare()
    for number in range(4096):
        for _ in range(2):
            turns.add(new_sequence(str(number)))
    for _ in range(1000):
        sequence = turns.next()
        turns.start(sequence)
        for _ in range(50):
            turns.charge(sequence)
        turns.stop(sequence)
    assert len(mended) <= 2000
