from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.kernels import cpu, reference


def paged_batch(random, *, lengths, queries, heads=4, kv_heads=2, dim=16, block_size=4):
    """Sequences of those lengths scattered over a pool, and the arguments of paged_attention."""
    blocks = [-(-length // block_size) for length in lengths]
    pool = (sum(blocks) + 3, block_size, kv_heads, dim)
    order = random.permutation(pool[0]).astype(np.int32)
    # Entries behind a sequence's end are never read: -7 would be refused.
    tables = np.full((len(lengths), max(blocks, default=0) + 1), -7, np.int32)
    for row, (begin, count) in enumerate(zip(np.cumsum([0, *blocks]), blocks, strict=False)):
        tables[row, :count] = order[begin : begin + count]
    return {
        "q": random.standard_normal((sum(queries), heads, dim)).astype(np.float32),
        "k_pool": random.standard_normal(pool).astype(np.float32),
        "v_pool": random.standard_normal(pool).astype(np.float32),
        "block_tables": tables,
        "query_starts": np.cumsum([0, *queries]).astype(np.int32),
        "context_lengths": np.array(lengths, np.int32),
        "scale": dim**-0.5,
    }


def positional(batch):
    rest = {name: value for name, value in batch.items() if name not in {"q", "k_pool", "v_pool"}}
    return (batch["q"], batch["k_pool"], batch["v_pool"]), rest


@settings(deadline=None)
@given(
    sequences=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), min_size=1, max_size=4),
    shape=st.sampled_from([(1, 1, 4), (4, 2, 16), (6, 2, 20), (3, 1, 72), (2, 2, 128)]),
    block_size=st.sampled_from([1, 3, 16]),
    seed=st.integers(0, 999),
)
def test_paged_attention_is_close_to_the_naive_one(isa, sequences, shape, block_size, seed):
    heads, kv_heads, dim = shape
    queries = [count for count, _ in sequences]
    lengths = [count + past for count, past in sequences]
    sizes = {"heads": heads, "kv_heads": kv_heads, "dim": dim, "block_size": block_size}
    batch = paged_batch(np.random.default_rng(seed), lengths=lengths, queries=queries, **sizes)
    arrays, rest = positional(batch)
    expected = reference.paged_attention(*arrays, **rest)
    np.testing.assert_allclose(cpu.paged_attention(*arrays, **rest), expected, atol=2e-6)


def test_attention_does_not_depend_on_neighbours_threads_or_where_the_pages_lie(isa):
    random = np.random.default_rng(1)
    batch = paged_batch(random, lengths=[37, 5, 64], queries=[37, 1, 3])
    arrays, rest = positional(batch)
    whole = cpu.paged_attention(*arrays, **rest)
    for threads in (2, 5):
        np.testing.assert_array_equal(cpu.paged_attention(*arrays, **rest, threads=threads), whole)
    q, k_pool, v_pool = arrays
    order = random.permutation(len(k_pool))
    moved = rest | {"block_tables": np.argsort(order).astype(np.int32)[rest["block_tables"]]}
    np.testing.assert_array_equal(cpu.paged_attention(q, k_pool[order], v_pool[order], **moved), whole)
    for row in range(3):
        begin, end = rest["query_starts"][row : row + 2]
        alone = rest | {
            "block_tables": rest["block_tables"][row : row + 1],
            "query_starts": np.array([0, end - begin], np.int32),
            "context_lengths": rest["context_lengths"][row : row + 1],
        }
        np.testing.assert_array_equal(
            cpu.paged_attention(q[begin:end], k_pool, v_pool, **alone), whole[begin:end]
        )


def test_a_prompt_in_chunks_attends_like_the_prompt_at_once(isa):
    batch = paged_batch(np.random.default_rng(2), lengths=[20], queries=[20])
    (q, k_pool, v_pool), rest = positional(batch)
    whole = cpu.paged_attention(q, k_pool, v_pool, **rest)
    for begin, end in ((0, 7), (7, 8), (8, 20)):
        starts, lengths = np.array([0, end - begin], np.int32), np.array([end], np.int32)
        chunk = rest | {"query_starts": starts, "context_lengths": lengths}
        np.testing.assert_array_equal(
            cpu.paged_attention(q[begin:end], k_pool, v_pool, **chunk), whole[begin:end]
        )


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 20), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_ragged_attention_is_close_to_the_naive_one_and_keeps_sequences_apart(isa, lengths, seed):
    random = np.random.default_rng(seed)
    q, k, v = random.standard_normal((3, sum(lengths), 3, 24)).astype(np.float32)
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    result = cpu.ragged_attention(q, k, v, sequence_starts=starts, scale=0.2, threads=2)
    expected = reference.ragged_attention(q, k, v, sequence_starts=starts, scale=0.2)
    np.testing.assert_allclose(result, expected, atol=2e-6)
    for begin, end in pairwise(starts):
        own = np.array([0, end - begin], np.int32)
        alone = cpu.ragged_attention(q[begin:end], k[begin:end], v[begin:end], sequence_starts=own, scale=0.2)
        np.testing.assert_array_equal(alone, result[begin:end])


def test_write_kv_puts_each_row_into_its_slot():
    random = np.random.default_rng(3)
    k, v = random.standard_normal((2, 4, 2, 5)).astype(np.float32)
    pools = np.zeros((2, 3, 6, 2, 5), np.float32)
    expected = pools.copy()
    slots = np.array([17, 0, 6, 5], np.int64)
    cpu.write_kv(k, v, pools[0], pools[1], slots)
    reference.write_kv(k, v, expected[0], expected[1], slots)
    np.testing.assert_array_equal(pools, expected)
    np.testing.assert_array_equal(pools[0][1, 0], k[2])


@pytest.mark.parametrize("slot", [-1, 18, 2**62])
def test_a_slot_outside_the_pool_is_refused_before_anything_is_written(slot):
    rows = np.ones((2, 2, 5), np.float32)
    pool = np.zeros((3, 6, 2, 5), np.float32)
    with pytest.raises(ValidationError, match="outside"):
        cpu.write_kv(rows, rows, pool, pool, np.array([0, slot], np.int64))
    assert not pool.any()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("block_tables", np.array([[99, 0, 0, 0, 0, 0]], np.int32), "block 99"),
        ("block_tables", np.array([[0, 0, 0, 0, 8, 0]], np.int32), "block 8 of a pool of 8"),
        ("block_tables", np.array([[-1, 0, 0, 0, 0, 0]], np.int32), "block -1"),
        ("block_tables", np.zeros((1, 2), np.int32), "fit its block table"),
        ("context_lengths", np.array([2], np.int32), "cover its queries"),
        ("context_lengths", np.array([-1], np.int32), "cover its queries"),
        ("context_lengths", np.array([2**31 - 1], np.int32), "fit its block table"),
        ("query_starts", np.array([0, 4], np.int32), "end with"),
        ("query_starts", np.array([1, 3], np.int32), "begin with 0"),
        ("query_starts", np.array([0, 3], np.int64), "query_starts must be"),
        ("k_pool", np.zeros((8, 4, 3, 16), np.float32), "v_pool must be"),
        ("threads", -1, "threads"),
    ],
)
def test_pages_that_lie_outside_the_pool_are_refused(name, value, reason):
    batch = paged_batch(np.random.default_rng(4), lengths=[18], queries=[3])
    arrays, rest = positional(batch | {name: value})
    with pytest.raises(ValidationError, match=reason):
        cpu.paged_attention(*arrays, **rest)


def test_heads_that_do_not_share_evenly_and_falling_starts_are_refused():
    batch = paged_batch(np.random.default_rng(4), lengths=[8], queries=[3], heads=3, kv_heads=2)
    arrays, rest = positional(batch)
    with pytest.raises(ValidationError, match="multiple"):
        cpu.paged_attention(*arrays, **rest)
    q = np.zeros((4, 1, 8), np.float32)
    with pytest.raises(ValidationError, match="must not fall"):
        cpu.ragged_attention(q, q, q, sequence_starts=np.array([0, 9, 4], np.int32), scale=1.0)
    with pytest.raises(ValidationError, match="must not fall"):
        cpu.ragged_attention(q, q, q, sequence_starts=np.array([0, 3, 2, 4], np.int32), scale=1.0)
