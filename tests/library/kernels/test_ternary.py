import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.kernels import cpu, reference
from tritium.kernels.weight import MAX_IN_FEATURES, TernaryWeight, padded

CASES = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 50),
        "columns": st.integers(1, 520),
        "planes": st.integers(1, 3),
        "group_size": st.sampled_from([None, 32, 64, 96, 128, 256]),
        "scale_per_row": st.booleans(),
    }
)


def random_inputs(random, *, batch, columns):
    x = (random.standard_normal((batch, columns)) * random.choice([1e-6, 1.0, 1e3])).astype(np.float32)
    return x, *cpu.quantize_activations(x)


@settings(deadline=None)
@given(case=CASES, batch=st.integers(0, 11), seed=st.integers(0, 2**32))
@example(
    case={"rows": 1, "columns": 1, "planes": 3, "group_size": None, "scale_per_row": True}, batch=1, seed=0
)
def test_ternary_products_equal_the_reference_bit_for_bit(each_isa, make_weight, case, batch, seed):
    random = np.random.default_rng(seed)
    weight = make_weight(random, **case)
    _, q, scale = random_inputs(random, batch=batch, columns=case["columns"])
    sums, expected = reference.ternary_accumulate(weight, q), reference.ternary_matmul(weight, q, scale)
    for isa in each_isa():
        found = cpu.ternary_accumulate(cpu.prepare(weight), q)
        np.testing.assert_array_equal(found, sums, strict=True, err_msg=isa)
        found = cpu.ternary_matmul(cpu.prepare(weight), q, scale)
        np.testing.assert_array_equal(found, expected, strict=True, err_msg=isa)


# Enough columns for matrix registers (AMX), which take 16 of them: whole registers, pairs of them, and rests.
@settings(deadline=None, max_examples=40)
@given(case=CASES, batch=st.integers(3, 70), seed=st.integers(0, 2**32))
def test_products_of_many_columns_equal_the_reference_bit_for_bit(each_isa, make_weight, case, batch, seed):
    random = np.random.default_rng(seed)
    divides = case["group_size"] is None and seed % 2 == 1
    weight = make_weight(random, **case, divides=divides)
    _, q, scale = random_inputs(random, batch=batch, columns=case["columns"])
    expected = reference.ternary_matmul(weight, q, scale)
    for isa in each_isa():
        found = cpu.ternary_matmul(cpu.prepare(weight), q, scale)
        np.testing.assert_array_equal(found, expected, strict=True, err_msg=isa)


@pytest.mark.parametrize("group_size", [None, 96, 128, 3200])
def test_columns_beyond_one_block_equal_the_reference_bit_for_bit(isa, make_weight, group_size):
    random = np.random.default_rng(11)
    weight = make_weight(random, rows=40, columns=3300, group_size=group_size)
    _, q, scale = random_inputs(random, batch=777, columns=3300)
    expected = reference.ternary_matmul(weight, q, scale)
    for threads in (1, 2):
        found = cpu.ternary_matmul(cpu.prepare(weight), q, scale, threads=threads)
        np.testing.assert_array_equal(found, expected, strict=True)


# So many inputs that AMX takes 33 columns as 16, one piece for a register, and 17, two of them. Three pairs
# of tiles have an odd number of groups: three of them in a block of quads, two, or one that spans blocks.
@pytest.mark.parametrize("group_size", [None, 96, 128])
def test_blocks_of_one_piece_and_of_two_equal_the_reference_bit_for_bit(isa, make_weight, group_size):
    random = np.random.default_rng(11)
    weight = make_weight(random, rows=81, columns=40_000, group_size=group_size)
    _, q, scale = random_inputs(random, batch=33, columns=40_000)
    found = cpu.ternary_matmul(cpu.prepare(weight), q, scale)
    np.testing.assert_array_equal(found, reference.ternary_matmul(weight, q, scale), strict=True)


@settings(deadline=None)
@given(columns=st.integers(1, 400), batch=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_a_weight_that_divides_equals_the_reference_bit_for_bit(each_isa, make_weight, columns, batch, seed):
    random = np.random.default_rng(seed)
    weight = make_weight(random, rows=9, columns=columns, divides=True, scale_per_row=False)
    _, q, scale = random_inputs(random, batch=batch, columns=columns)
    expected = reference.ternary_matmul(weight, q, scale)
    for isa in each_isa():
        found = cpu.ternary_matmul(cpu.prepare(weight), q, scale)
        np.testing.assert_array_equal(found, expected, strict=True, err_msg=isa)


@settings(deadline=None)
@given(case=CASES, seed=st.integers(0, 2**32))
def test_rows_of_a_weight_are_looked_up_as_the_reference_does_bit_for_bit(each_isa, make_weight, case, seed):
    random = np.random.default_rng(seed)
    weight = make_weight(random, **case)
    ids = random.integers(0, case["rows"], 7).astype(np.int32)
    expected = reference.ternary_lookup(weight, ids)
    for isa in each_isa():
        found = cpu.ternary_lookup(cpu.prepare(weight), ids)
        np.testing.assert_array_equal(found, expected, strict=True, err_msg=isa)


def test_rows_of_a_weight_that_divides_are_looked_up(isa, make_weight):
    random = np.random.default_rng(3)
    weight = make_weight(random, rows=20, columns=70, divides=True, scale_per_row=False)
    ids = np.array([19, 0, 19], dtype=np.int32)
    expected = reference.ternary_lookup(weight, ids)
    np.testing.assert_array_equal(cpu.ternary_lookup(cpu.prepare(weight), ids), expected, strict=True)


@pytest.mark.parametrize("wrong", [-1, 9])
def test_a_row_that_is_not_there_is_refused(isa, make_weight, wrong):
    weight = cpu.prepare(make_weight(np.random.default_rng(0), rows=9, columns=40))
    with pytest.raises(ValidationError, match="9 rows"):
        cpu.ternary_lookup(weight, np.array([0, wrong], dtype=np.int32))


def test_the_product_is_close_to_the_unquantized_one(isa, make_weight):
    random = np.random.default_rng(5)
    weight = make_weight(random, rows=33, columns=300, planes=2, group_size=64)
    x = random.standard_normal((6, 300)).astype(np.float32)
    q, scale = cpu.quantize_activations(x)
    values = sum(
        reference.from_compute_layout(plane, count=300) * 3.0 ** (1 - p)
        for p, plane in enumerate(weight.planes)
    )
    expected = x @ (values * np.repeat(weight.scales, 64, axis=1)[:, :300]).T
    error = (
        np.abs(cpu.ternary_matmul(cpu.prepare(weight), q, scale) - expected).max() / np.abs(expected).max()
    )
    assert error < 0.02


@pytest.mark.parametrize("group_size", [None, 32, 128])
def test_a_row_does_not_depend_on_batch_or_threads(isa, make_weight, group_size):
    random = np.random.default_rng(7)
    weight = make_weight(random, rows=77, columns=257, planes=2, group_size=group_size)
    _, q, scale = random_inputs(random, batch=37, columns=257)
    whole = cpu.ternary_matmul(cpu.prepare(weight), q, scale)
    for threads in (2, 3, 8):
        np.testing.assert_array_equal(
            cpu.ternary_matmul(cpu.prepare(weight), q, scale, threads=threads), whole
        )
    for row in range(37):
        alone = cpu.ternary_matmul(cpu.prepare(weight), q[row : row + 1], scale[row : row + 1])
        np.testing.assert_array_equal(alone[0], whole[row])


@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize(("trit", "activation"), [(1, 127), (1, -128), (-1, -128), (-1, 127)])
def test_the_largest_sums_do_not_saturate(isa, planes, trit, activation):
    columns = 7000
    plane = reference.to_compute_layout(np.full((33, columns), trit, np.int8))
    weight = TernaryWeight(
        planes=np.stack([plane] * planes),
        scales=np.ones((1, 1), np.float32),
        group_size=columns,
        in_features=columns,
        out_features=33,
    )
    q = np.zeros((20, padded(columns)), np.int8)
    q[:, :columns] = activation
    expected = trit * activation * columns * (1, 4, 13)[planes - 1]
    assert (cpu.ternary_accumulate(cpu.prepare(weight), q) == expected).all()
    product = cpu.ternary_matmul(cpu.prepare(weight), q, np.ones(20, np.float32))
    assert (product == np.float32(expected)).all()


@settings(deadline=None)
@given(
    columns=st.integers(1, 300),
    batch=st.integers(0, 6),
    exponent=st.integers(-40, 37),
    seed=st.integers(0, 2**32),
)
def test_quantized_activations_equal_the_reference_bit_for_bit(each_isa, columns, batch, exponent, seed):
    random = np.random.default_rng(seed)
    x = (random.standard_normal((batch, columns)) * 10.0**exponent).astype(np.float32)
    both = reference.quantize_activations(x)
    for isa in each_isa():
        for result, expected in zip(cpu.quantize_activations(x), both, strict=True):
            np.testing.assert_array_equal(result, expected, strict=True, err_msg=isa)


def test_halves_round_to_even_and_the_padding_is_zero(isa):
    x = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0]], np.float32)
    q, scale = cpu.quantize_activations(x)
    assert scale.tolist() == [np.float32(1) / np.float32(127) * np.float32(127)]
    assert q[0, :7].tolist() == [127, 0, 2, 2, 0, -2, -127]
    assert q.shape == (1, 128)
    assert not q[0, 7:].any()


def test_a_row_of_zeros_and_a_row_with_nan_or_infinity_stay_deterministic(isa):
    x = np.zeros((4, 20), np.float32)
    x[1, 3], x[1, 4] = np.nan, 2.0
    x[2, 5], x[2, 6] = np.inf, 1.0
    x[3, :] = np.nan
    q, scale = cpu.quantize_activations(x)
    expected_q, expected_scale = reference.quantize_activations(x)
    np.testing.assert_array_equal(q, expected_q)
    np.testing.assert_array_equal(scale, expected_scale)
    assert q[1, 3] == 0
    assert q[1, 4] == 127


def test_every_instruction_set_gives_the_same_floats(make_weight):
    from tritium.kernels import _native  # noqa: PLC0415 - switches tables under the face

    random = np.random.default_rng(3)
    weight = make_weight(random, rows=40, columns=600, planes=3, group_size=128)
    x, q, scale = random_inputs(random, batch=5, columns=600)
    before, results = _native.isa(), []
    for name in _native.available_isas():
        _native.set_isa(name)
        dense = cpu.dense_matmul(x, x)
        norm = cpu.rms_norm(x, x[0].copy(), eps=1e-5)
        soft = cpu.softmax(x)
        activations = cpu.silu_multiply(x, x), cpu.gelu(x), cpu.relu2_multiply(x, x)
        results.append([cpu.ternary_matmul(cpu.prepare(weight), q, scale), dense, norm, soft, *activations])
    _native.set_isa(before)
    for other in results[1:]:
        for one, first in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(one, first)


def test_arrays_that_do_not_fit_the_weight_are_refused(isa, make_weight):
    weight = make_weight(np.random.default_rng(0), rows=4, columns=200)
    q, scale = np.zeros((2, 256), np.int8), np.ones(2, np.float32)
    for wrong in (q[:, :128].copy(), q.astype(np.int16), q[0], np.zeros((2, 512), np.int8)[:, ::2]):
        with pytest.raises(ValidationError, match="q must be"):
            cpu.ternary_matmul(cpu.prepare(weight), wrong, scale)
    with pytest.raises(ValidationError, match="scale must be"):
        cpu.ternary_matmul(cpu.prepare(weight), q, np.ones(3, np.float32))
    with pytest.raises(ValidationError, match="threads"):
        cpu.ternary_matmul(cpu.prepare(weight), q, scale, threads=0)
    with pytest.raises(ValidationError):
        cpu.ternary_matmul(cpu.prepare(weight), "text", scale)


@pytest.mark.parametrize(
    "change",
    [
        {"in_features": 0},
        {"in_features": MAX_IN_FEATURES + 1},
        {"out_features": 3},
        {"group_size": 48},
        {"group_size": 16},
        {"group_size": -32},
        {"group_size": 64, "divides": True},
        {"planes": np.zeros((4, 4, 64), np.uint8)},
        {"planes": np.zeros((0, 4, 64), np.uint8)},
        {"planes": np.zeros((4, 64), np.uint8)},
        {"planes": np.zeros((1, 4, 64), np.int8)},
        {"planes": np.zeros((1, 4, 128), np.uint8)[:, :, ::2]},
        {"scales": np.ones((1, 2), np.float32)},
        {"scales": np.ones((1, 1), np.float64)},
    ],
)
def test_a_weight_that_contradicts_itself_is_refused(change):
    fields = {
        "planes": np.zeros((1, 4, 64), np.uint8),
        "scales": np.ones((1, 1), np.float32),
        "group_size": 200,
        "in_features": 200,
        "out_features": 4,
    }
    TernaryWeight(**fields)
    with pytest.raises(ValidationError):
        TernaryWeight(**(fields | change))
