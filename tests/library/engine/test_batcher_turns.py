"""When batches of embeddings start, and what each tenant has in them, on generated traces."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.engine.batcher import BatcherConfig, EmbeddingBatcher
from tritium.engine.fair_share import FairShare
from tritium.engine.first_come import FirstComeFirstServed
from tritium.engine.request import QueueFullError
from tritium.errors import ValidationError

LONGEST, DELAY, BATCH_SECONDS = 8, 0.25, 1.0
WEIGHTS = {"a": 1, "b": 1, "c": 4, "d": 32}
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from((0.0, 0.0, 0.0, 0.125, 0.5, 4.0)),  # seconds since the one before
        st.sampled_from("abcd"),
        st.lists(st.integers(1, LONGEST), min_size=1, max_size=12),
    ),
    max_size=40,
)


class TurnsError(Exception):
    """Which rule is broken."""


@dataclass
class Input:
    """One input of a trace."""

    tenant: str
    size: int
    arrival: float
    served_before: Counter[str]  # tokens of each tenant when the input's tenant began to wait
    batches_before: int


@dataclass
class Trace:
    """A batcher on a clock that a batch puts forward; inputs are told apart by their first token."""

    policy: object
    batcher_type: type[EmbeddingBatcher] = EmbeddingBatcher
    max_inputs: int = 4
    max_tokens: int = 16
    now: float = 0.0  # when the batch that runs, or ran last, ends
    arriving: float | None = None  # the time of a request, which may come while a batch runs
    inputs: list[Input] = field(default_factory=list)
    waiting: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    served: Counter[str] = field(default_factory=Counter)
    num_batches: int = 0
    broken: TurnsError | None = None  # a batcher catches what its encoder raises

    def __post_init__(self) -> None:
        self.batcher = self.batcher_type(
            self.encode,
            config=BatcherConfig(
                max_input_tokens=LONGEST,
                max_batch_inputs=self.max_inputs,
                max_batch_tokens=self.max_tokens,
                max_delay_seconds=DELAY,
            ),
            policy=self.policy,
            clock=lambda: self.now if self.arriving is None else self.arriving,
        )

    def add(self, tenant: str, sizes: list[int], *, arrival: float) -> None:
        if self.waiting[tenant]:
            since = self.inputs[self.waiting[tenant][0]].served_before
        else:
            since = self.served.copy()
        numbers = range(len(self.inputs), len(self.inputs) + len(sizes))
        self.inputs += [Input(tenant, size, arrival, since, self.num_batches) for size in sizes]
        self.waiting[tenant] += numbers
        tokens = [(number + 1, *(1,) * (size - 1)) for number, size in zip(numbers, sizes, strict=True)]
        self.arriving = arrival
        self.batcher.add(tokens, tenant=tenant, weight=WEIGHTS[tenant])
        self.arriving = None

    def encode(self, batch):
        try:
            self.check(batch)
        except TurnsError as error:
            self.broken = error
        self.num_batches += 1
        self.now += BATCH_SECONDS
        return np.ones((len(batch), 2), dtype=np.float32)

    def check(self, batch) -> None:
        self.require_due()
        numbers = [token_ids[0] - 1 for token_ids in batch]
        is_first = [self.inputs[number].batches_before == self.num_batches for number in numbers]
        for number in numbers:
            self.start(number)
        if all(is_first) and any(self.now - self.inputs[n].arrival > DELAY + BATCH_SECONDS for n in numbers):
            raise TurnsError("delay: who is in the next batch waits no longer than the delay and a batch")
        if len(batch) < self.max_inputs:
            left = [self.inputs[own[0]].size for own in self.waiting.values() if own]
            used = sum(self.inputs[number].size for number in numbers)
            if left and used + max(left) <= self.max_tokens:
                raise TurnsError("idle: a batch is as full as what waits allows")

    def require_due(self) -> None:
        every = [self.inputs[number] for own in self.waiting.values() for number in own]
        is_full = len(every) >= self.max_inputs or sum(each.size for each in every) >= self.max_tokens
        if not is_full and self.now - min(each.arrival for each in every) < DELAY:
            raise TurnsError("early: a batch that is not full waits for company")

    def start(self, number: int) -> None:
        own = self.inputs[number]
        self.waiting[own.tenant].remove(number)
        self.served[own.tenant] += own.size
        for other, numbers in self.waiting.items():
            if numbers and other != own.tenant:
                before = self.inputs[numbers[0]].served_before
                gained, got = (
                    (self.served[name] - before[name]) / WEIGHTS[name] for name in (own.tenant, other)
                )
                if gained - got > LONGEST * (2 / WEIGHTS[own.tenant] + 1 / WEIGHTS[other]) + 1e-9:
                    raise TurnsError("bound: what another has more, over the weights, while a tenant waits")

    def play(self, requests) -> None:
        arrival = 0.0
        for pause, tenant, sizes in requests:
            arrival += pause
            self.run_until(arrival)
            self.add(tenant, sizes, arrival=arrival)
        self.run_until(float("inf"))
        if any(self.waiting.values()):
            raise TurnsError("tail: nothing waits for ever")

    def run_until(self, end: float) -> None:
        while (delay := self.batcher.seconds_until_due()) is not None and self.now + delay <= end:
            self.now += delay
            before = self.num_batches
            self.batcher.run_due()
            if self.broken is not None:
                raise self.broken
            if self.num_batches == before:
                raise TurnsError("idle: a batch that is due starts")
        if end < float("inf"):
            self.now = max(self.now, end)


@pytest.mark.parametrize("policy", [FairShare, FirstComeFirstServed])
@settings(deadline=None)
@given(requests=REQUESTS)
def test_batches_start_by_size_or_deadline_whoever_is_in_them(policy, requests):
    trace = Trace(policy())
    if policy is FirstComeFirstServed:
        trace.start = lambda number: trace.waiting[trace.inputs[number].tenant].remove(number)
    trace.play(requests)


@settings(deadline=None)
@given(requests=REQUESTS)
def test_no_tenant_has_more_than_its_part_while_another_waits(requests):
    Trace(FairShare()).play(requests)


FLOOD = [(0.0, "a", [LONGEST] * 12)] * 6 + [(0.5, "b", [1])] * 3


def test_first_come_first_served_breaks_the_bound_that_fair_shares_keep():
    Trace(FairShare()).play(FLOOD)
    with pytest.raises(TurnsError, match="bound"):
        Trace(FirstComeFirstServed()).play(FLOOD)


class NoCharge(FairShare):
    def start(self, claim):
        self._tenants[claim.tenant].unit = 0
        super().start(claim)


class IgnoresWeights(FairShare):
    def add(self, claim):
        claim.weight = 1
        super().add(claim)


UNEVEN = [(0.0, "a", [LONGEST] * 12)] * 6 + [(0.0, "b", [1] * 12)] * 6
WEIGHTED = [(0.0, "a", [LONGEST] * 12)] * 6 + [(0.0, "d", [LONGEST] * 12)] * 6


@pytest.mark.parametrize(("mutant", "requests"), [(NoCharge, UNEVEN), (IgnoresWeights, WEIGHTED)])
def test_a_mutant_of_the_policy_is_caught(mutant, requests):
    with pytest.raises(TurnsError, match="bound"):
        Trace(mutant()).play(requests)


class OnlyFull(EmbeddingBatcher):
    def seconds_until_due(self):
        delay = super().seconds_until_due()
        return delay if delay == 0 and len(self._policy) >= self.config.max_batch_inputs else None


class AtOnce(EmbeddingBatcher):
    def seconds_until_due(self):
        return None if super().seconds_until_due() is None else 0.0


class DelayOfTheNewest(EmbeddingBatcher):
    def seconds_until_due(self):
        delay = super().seconds_until_due()
        if delay is None:
            return None
        return max(0.0, self.config.max_delay_seconds - (self._clock() - self._arrived[-1].arrival))


@pytest.mark.parametrize(
    ("mutant", "broken"), [(OnlyFull, "tail"), (AtOnce, "early"), (DelayOfTheNewest, "delay")]
)
def test_a_mutant_of_size_or_deadline_is_caught(mutant, broken):
    trickle = [(0.1875, "a", [1])] * 3
    with pytest.raises(TurnsError, match=broken):
        Trace(FairShare(), mutant, max_inputs=16, max_tokens=99).play(trickle * 4)


def test_a_tenant_with_a_name_holds_no_more_inputs_than_it_leaves_free():
    batcher = EmbeddingBatcher(
        lambda inputs: np.ones((len(inputs), 1), dtype=np.float32),
        config=BatcherConfig(max_input_tokens=8, max_waiting_inputs=10),
    )
    batcher.add([(1,)] * 4, tenant="flood")
    with pytest.raises(QueueFullError) as caught:
        batcher.add([(1,)] * 2, tenant="flood")
    assert (caught.value.details["limit"], caught.value.details["current"]) == (10, 4)
    batcher.add([(1,)] * 3, tenant="other")
    with pytest.raises(QueueFullError):
        batcher.add([(1,)] * 4, tenant="third")  # more than there is altogether
    batcher.add([(1,)] * 3)
    for _ in range(2):
        batcher.run_batch()
    assert not batcher.has_work
    batcher.add([(1,)] * 10, tenant="flood")  # who is alone comes in, however large


def test_a_weight_out_of_range_is_refused():
    batcher = EmbeddingBatcher(lambda _: np.ones((1, 1)), config=BatcherConfig(max_input_tokens=8))
    with pytest.raises(ValidationError) as caught:
        batcher.add([(1,)], tenant="a", weight=0)
    assert caught.value.details["param"] == "weight"
