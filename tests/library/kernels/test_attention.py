from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.kernels import attention, reference
from tritium.kernels.pages import BLOCK_SIZE, KV_DTYPES, block_bytes, new_pool, pool_shape

SHAPES = [
    (1, 1, 4),
    (4, 2, 16),
    (6, 2, 20),
    (5, 1, 72),
    (3, 3, 17),
    (2, 2, 128),
]  # heads, those of keys, size


@pytest.fixture(scope="module", params=KV_DTYPES)
def dtype(request):
    return request.param


def assert_same_bits(one, other, *, said=""):
    np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8), err_msg=said)


def paged_batch(random, *, lengths, queries, heads=4, kv_heads=2, dim=16, dtype="fp32"):
    """Sequences of those lengths scattered over a pool, and the arguments of paged_attention."""
    blocks = [-(-length // BLOCK_SIZE) for length in lengths]
    pool = new_pool(dtype, num_blocks=sum(blocks) + 3, heads=kv_heads, head_dim=dim)
    pool.view(np.uint8)[...] = 255  # NaN as a float: what nobody wrote must not be used
    order = random.permutation(len(pool)).astype(np.int32)
    # Entries behind a sequence's end are never read: -7 would be refused.
    tables = np.full((len(lengths), max(blocks, default=0) + 1), -7, np.int32)
    for row, (begin, count) in enumerate(zip(np.cumsum([0, *blocks]), blocks, strict=False)):
        tables[row, :count] = order[begin : begin + count]
        where = np.arange(lengths[row])
        slots = tables[row, where // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE + where % BLOCK_SIZE
        k, v = random.standard_normal((2, lengths[row], kv_heads, dim)).astype(np.float32)
        attention.write_kv(k, v, pool, slots)
    return {
        "q": random.standard_normal((sum(queries), heads, dim)).astype(np.float32),
        "pool": pool,
        "block_tables": tables,
        "query_starts": np.cumsum([0, *queries]).astype(np.int32),
        "context_lengths": np.array(lengths, np.int32),
        "scale": dim**-0.5,
    }


def naive(q, k, v, *, scale, cap=None):
    """Softmax attention of q [H, D] over k and v [L, KVH, D] as the textbook has it, in float64."""
    shared = q.shape[0] // k.shape[1]
    keys, values = (np.repeat(x.astype(np.float64), shared, axis=1) for x in (k, v))
    scores = np.einsum("hd,lhd->hl", q, keys) * scale
    scores = scores if cap is None else cap * np.tanh(scores / cap)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.einsum("hl,lhd->hd", weights / weights.sum(axis=1, keepdims=True), values)


@settings(deadline=None, max_examples=30)
@given(
    sequences=st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from([0, 3, 48, 500, 1100])), min_size=1, max_size=3
    ),
    shape=st.sampled_from(SHAPES),
    window=st.none() | st.sampled_from([1, 2, 63, 64, 65, 511, 512, 513]) | st.integers(1, 1200),
    cap=st.none() | st.sampled_from([0.25, 2.0, 50.0]),
    seed=st.integers(0, 999),
)
def test_paged_attention_is_its_twin_to_the_bit(each_isa, dtype, *, sequences, shape, window, cap, seed):
    heads, kv_heads, dim = shape
    queries = [count for count, _ in sequences]
    lengths = [count + past for count, past in sequences]
    sizes = {"heads": heads, "kv_heads": kv_heads, "dim": dim, "dtype": dtype}
    batch = paged_batch(np.random.default_rng(seed), lengths=lengths, queries=queries, **sizes)
    batch |= {"window": window, "cap": cap}
    expected = reference.paged_attention(**batch)
    for isa in each_isa():
        assert_same_bits(attention.paged_attention(**batch), expected, said=isa)


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-3), ("int8", 0.03)])
@pytest.mark.parametrize(("spread", "cap"), [(1.0, None), (8.0, None), (8.0, 3.0), (8.0, 50.0)])
def test_attention_is_close_to_the_textbook(isa, dtype, tolerance, spread, cap):
    random = np.random.default_rng(5)
    length, kv_heads, dim = 1200, 2, 64
    k, v = random.standard_normal((2, length, kv_heads, dim)).astype(np.float32)
    q = spread * random.standard_normal((1, 6, dim)).astype(np.float32)
    pool = new_pool(dtype, num_blocks=75, heads=kv_heads, head_dim=dim)
    attention.write_kv(k, v, pool, np.arange(length))
    found = attention.paged_attention(
        q,
        pool,
        block_tables=np.arange(75, dtype=np.int32)[None],
        query_starts=np.array([0, 1], np.int32),
        context_lengths=np.array([length], np.int32),
        scale=dim**-0.5,
        cap=cap,
    )
    expected = naive(q[0], k, v, scale=dim**-0.5, cap=cap)
    np.testing.assert_allclose(found[0], expected, atol=tolerance * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize(
    ("window", "cap"),
    [(None, None), (1, None), (30, 0.5), (700, None), (1024, 2.0), (1699, None), (None, 2.0)],
)
def test_attention_does_not_depend_on_neighbours_threads_or_where_the_pages_lie(isa, dtype, window, cap):
    random = np.random.default_rng(1)
    batch = paged_batch(random, lengths=[37, 5, 1700, 64], queries=[37, 1, 2, 3], dtype=dtype)
    batch |= {"window": window, "cap": cap}
    whole = attention.paged_attention(**batch)
    for threads in (2, 5):  # the long context is then divided among them
        assert_same_bits(attention.paged_attention(**batch, threads=threads), whole)
    order = random.permutation(len(batch["pool"]))
    moved = {
        "pool": batch["pool"][order],
        "block_tables": np.argsort(order).astype(np.int32)[batch["block_tables"]],
    }
    assert_same_bits(attention.paged_attention(**batch | moved), whole)
    for row in range(4):
        begin, end = batch["query_starts"][row : row + 2]
        alone = {
            "q": batch["q"][begin:end],
            "block_tables": batch["block_tables"][row : row + 1],
            "query_starts": np.array([0, end - begin], np.int32),
            "context_lengths": batch["context_lengths"][row : row + 1],
        }
        assert_same_bits(attention.paged_attention(**batch | alone), whole[begin:end])


@pytest.mark.parametrize(("window", "cap"), [(None, None), (100, None), (520, 2.0), (None, 2.0)])
def test_a_prompt_in_chunks_attends_like_the_prompt_at_once(isa, dtype, window, cap):
    batch = paged_batch(np.random.default_rng(2), lengths=[620], queries=[620], dtype=dtype)
    batch |= {"window": window, "cap": cap}
    whole = attention.paged_attention(**batch)
    for begin, end in ((0, 7), (7, 8), (8, 20), (20, 511), (511, 513), (513, 620)):
        chunk = {
            "q": batch["q"][begin:end],
            "query_starts": np.array([0, end - begin], np.int32),
            "context_lengths": np.array([end], np.int32),
        }
        assert_same_bits(attention.paged_attention(**batch | chunk), whole[begin:end])


@pytest.mark.parametrize("window", [1, 64, 130, 600, 1200, 5000])
def test_a_window_is_the_textbook_on_the_last_positions(isa, window):
    random = np.random.default_rng(7)
    length, queries, dim = 1200, 40, 32
    k, v = random.standard_normal((2, length, 2, dim)).astype(np.float32)
    q = random.standard_normal((queries, 4, dim)).astype(np.float32)
    pool = new_pool("fp32", num_blocks=75, heads=2, head_dim=dim)
    attention.write_kv(k, v, pool, np.arange(length))
    found = attention.paged_attention(
        q,
        pool,
        block_tables=np.arange(75, dtype=np.int32)[None],
        query_starts=np.array([0, queries], np.int32),
        context_lengths=np.array([length], np.int32),
        scale=dim**-0.5,
        window=window,
    )
    for row in range(queries):
        end = length - queries + row + 1
        seen = slice(max(0, end - window), end)
        expected = naive(q[row], k[seen], v[seen], scale=dim**-0.5)
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_a_window_as_long_as_the_context_changes_no_bit(isa, dtype):
    batch = paged_batch(np.random.default_rng(8), lengths=[600, 1100], queries=[30, 1], dtype=dtype)
    whole = attention.paged_attention(**batch)
    for window in (1100, 10**6):
        assert_same_bits(attention.paged_attention(**batch, window=window), whole)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 20), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_ragged_attention_is_its_twin_and_keeps_sequences_apart(each_isa, lengths, seed):
    random = np.random.default_rng(seed)
    q, k, v = random.standard_normal((3, sum(lengths), 3, 24)).astype(np.float32)
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    expected = reference.ragged_attention(q, k, v, sequence_starts=starts, scale=0.2)
    for isa in each_isa():
        result = attention.ragged_attention(q, k, v, sequence_starts=starts, scale=0.2, threads=2)
        assert_same_bits(result, expected, said=isa)
        for begin, end in pairwise(starts):
            own, rows = np.array([0, end - begin], np.int32), slice(begin, end)
            alone = attention.ragged_attention(q[rows], k[rows], v[rows], sequence_starts=own, scale=0.2)
            assert_same_bits(alone, result[rows], said=isa)
    for begin, end in pairwise(starts):
        for row in range(begin, end):
            textbook = naive(q[row], k[begin:end], v[begin:end], scale=0.2)
            np.testing.assert_allclose(expected[row], textbook, atol=2e-6)


NUMBERS = st.one_of(
    st.floats(-8, 8, width=32),
    st.sampled_from([0.0, -0.0, 1e-40, -1e-31, 6e-8, 65519.0, 65521.0, -1e9, np.inf, -np.inf, np.nan]),
)


@settings(deadline=None)
@given(
    rows=st.lists(st.lists(NUMBERS, min_size=10, max_size=10), min_size=1, max_size=4), swaps=st.booleans()
)
def test_write_kv_is_its_twin_to_the_bit_whatever_the_numbers(each_isa, dtype, rows, swaps):
    k = np.array(rows, np.float32).reshape(-1, 2, 5)
    v = k[::-1].copy() if swaps else -k
    slots = np.array([17, 0, 30, 5], np.int64)[: len(rows)]
    expected = new_pool(dtype, num_blocks=2, heads=2, head_dim=5)
    reference.write_kv(k, v, expected, slots)
    for isa in each_isa():
        found = new_pool(dtype, num_blocks=2, heads=2, head_dim=5)
        attention.write_kv(k, v, found, slots)
        same = (found == expected) | (np.isnan(found) & np.isnan(expected))
        if dtype == "int8":  # the scales are floats: a NaN may have any bits
            scales = [pool[..., : 4 * BLOCK_SIZE].copy().view(np.float32) for pool in (found, expected)]
            np.testing.assert_array_equal(*scales, err_msg=isa)
            same = same[..., 4 * BLOCK_SIZE :]
        assert same.all(), isa


def test_bytes_are_within_half_a_step_of_the_numbers():
    """Reads the layout by hand, as the drawing has it."""
    random = np.random.default_rng(3)
    k, v = random.standard_normal((2, 1, 1, 6)).astype(np.float32)
    pool = new_pool("int8", num_blocks=1, heads=1, head_dim=6)
    attention.write_kv(k, v, pool, np.array([3], np.int64))
    for side, numbers in enumerate((k[0, 0], v[0, 0])):
        half = pool[0, 0, side]
        step = half[:64].view(np.float32)[3]
        assert step == np.abs(numbers).max() / np.float32(127)
        if side:
            places = [64 + (3 // 2) * 32 + 2 * d + 3 % 2 for d in range(6)]
        else:
            places = [64 + d // 2 * 32 + 2 * 3 + d % 2 for d in range(6)]
        np.testing.assert_allclose(half[places] * step, numbers, atol=step * 0.5001)


@pytest.mark.parametrize("cap", [None, 5.0])
def test_a_number_that_is_not_finite_shows_in_what_attends_to_it(isa, dtype, cap):
    batch = paged_batch(np.random.default_rng(6), lengths=[30], queries=[30], dtype=dtype)
    batch["cap"] = cap
    spoilt = np.ones((1, 2, 16), np.float32)
    spoilt[0, 0, 3] = np.nan
    for keys, values in ((spoilt, np.ones_like(spoilt)), (np.ones_like(spoilt), spoilt)):
        pool = batch["pool"].copy()
        slot = batch["block_tables"][0, 20 // BLOCK_SIZE] * BLOCK_SIZE + 20 % BLOCK_SIZE
        attention.write_kv(keys, values, pool, np.array([slot], np.int64))
        found = attention.paged_attention(**batch | {"pool": pool})
        assert np.isnan(found[20:, :2]).any(axis=(1, 2)).all()
        assert np.isfinite(found[:, 2:]).all()
    q = batch["q"].copy()
    q[4, 1, 2] = np.inf
    found = attention.paged_attention(**batch | {"q": q})
    assert np.isnan(found[4, 1]).any()
    assert np.isfinite(np.delete(found, 4, axis=0)).all()


def test_a_pool_takes_the_bytes_that_are_said(dtype):
    per_position = {"fp32": 4 * 2 * 3 * 32, "fp16": 2 * 2 * 3 * 32, "int8": 2 * 3 * (32 + 4)}[dtype]
    assert block_bytes(dtype, heads=3, head_dim=20) == 16 * per_position
    assert new_pool(dtype, num_blocks=5, heads=3, head_dim=20).nbytes == 5 * 16 * per_position


def test_a_pool_of_an_unknown_kind_or_too_large_a_head_is_refused():
    with pytest.raises(ValidationError, match="int8, fp16, fp32"):
        pool_shape("fp8", num_blocks=1, heads=1, head_dim=8)
    with pytest.raises(ValidationError, match="fp16"):
        pool_shape("int8", num_blocks=1, heads=1, head_dim=513)
    rows = np.zeros((1, 1, 528), np.float32)
    pool = np.zeros((1, 1, 2, 64 + 16 * 528), np.int8)
    with pytest.raises(ValidationError, match="at most 512"):
        attention.write_kv(rows, rows, pool, np.zeros(1, np.int64))


@pytest.mark.parametrize("slot", [-1, 48, 2**62])
def test_a_slot_outside_the_pool_is_refused_before_anything_is_written(slot):
    rows = np.ones((2, 2, 5), np.float32)
    pool = new_pool("fp32", num_blocks=3, heads=2, head_dim=5)
    with pytest.raises(ValidationError, match="outside"):
        attention.write_kv(rows, rows, pool, np.array([0, slot], np.int64))
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
        ("pool", np.zeros((8, 2, 2, 272), np.float32), "shape"),
        ("pool", np.zeros((8, 2, 2, 256), np.int8), "shape"),
        ("pool", np.zeros((8, 2, 2, 256), np.float64), "float16"),
        ("pool", np.zeros((8, 2, 3, 256), np.float32)[:, :, :2], "contiguous"),
        ("pool", np.zeros((8, 0, 2, 256), np.float32), "shape"),
        ("pool", np.zeros((8, 3, 2, 256), np.float32), "multiple"),
        ("threads", -1, "threads"),
        ("window", 0, "window"),
        ("window", -5, "window"),
        ("cap", 0.0, "cap"),
        ("cap", -50.0, "cap"),
        ("cap", float("inf"), "cap"),
        ("cap", float("nan"), "cap"),
    ],
)
def test_pages_that_lie_outside_the_pool_are_refused(name, value, reason):
    batch = paged_batch(np.random.default_rng(4), lengths=[66], queries=[3])
    with pytest.raises(ValidationError, match=reason):
        attention.paged_attention(**batch | {name: value})


def test_falling_starts_and_heads_of_another_pool_are_refused():
    q = np.zeros((4, 1, 8), np.float32)
    with pytest.raises(ValidationError, match="must not fall"):
        attention.ragged_attention(q, q, q, sequence_starts=np.array([0, 9, 4], np.int32), scale=1.0)
    with pytest.raises(ValidationError, match="must not fall"):
        attention.ragged_attention(q, q, q, sequence_starts=np.array([0, 3, 2, 4], np.int32), scale=1.0)
    pool = new_pool("fp16", num_blocks=1, heads=3, head_dim=8)
    with pytest.raises(ValidationError, match="3 heads"):
        attention.write_kv(q, q, pool, np.arange(4))
