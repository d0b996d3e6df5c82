from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.engine.cache import BlockAllocator
from tritium.errors import ResourceError


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 70), st.booleans()), max_size=60))
def test_a_block_never_belongs_to_two_sequences_and_none_is_lost(moves):
    allocator = BlockAllocator(num_blocks=12, block_size=4)
    held: dict[int, list[int]] = {owner: [] for owner in range(5)}
    for owner, num_tokens, gives_back in moves:
        if gives_back:
            allocator.release(held[owner])
        else:
            before = list(held[owner])
            taken = allocator.extend(held[owner], num_tokens=num_tokens)
            assert len(held[owner]) >= allocator.blocks_for(num_tokens) if taken else held[owner] == before
        everything = [block for blocks in held.values() for block in blocks]
        assert len(set(everything)) == len(everything) == allocator.num_used
        assert allocator.num_free + allocator.num_used == 12


def test_giving_a_block_back_twice_is_an_error():
    allocator = BlockAllocator(num_blocks=2, block_size=4)
    blocks: list[int] = []
    assert allocator.extend(blocks, num_tokens=4)
    copy = list(blocks)
    allocator.release(blocks)
    with pytest.raises(ResourceError, match="twice"):
        allocator.release(copy)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(1, 40), st.sampled_from(("extend", "release", "forget"))),
        max_size=60,
    )
)
def test_what_is_forgotten_was_held_by_nobody_and_only_what_was_touched_is_given_back(moves):
    allocator = BlockAllocator(num_blocks=12, block_size=4)
    held: dict[int, list[int]] = {owner: [] for owner in range(5)}
    keys: dict[int, list[bytes]] = {owner: [] for owner in range(5)}
    touched: set[int] = set()
    for owner, num_tokens, move in moves:
        tokens = [owner] * 200
        if move == "extend" and allocator.extend(held[owner], num_tokens=num_tokens):
            computed = len(held[owner]) * 4
            allocator.remember(tokens, held[owner], keys[owner], num_computed=computed, salt="")
            touched |= set(held[owner])
        elif move == "release":
            allocator.release(held[owner])
            keys[owner] = []
        elif move == "forget":
            free = allocator.num_free
            emptied = allocator.forget_idle()
            in_use = {block for blocks in held.values() for block in blocks}
            assert emptied == sorted(touched - in_use)
            assert (allocator.num_idle, allocator.num_free) == (0, free)
            touched = in_use
            blocks, _ = allocator.share_prefix(tokens, salt="")
            assert set(blocks) <= in_use  # what nobody holds is not found any more
            allocator.release(blocks)
        assert allocator.num_touched == len(touched)
