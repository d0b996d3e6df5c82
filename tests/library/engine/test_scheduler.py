from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.engine.cache import BlockAllocator
from tritium.engine.fair_share import FairShare
from tritium.engine.first_come import FirstComeFirstServed
from tritium.engine.request import GenerationRequest, SamplingParams
from tritium.engine.scheduler import Scheduler
from tritium.engine.sequence import Sequence


class Letters:
    """Every token is a letter."""

    def push(self, token_id: int) -> str:
        return chr(97 + token_id % 26)

    def flush(self) -> str:
        return ""


def new_sequence(serial: int, *, num_prompt: int, num_new: int, tenant: str = "") -> Sequence:
    request = GenerationRequest(
        request_id=str(serial),
        prompt_token_ids=(1,) * num_prompt,
        sampling=SamplingParams(max_tokens=num_new),
        arrival=float(serial),
        tenant=tenant,
    )
    return Sequence(request, decoder=Letters(), limit=num_prompt + num_new, serial=serial)


@settings(deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=8),
    budget=st.integers(1, 16),
    max_running=st.integers(1, 5),
    num_blocks=st.integers(11, 20),
    turns=st.sampled_from(
        ((FirstComeFirstServed, 1), (FirstComeFirstServed, 3), (FairShare, 1), (FairShare, 3))
    ),
)
def test_every_request_ends_within_the_budgets_and_the_oldest_is_never_overtaken(
    sizes, budget, max_running, num_blocks, turns
):
    policy, num_tenants = turns
    allocator = BlockAllocator(num_blocks=num_blocks, block_size=4)  # 11 blocks hold the longest request
    scheduler = Scheduler(allocator, policy=policy(), max_batched_tokens=budget, max_running=max_running)
    sequences = [
        new_sequence(i, num_prompt=p, num_new=n, tenant=str(i % num_tenants))
        for i, (p, n) in enumerate(sizes)
    ]
    for sequence in sequences:
        scheduler.add(sequence)
    admitted: list[int] = []
    steps = 0
    while scheduler.num_waiting or scheduler.running:
        chunks = scheduler.schedule()
        assert chunks, "work is left and nothing was scheduled"
        steps += 1
        assert steps < 4000
        assert sum(chunk.num_tokens for chunk in chunks) <= budget
        assert len(scheduler.running) <= max_running
        assert len({chunk.sequence.serial for chunk in chunks}) == len(chunks)
        for chunk in chunks:
            sequence = chunk.sequence
            reach = sequence.num_computed + chunk.num_tokens
            assert chunk.num_tokens >= 1
            assert len(sequence.blocks) == allocator.blocks_for(reach)
            if sequence.serial not in admitted:
                admitted.append(sequence.serial)
        ended = []
        for chunk in chunks:
            wants = chunk.needs_logits
            chunk.sequence.num_computed += chunk.num_tokens
            if wants:
                scheduler.record_token(chunk.sequence)
                chunk.sequence.append(2, is_end_token=False)
                if chunk.sequence.finish_reason:
                    ended.append(chunk.sequence)
        for sequence in ended:
            scheduler.remove(sequence)
        held = [block for sequence in sequences for block in sequence.blocks]
        assert len(set(held)) == len(held) == allocator.num_used
    if policy is FirstComeFirstServed or num_tenants == 1:
        assert admitted == sorted(admitted)
    assert [sequence.num_generated for sequence in sequences] == [n for _, n in sizes]
    assert allocator.num_used == 0


def play(scheduler: Scheduler, *, prompt_tokens: int) -> dict[int, int]:
    """Play one step; return the tokens computed of each sequence by serial."""
    computed = {}
    for chunk in scheduler.schedule(prompt_tokens=prompt_tokens):
        wants = chunk.needs_logits
        chunk.sequence.num_computed += chunk.num_tokens
        computed[chunk.sequence.serial] = chunk.num_tokens
        if wants:
            chunk.sequence.append(2, is_end_token=False)
    return computed


def test_who_comes_together_starts_together_and_who_writes_is_not_held_up_by_who_comes_later():
    allocator = BlockAllocator(num_blocks=100, block_size=4)
    scheduler = Scheduler(
        allocator, policy=FirstComeFirstServed(), max_batched_tokens=32, max_running=8, shares_prefixes=False
    )
    scheduler.add(new_sequence(0, num_prompt=10, num_new=50))
    assert play(scheduler, prompt_tokens=2) == {0: 10}
    for serial in (1, 2):
        scheduler.add(new_sequence(serial, num_prompt=20, num_new=50))
    assert play(scheduler, prompt_tokens=2) == {0: 1, 1: 20, 2: 11}
    assert play(scheduler, prompt_tokens=2) == {0: 1, 1: 1, 2: 9}
    assert play(scheduler, prompt_tokens=2) == {0: 1, 1: 1, 2: 1}
    scheduler.add(new_sequence(3, num_prompt=20, num_new=50))
    assert play(scheduler, prompt_tokens=2) == {0: 1, 1: 1, 2: 1, 3: 2}
    assert play(scheduler, prompt_tokens=0) == {0: 1, 1: 1, 2: 1}


class StaysSmall(Scheduler):
    """Paces by what few writers take, however many wait."""

    def _paced(self, prompt_tokens, num_writing):
        return prompt_tokens


@pytest.mark.parametrize(
    ("scheduler_type", "filled"), [(Scheduler, {0: 1, 1: 7}), (StaysSmall, {0: 1, 1: 2})]
)
def test_while_more_wait_than_there_are_places_prompts_fill_the_step_up_to_that_of_a_full_batch(
    scheduler_type, filled
):
    scheduler = scheduler_type(
        BlockAllocator(num_blocks=200, block_size=4),
        policy=FirstComeFirstServed(),
        max_batched_tokens=32,
        max_running=8,
    )
    scheduler.add(new_sequence(0, num_prompt=10, num_new=50))
    for _ in range(5):
        play(scheduler, prompt_tokens=2)
    for serial in range(1, 7):
        scheduler.add(new_sequence(serial, num_prompt=20, num_new=50))
    assert play(scheduler, prompt_tokens=2) == {0: 1, 1: 2}  # there is a place for each
    for serial in range(7, 10):
        scheduler.add(new_sequence(serial, num_prompt=20, num_new=50))
    assert play(scheduler, prompt_tokens=2) == filled
    assert 1 in play(scheduler, prompt_tokens=0) or scheduler_type is StaysSmall
