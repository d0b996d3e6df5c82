from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.kernels.pages import KV_DTYPES, new_pool, release_blocks
from tritium.model.batch import KVCache


@pytest.mark.parametrize("dtype", KV_DTYPES)
@given(first=st.integers(0, 30), count=st.integers(0, 30))
def test_memory_is_given_back_and_no_neighbour_loses_a_byte(dtype, first, count):
    pool = new_pool(dtype, num_blocks=32, heads=3, head_dim=40)  # a block is no whole number of pages
    pool[:] = 7
    count = min(count, 32 - first)
    release_blocks(pool, first=first, count=count)
    assert (pool[:first] == 7).all()
    assert (pool[first + count :] == 7).all()
    lost = int((pool[first : first + count] == 0).sum()) * pool.itemsize
    size = pool.nbytes // 32 * count
    if hasattr(mmap, "MADV_REMOVE"):
        assert lost % mmap.PAGESIZE == 0
        assert lost >= size - 2 * mmap.PAGESIZE
    pool[:] = 5  # it can be written again
    assert (pool == 5).all()


def test_an_array_that_is_no_pool_is_left_alone():
    array = np.full((4, 1, 2, 4096), 3, np.int8)
    release_blocks(array, first=0, count=4)
    assert (array == 3).all()


def test_a_cache_gives_back_the_same_blocks_of_every_layer():
    cache = KVCache(num_layers=3, num_blocks=8, kv_heads=4, head_dim=64, dtype="fp32")
    for layer in cache.layers:
        layer[:] = 1
    cache.release([1, 2, 6])
    for layer in cache.layers:
        kept = [bool(layer[block].all()) for block in range(8)]
        assert [block for block in range(8) if kept[block]] == [0, 3, 4, 5, 7]
