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
