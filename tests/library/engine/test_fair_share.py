"""The lazy heap against a twin that looks at everybody, with fractions, and forgets nobody."""

from __future__ import annotations

import heapq
import itertools
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
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
        return {sequence.tenant for sequence in self.waiting}

    def first_tenant(self) -> str | None:
        return min(self.queued(), key=lambda name: (self.counters[name], self.turns[name]), default=None)

    def add(self, sequence: Sequence) -> None:
        self.weights[sequence.tenant] = sequence.weight
        if sequence.tenant not in self.turns:
            self.take_turn(sequence.tenant)
        self.wait(sequence)

    def take_turn(self, name: str) -> None:
        self.num_turns += 1
        self.turns[name] = self.num_turns

    def forget_turns(self, known: set[str]) -> None:
        """Who was forgotten is a newcomer where counters are equal; its counter is that of one anyway."""
        self.turns = {name: turn for name, turn in self.turns.items() if name in known}

    def wait(self, sequence: Sequence) -> None:
        name = sequence.tenant
        if name not in self.queued():
            base = self.first_tenant() or self.last
            floor = self.counters[base] if base is not None else Fraction(0)
            self.counters[name] = max(self.counters.get(name, Fraction(0)), floor)
        self.waiting.append(sequence)

    def next(self) -> Sequence | None:
        name = self.first_tenant()
        own = [sequence for sequence in self.waiting if sequence.tenant == name]
        return min(own, key=lambda s: (s.request.priority, s.request.arrival, s.serial), default=None)

    def leave(self, sequence: Sequence) -> None:
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            if sequence.tenant not in self.queued():
                self.last = sequence.tenant

    def start(self, sequence: Sequence) -> None:
        self.take_turn(sequence.tenant)
        self.leave(sequence)
        if not sequence.num_preemptions:
            self.serve(sequence, sequence.num_prompt - sequence.num_computed)

    def serve(self, sequence: Sequence, price: int) -> None:
        name = sequence.tenant
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
        self.twin.forget_turns(set(self.policy._tenants) - ({tenant} if self.is_new(tenant) else set()))
        self.twin.add(sequence)

    def is_new(self, tenant: str) -> bool:
        """Whether the policy has just made the tenant, known before or not."""
        return self.policy._tenants[tenant].turn == self.policy._turns

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
            if tenant.running or tenant.line:
                assert Fraction(tenant.counter, fair_share._UNIT) == self.twin.counters[name]
        ranked = sorted(self.running, key=self.policy.rank)
        counters = [self.twin.counters[sequence.tenant] for sequence in ranked]
        assert counters == sorted(counters)

    @invariant()
    def memory_is_that_of_who_is_there(self) -> None:
        assert len(self.policy._heap) <= len(self.twin.counters)
        tenants = self.policy._tenants.values()
        assert sum(tenant.running for tenant in tenants) == len(self.running)
        assert sum(len(tenant.line) for tenant in tenants) == len(self.policy)
        assert set(self.policy._in_batch) == {sequence.tenant for sequence in self.running}


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


class KeepsItsPlaceInLine(FairShare):
    """Of equal counters the one that has waited longest comes first, however often it had its turn."""

    def start(self, claim):
        turn = self._tenants[claim.tenant].turn
        super().start(claim)
        self._tenants[claim.tenant].turn = turn


@pytest.mark.parametrize(("policy", "first"), [(FairShare, "visitor"), (KeepsItsPlaceInLine, "flood")])
def test_of_equal_counters_the_one_whose_turn_is_longest_ago_comes_first(policy, first):
    turns = policy()
    for _ in range(9):
        turns.add(new_sequence("flood"))
    visitor = new_sequence("visitor")
    turns.add(visitor)
    assert turns.next().tenant == "flood"  # it came first
    turns.start(turns.next())
    turns.start(visitor)
    turns.remove(visitor)
    turns.start(turns.next())
    turns.add(new_sequence("visitor"))  # starts from the counter of the flood
    assert len({tenant.counter for tenant in turns._tenants.values()}) == 1
    assert turns.next().tenant == first


def who_gives_way(policy, running, newcomer, weights) -> int | None:
    """Return the place in the batch of the claim that gives way to a newcomer."""
    turns = policy()
    batch = [new_sequence(name, weight=weights[name]) for name in running]
    for claim in batch:
        turns.add(claim)
    while (claim := turns.next()) is not None:
        turns.start(claim)
    turns.add(new_sequence(newcomer, weight=weights[newcomer]))
    victim = turns.gives_way(batch)
    return None if victim is None else batch.index(victim)


def require_just_loss(policy, running, newcomer, weights) -> None:
    """Check that whoever gives way has far more, keeps a claim, and does not take its place back."""
    held = {name: Fraction(running.count(name), weights[name]) for name in "abcd"}
    most = max((held[name] for name in "abcd" if running.count(name) > 1), default=Fraction(0))
    wanted = held[newcomer] + Fraction(1, weights[newcomer])
    place = who_gives_way(policy, running, newcomer, weights)
    if place is None:
        assert most <= 2 * wanted or running.count(newcomer) == len(running)
        return
    loser = running[place]
    own = [number for number, name in enumerate(running) if name == loser]
    assert held[loser] == most > 2 * wanted
    assert place == own[-1] != own[0]
    after = running[:place] + running[place + 1 :] + [newcomer]
    back = who_gives_way(policy, after, loser, weights)
    assert back is None or after[back] != newcomer


@given(
    running=st.lists(st.sampled_from("abcd"), min_size=1, max_size=20),
    weights=st.fixed_dictionaries(dict.fromkeys("abcd", st.sampled_from((1, 2, 7, 32)))),
    newcomer=st.sampled_from("abcd"),
)
def test_who_gives_way_has_far_more_keeps_one_and_does_not_take_it_back(running, weights, newcomer):
    require_just_loss(FairShare, running, newcomer, weights)


class GivesItsOldest(FairShare):
    def gives_way(self, running):
        victim = super().gives_way(running)
        return victim and next(claim for claim in running if claim.tenant == victim.tenant)


class GivesItsLast(FairShare):
    """Lets a tenant give way that has a single claim."""

    def gives_way(self, running):
        lowest = self._lowest()
        others = [claim for claim in running if claim.tenant != lowest.line.first.tenant]
        return max(others, key=self.rank, default=None)


class CountsHeads(FairShare):
    """Gives weights no weight."""

    def add(self, claim):
        claim.weight = 1
        super().add(claim)


@pytest.mark.parametrize("mutant", [GivesItsOldest, GivesItsLast, CountsHeads])
def test_a_mutant_of_giving_way_is_caught(mutant):
    chance = random.Random(1)

    def play() -> None:
        for _ in range(300):
            weights = {name: chance.choice((1, 2, 7, 32)) for name in "abcd"}
            running = [chance.choice("abcd") for _ in range(chance.randint(1, 20))]
            require_just_loss(mutant, running, chance.choice("abcd"), weights)

    with pytest.raises(AssertionError):
        play()


def test_others_are_expected_until_one_tenant_has_sent_very_many_in_a_row(monkeypatch):
    monkeypatch.setattr(fair_share, "_LATELY", 8)
    turns = FairShare()
    for _ in range(3):
        turns.add(new_sequence("flood"))
        assert not turns.is_shared  # nobody else has ever come
    turns.add(new_sequence("visitor"))
    assert turns.is_shared
    shared = []
    for _ in range(10):
        turns.add(new_sequence("flood"))
        shared.append(turns.is_shared)
    assert shared == [True] * 7 + [False] * 3


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
