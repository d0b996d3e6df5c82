"""Shares of a step: what generated steps of the real scheduler gave to whom, and mutants that are caught."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction

import pytest

from tritium.engine import scheduler as scheduler_module
from tritium.engine import step_share
from tritium.engine.cache import BlockAllocator
from tritium.engine.fair_share import FairShare
from tritium.engine.request import GenerationRequest, SamplingParams
from tritium.engine.scheduler import Scheduler
from tritium.engine.sequence import Sequence
from tritium.engine.step_share import StepShare

MOST = 6
NUM_TRACES = 60


class UnfairStepError(Exception):
    """Which rule is broken."""


class Letters:
    """Every token is a letter."""

    def push(self, token_id: int) -> str:
        return chr(97 + token_id % 26)

    def flush(self) -> str:
        return ""


class Steps:
    """Plays what a seed makes up; checks every step by what was there before it and what it gave."""

    def __init__(self, seed: int, *, policy=FairShare) -> None:
        self.random = random.Random(seed)
        self.places = self.random.randint(3, 10)
        self.policy = policy()
        self.scheduler = Scheduler(
            BlockAllocator(num_blocks=self.random.choice((40, 200)), block_size=4),
            policy=self.policy,
            max_batched_tokens=self.random.choice((24, 60)),
            max_running=self.places,
        )
        self.weights = {name: self.random.choice((1, 1, 2, 7)) for name in "abc"}
        self.alive: list[Sequence] = []
        self.serial = 0
        self.lifted = self.taken_back = 0

    def run(self) -> Steps:
        for _ in range(6):
            crowd = {name: self.random.choice((0, 0, 1, 2, 12)) for name in self.weights}
            for _ in range(12):
                for name, number in crowd.items():
                    while sum(each.tenant == name for each in self.alive) < number:
                        self.add(name)
                self.step(self.random.choice((None, 0, 1, 3, 8)))
        return self

    def add(self, name: str) -> None:
        self.serial += 1
        request = GenerationRequest(
            request_id=str(self.serial),
            prompt_token_ids=(1,) * self.random.randint(1, 20),
            sampling=SamplingParams(max_tokens=12),
            tenant=name,
            weight=self.weights[name],
        )
        limit = len(request.prompt_token_ids) + self.random.randint(4, 12)
        sequence = Sequence(request, decoder=Letters(), limit=limit, serial=self.serial)
        self.alive.append(sequence)
        self.scheduler.add(sequence)

    def step(self, paced: int | None) -> None:
        running = list(self.scheduler.running)
        writing = [each for each in running if each.num_uncomputed == 1]
        reading = {each: each.num_uncomputed for each in running if each.num_uncomputed > 1}
        line = [each for each in self.alive if each not in running]
        waiting = {each.tenant for each in line}
        preemptions = self.scheduler.num_preemptions
        chunks = self.scheduler.schedule(prompt_tokens=paced)
        if self.alive and not chunks:
            raise UnfairStepError("a step is empty")
        if preemptions == self.scheduler.num_preemptions:
            settled = any(each.num_generated >= 4 for each in writing)
            if paced is not None and len(line) > self.places - len(running):  # places may be filled
                paced = max(paced, self.places - len(writing))
            prompts = [chunk for chunk in chunks if chunk.sequence not in writing]
            had = self.require_order(prompts, writing, reading)
            if self.policy.is_shared:
                self.require_shares(prompts, had, reading, waiting, paced=paced if settled else None)
            self.require_place(running)
        elif len(running) == self.places:
            self.taken_back += 1
        for chunk in chunks:
            sequence, wants = chunk.sequence, chunk.needs_logits
            sequence.num_computed += chunk.num_tokens
            if wants:
                self.scheduler.record_token(sequence)
                sequence.append(2, is_end_token=False)
            if sequence.finish_reason:
                self.alive.remove(sequence)
                self.scheduler.remove(sequence)

    def require_order(self, prompts, writing, reading) -> dict[str, Fraction]:
        """Return what each tenant has before prompts, over its weight."""
        answers = Counter(each.tenant for each in writing)
        before = {name: Fraction(2 * answers[name], weight) for name, weight in self.weights.items()}
        had, given = dict(before), Counter[str]()
        served = {chunk.sequence for chunk in prompts}
        left = {each.tenant for each in reading if each not in served}
        for chunk in prompts:
            name = chunk.sequence.tenant
            if any(given[other] < MOST and had[other] < had[name] for other in left - {name}):
                raise UnfairStepError("order: whose tenant has least in the step comes first")
            given[name] += chunk.num_tokens
            had[name] += Fraction(chunk.num_tokens, self.weights[name])
        return before

    def require_shares(self, prompts, had, reading, waiting, *, paced) -> None:
        given: Counter[str] = Counter()
        for chunk in prompts:
            given[chunk.sequence.tenant] += chunk.num_tokens
        flood = max((had[name] for name in waiting), default=Fraction(0))
        behind = {name for name in self.weights if had[name] < flood}
        if paced is None and max(given.values(), default=0) > MOST:
            raise UnfairStepError("most: no tenant has more than so many tokens of prompts")
        if paced == 0 and given:
            raise UnfairStepError("measured: a step without prompts has none")
        if paced and sum(given.values()) > paced and not behind & set(given):
            raise UnfairStepError("paced: prompts have no more, but for who is behind")
        if paced and len(self.scheduler.running) + 3 * MOST < 24:  # there are tokens for everybody
            self.require_lift(given, behind, reading)

    def require_lift(self, given, behind, reading) -> None:
        for name in behind & {each.tenant for each in reading}:
            self.lifted += 1
            if given[name] < min(MOST, *(need for each, need in reading.items() if each.tenant == name)):
                raise UnfairStepError("lifted: who is behind a flood is not paced")

    def require_place(self, running: list[Sequence]) -> None:
        sequence = self.policy.next()
        if sequence is None or len(running) < self.places:
            return
        held = Counter(each.tenant for each in running)
        wanted = Fraction(held[sequence.tenant] + 1, self.weights[sequence.tenant])
        for name, number in held.items():
            if number > 1 and Fraction(number, self.weights[name]) > 2 * wanted:
                raise UnfairStepError("place: who has far more gives way")


def rules_broken(**parts) -> set[str]:
    found = set()
    for seed in range(NUM_TRACES):
        try:
            Steps(seed, **parts).run()
        except UnfairStepError as error:
            found.add(str(error).split(":")[0])
    return found


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    monkeypatch.setattr(step_share, "MOST_OF_ONE", MOST)


def test_the_rules_hold_in_every_step():
    played = [Steps(seed).run() for seed in range(NUM_TRACES)]
    assert sum(each.lifted for each in played) > 100
    assert sum(each.taken_back for each in played) > 20


class InOrderOfRank(StepShare):
    counts = False

    def place(self, sequence):
        return super().place(sequence) if self.counts else 0.0

    def left_for(self, sequence):
        self.counts = True  # for what a tenant may have, not for who comes first
        left = super().left_for(sequence)
        self.counts = False
        return left


class FillsTheStep(StepShare):
    def take(self, sequence, num_tokens):
        super().take(sequence, num_tokens)
        self._prompts.clear()


class NeverLifts(StepShare):
    def _count_answers(self, writing):
        super()._count_answers(writing)
        self._flood = 0.0


class LiftsEverybody(StepShare):
    def _count_answers(self, writing):
        super()._count_answers(writing)
        self._flood = 1e9


class LiftsBesideWhoDoesNotWait(StepShare):
    def _count_answers(self, writing):
        super()._count_answers(writing)
        self._flood = max((price / 1 for price in self._prices.values()), default=0.0)


class ForgetsToMeasure(StepShare):
    def __init__(self, writing, **parts):
        super().__init__(writing, **parts)
        self._is_measured = False


@pytest.mark.parametrize(
    ("mutant", "broken"),
    [
        (InOrderOfRank, "order"),
        (FillsTheStep, "most"),
        (NeverLifts, "lifted"),
        (LiftsEverybody, "paced"),
        (LiftsBesideWhoDoesNotWait, "paced"),
        (ForgetsToMeasure, "measured"),
    ],
)
def test_a_mutant_of_the_shares_is_caught(mutant, broken, monkeypatch):
    monkeypatch.setattr(scheduler_module, "StepShare", mutant)
    assert broken in rules_broken()


class NeverGivesWay(FairShare):
    def gives_way(self, running):
        return None


def test_a_tenant_that_does_not_give_way_is_caught():
    assert rules_broken(policy=NeverGivesWay) == {"place"}
