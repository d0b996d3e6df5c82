"""Shared prefixes: what is found is what would have been computed, and nobody finds what another has."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tritium.engine.cache import BlockAllocator
from tritium.engine.first_come import FirstComeFirstServed
from tritium.engine.request import GenerationRequest, SamplingParams
from tritium.engine.scheduler import Scheduler
from tritium.engine.sequence import Sequence

BLOCK = 4
PASSAGE = "And God said, Let there be light: and there was light. And God saw the light, that it was good: "


class Letters:
    """Every token is a letter."""

    def push(self, token_id: int) -> str:
        return chr(97 + token_id)

    def flush(self) -> str:
        return ""


class SharingMachine(RuleBasedStateMachine):
    """A scheduler over blocks whose content is modelled: per position the salt and all tokens up to it."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = BlockAllocator(num_blocks=9, block_size=BLOCK)
        self.scheduler = Scheduler(
            self.allocator,
            policy=FirstComeFirstServed(),
            max_batched_tokens=11,
            max_running=3,
            shares_prefixes=True,
        )
        self.content: dict[tuple[int, int], tuple[str, tuple[int, ...]]] = {}
        self.alive: list[Sequence] = []
        self.serial = 0

    @rule(
        stem=st.integers(0, 2),
        length=st.integers(0, 3 * BLOCK),
        rest=st.lists(st.integers(0, 1), min_size=1, max_size=7),
        num_new=st.integers(1, 8),
        salt=st.sampled_from("ab"),
    )
    def add(self, stem: int, length: int, rest: list[int], num_new: int, salt: str) -> None:
        prompt = (*(stem,) * length, *rest)
        self.serial += 1
        request = GenerationRequest(
            request_id=str(self.serial),
            prompt_token_ids=prompt,
            sampling=SamplingParams(max_tokens=num_new),
            arrival=float(self.serial),
            cache_salt=salt,
        )
        limit = len(prompt) + num_new
        sequence = Sequence(request, decoder=Letters(), limit=limit, serial=self.serial)
        self.alive.append(sequence)
        self.scheduler.add(sequence)

    @precondition(lambda self: self.alive)
    @rule(fails=st.integers(0, 9))
    def step(self, fails: int) -> None:
        chunks = self.scheduler.schedule()
        assert chunks
        for place, chunk in enumerate(chunks):
            sequence, wants = chunk.sequence, chunk.needs_logits
            assert chunk.num_tokens >= 1, "without a computed token there are no logits"
            self._compute(sequence, chunk.num_tokens)
            if place == fails:
                self._end(sequence)
                continue
            if wants:
                sequence.append(sequence.tokens[-1] ^ 1, is_end_token=False)
            self.scheduler.remember(sequence)
            if sequence.finish_reason:
                self._end(sequence)

    def _compute(self, sequence: Sequence, num_tokens: int) -> None:
        first, end = sequence.num_computed, sequence.num_computed + num_tokens
        salt = sequence.request.cache_salt
        holders = Counter(block for other in self.alive for block in other.blocks)
        for position in range(end):
            place = (sequence.blocks[position // BLOCK], position % BLOCK)
            expected = (salt, tuple(sequence.tokens[: position + 1]))
            if position >= first:
                assert holders[place[0]] == 1, "somebody else reads the block that is written"
                self.content[place] = expected
            assert self.content[place] == expected
        sequence.num_computed = end

    def _end(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        self.alive.remove(sequence)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self._end(data.draw(st.sampled_from(self.alive)))

    @invariant()
    def every_reference_has_a_holder(self) -> None:
        held = Counter(block for sequence in self.alive for block in sequence.blocks)
        assert self.allocator._references == [held[block] for block in range(9)]
        assert self.allocator.num_used == len(held)
        at_rest = [*self.allocator._free, *self.allocator._idle]
        assert sorted([*at_rest, *held]) == list(range(9))

    @invariant()
    def what_is_remembered_is_remembered_once(self) -> None:
        known = {block: key for block, key in enumerate(self.allocator._key_of) if key is not None}
        assert {key: block for block, key in known.items()} == self.allocator._block_of

    def teardown(self) -> None:
        for sequence in list(self.alive):
            self._end(sequence)
        assert self.allocator.num_used == 0


TestSharing = SharingMachine.TestCase
TestSharing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def outputs_of(engine, run_to_end, *requests):
    for request in requests:
        engine.add_request(request)
    return run_to_end(engine)


def tokens_of(outputs):
    return tuple(token for output in outputs for token in output.token_ids)


@pytest.mark.parametrize("kv_dtype", ["int8", "fp32"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "seed": 5}])
def test_a_text_is_the_same_with_and_without_a_shared_prefix(
    new_engine, new_request, run_to_end, kv_dtype, sampling
):
    warm = new_engine(kv_dtype=kv_dtype)
    cold = new_engine(kv_dtype=kv_dtype, shares_prefixes=False)
    for name, question in (("first", "What was good?"), ("second", "Who said it?"), ("third", "")):
        request = new_request(name, PASSAGE + question, **sampling)
        found = outputs_of(warm, run_to_end, request)[name]
        expected = outputs_of(cold, run_to_end, request)[name]
        assert tokens_of(found) == tokens_of(expected)
        assert expected[-1].cached_tokens == 0
        cached = found[-1].cached_tokens
        assert cached % 16 == 0
        assert cached < len(request.prompt_token_ids)
        assert (cached > 0) == (name != "first")
    assert warm.metrics().cached_tokens > 0
    assert warm.metrics().kv_blocks_used == 0


def test_the_last_token_of_a_prompt_is_always_computed(new_engine, new_request, run_to_end):
    engine = new_engine()
    request = new_request("a", PASSAGE * 3)
    whole_blocks = dataclasses.replace(request, prompt_token_ids=request.prompt_token_ids[:48])
    first = tokens_of(outputs_of(engine, run_to_end, whole_blocks)["a"])
    again = outputs_of(engine, run_to_end, dataclasses.replace(whole_blocks, request_id="b"))["b"]
    assert tokens_of(again) == first
    assert again[-1].cached_tokens == 32


def test_an_answer_is_found_again_as_part_of_the_next_prompt(new_engine, new_request, run_to_end):
    engine = new_engine()
    request = new_request("a", PASSAGE, max_tokens=40)
    answer = tokens_of(outputs_of(engine, run_to_end, request)["a"])
    ids = request.prompt_token_ids
    later = dataclasses.replace(request, request_id="b", prompt_token_ids=(*ids, *answer, 5))
    last = outputs_of(engine, run_to_end, later)["b"][-1]
    assert last.cached_tokens == (len(ids) + 39) // 16 * 16  # the last token of the answer was never computed


def test_nothing_is_found_under_another_salt(new_engine, new_request, run_to_end):
    engine = new_engine()
    own = dataclasses.replace(new_request("own", PASSAGE), cache_salt="one tenant")
    assert outputs_of(engine, run_to_end, own)["own"][-1].cached_tokens == 0
    foreign = dataclasses.replace(own, request_id="foreign", cache_salt="another")
    assert outputs_of(engine, run_to_end, foreign)["foreign"][-1].cached_tokens == 0
    again = dataclasses.replace(own, request_id="again")
    assert outputs_of(engine, run_to_end, again)["again"][-1].cached_tokens > 0


def test_what_is_kept_for_later_gives_way_to_who_needs_the_memory(new_engine, new_request, run_to_end):
    engine = new_engine(kv_dtype="fp32", kv_cache_bytes=6144 * 16 * 6)  # six blocks
    for place in range(12):
        request = new_request(str(place), f"{place} {PASSAGE}", max_tokens=8)
        assert outputs_of(engine, run_to_end, request)[str(place)][-1].finish_reason == "length"
    assert engine.metrics().preemptions == 0
    assert engine.metrics().kv_blocks_used == 0
