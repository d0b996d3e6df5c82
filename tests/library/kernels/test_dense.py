import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.kernels import cpu, reference


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def to_bfloat16(values):
    return (values.view(np.uint32) >> 16).astype(np.uint16)


@settings(deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(0, 200), batch=st.integers(0, 9), half=st.booleans())
def test_dense_products_equal_the_reference_bit_for_bit(each_isa, rows, columns, batch, half):
    x, weight = normal(1, batch, columns), normal(2, rows, columns)
    weight = to_bfloat16(weight) if half else weight
    expected = reference.dense_matmul(x, weight)
    for isa in each_isa():
        np.testing.assert_array_equal(cpu.dense_matmul(x, weight), expected, strict=True, err_msg=isa)
    wide = reference.as_float32(weight).astype(np.float64)
    np.testing.assert_allclose(expected, x.astype(np.float64) @ wide.T, atol=1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_products_beyond_one_block_of_each_kind_equal_the_reference(each_isa, half):
    x, weight = normal(1, 53, 2071), normal(2, 37, 2071)
    weight = to_bfloat16(weight) if half else weight
    expected = reference.dense_matmul(x, weight)
    for isa in each_isa():
        np.testing.assert_array_equal(cpu.dense_matmul(x, weight), expected, strict=True, err_msg=isa)


def test_a_dense_row_does_not_depend_on_batch_or_threads(isa):
    x, weight = normal(1, 41, 333), normal(2, 75, 333)
    whole = cpu.dense_matmul(x, weight)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(cpu.dense_matmul(x, weight, threads=threads), whole)
    for row in range(41):
        np.testing.assert_array_equal(cpu.dense_matmul(x[row : row + 1], weight)[0], whole[row])


@pytest.mark.parametrize("half", [False, True])
def test_embedding_lookup_copies_rows(isa, half):
    table = normal(3, 10, 21)
    table = to_bfloat16(table) if half else table
    ids = np.array([9, 0, 0, 4], np.int32)
    expected = reference.embedding_lookup(table, ids)
    np.testing.assert_array_equal(cpu.embedding_lookup(table, ids), expected, strict=True)
    assert cpu.embedding_lookup(table, ids[:0]).shape == (0, 21)


@pytest.mark.parametrize("bad", [-1, 10, 2**31 - 1, -(2**31)])
def test_an_id_outside_the_table_is_refused(bad):
    with pytest.raises(ValidationError, match="not one of"):
        cpu.embedding_lookup(normal(3, 10, 21), np.array([0, bad], np.int32))


@settings(deadline=None)
@given(rows=st.integers(0, 5), columns=st.integers(1, 150), seed=st.integers(0, 999))
def test_norms_equal_the_reference_bit_for_bit(each_isa, rows, columns, seed):
    x, weight, bias = normal(seed, rows, columns), normal(seed + 1, columns), normal(seed + 2, columns)
    by_size = reference.rms_norm(x, weight, eps=1e-6)
    by_layer = reference.layer_norm(x, weight, bias, eps=1e-12)
    for isa in each_isa():
        np.testing.assert_array_equal(cpu.rms_norm(x, weight, eps=1e-6), by_size, err_msg=isa)
        np.testing.assert_array_equal(cpu.layer_norm(x, weight, bias, eps=1e-12), by_layer, err_msg=isa)


@pytest.mark.parametrize("columns", [1, 15, 16, 97])
def test_activation_functions_are_close_to_the_reference(isa, columns):
    gate = np.linspace(-100, 100, 7 * columns, dtype=np.float32).reshape(7, columns)
    up = normal(4, 7, columns)
    for name in ("silu_multiply", "relu2_multiply"):
        expected = getattr(reference, name)(gate, up)
        np.testing.assert_allclose(getattr(cpu, name)(gate, up), expected, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(cpu.gelu(gate), reference.gelu(gate), atol=1e-6)
    small = gate / 20
    np.testing.assert_allclose(cpu.gelu(small), reference.gelu(small), atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=70))
def test_gelu_with_a_tangent_is_its_twin_to_the_bit(each_isa, values):
    gate = np.array([values], np.float32)
    up = normal(3, *gate.shape)
    expected = reference.gelu_tanh_multiply(gate, up)
    for isa in each_isa():
        np.testing.assert_array_equal(cpu.gelu_tanh_multiply(gate, up), expected, err_msg=isa)


@settings(deadline=None)
@given(st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=70))
def test_gelu_with_a_tangent_is_its_formula(each_isa, values):
    x = np.array([values], dtype=np.float32)
    exact = x.astype(np.float64)
    tangent = np.tanh(np.sqrt(2 / np.pi) * (exact + 0.044715 * exact**3))
    expected = 0.5 * exact * (1 + tangent) * 3
    for isa in each_isa():
        actual = cpu.gelu_tanh_multiply(x, np.full_like(x, 3))
        np.testing.assert_allclose(actual, expected, rtol=3e-6, atol=3e-6, err_msg=isa)


@settings(deadline=None)
@given(values=st.lists(st.floats(width=32), min_size=1, max_size=70), cap=st.floats(1e-6, 1e6))
def test_a_bound_is_its_twin_to_the_bit(each_isa, values, cap):
    x = np.array([values], np.float32)
    expected = reference.bound(x, cap=cap)
    for isa in each_isa():
        np.testing.assert_array_equal(cpu.bound(x, cap=cap), expected, err_msg=isa)


@settings(deadline=None)
@given(values=st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=70), cap=st.floats(0.5, 100))
def test_a_bound_is_its_formula_and_never_passed(each_isa, values, cap):
    x = np.array([values], np.float32)
    expected = cap * np.tanh(x.astype(np.float64) / cap)
    for isa in each_isa():
        bounded = cpu.bound(x, cap=cap)
        np.testing.assert_allclose(bounded, expected, rtol=1e-6, atol=1e-37, err_msg=isa)
        assert np.abs(bounded).max() <= np.float32(cap), isa


def test_a_bound_shows_what_is_not_finite_and_is_a_positive_number(isa):
    x = np.array([[1.0, np.nan, np.inf, -np.inf, -3e38]], np.float32)
    assert np.isnan(cpu.bound(x, cap=5.0)).tolist() == [[False, True, True, True, False]]
    for cap in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValidationError, match="positive"):
            cpu.bound(x, cap=cap)


@settings(deadline=None)
@given(st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=70))
def test_softmax_is_a_distribution_close_to_the_exact_one(each_isa, values):
    # float32 rounds the difference to the largest value: that error is the format's, not the kernel's.
    powers = [math.exp(np.float32(value) - np.float32(max(values))) for value in values]
    expected = np.array(powers) / sum(powers)
    for isa in each_isa():
        shares = cpu.softmax(np.array([values], np.float32))[0]
        np.testing.assert_allclose(shares, expected, rtol=2e-6, atol=1e-37, err_msg=isa)


def test_softmax_gives_nothing_to_minus_infinity_and_shows_nan(isa):
    assert cpu.softmax(np.array([[0.0, -np.inf]], np.float32)).tolist() == [[1.0, 0.0]]
    assert np.isnan(cpu.softmax(np.array([[0.0, np.nan, 1.0]], np.float32))).any()
    x = np.array([[np.nan, 1.0]], np.float32)
    gated = cpu.silu_multiply(x, x), cpu.relu2_multiply(x, x), cpu.gelu_tanh_multiply(x, x)
    for result in (*gated, cpu.gelu(x), cpu.rms_norm(x, x[0], eps=1e-5)):
        assert np.isnan(result[0, 0])


def test_rope_rotates_the_halves_like_the_reference(isa):
    x, positions = normal(5, 6, 3, 10), np.array([0, 1, 7, 4000, 2, 131071], np.int32)
    inv_freq = (10000.0 ** (-np.arange(5) / 5)).astype(np.float32)
    rotated, expected = x.copy(), x.copy()
    cpu.rope_inplace(rotated, positions, inv_freq, scaling=1.25)
    reference.rope_inplace(expected, positions, inv_freq, scaling=1.25)
    np.testing.assert_allclose(rotated, expected, atol=2e-6)
    np.testing.assert_array_equal(rotated[0], x[0] * np.float32(1.25))


def test_rope_refuses_what_it_cannot_rotate():
    inv_freq = np.ones(2, np.float32)
    with pytest.raises(ValidationError, match="even"):
        cpu.rope_inplace(normal(1, 2, 1, 5), np.zeros(2, np.int32), inv_freq)
    with pytest.raises(ValidationError, match="positions"):
        cpu.rope_inplace(normal(1, 2, 1, 4), np.zeros(3, np.int32), inv_freq)
    frozen = normal(1, 2, 1, 4)
    frozen.flags.writeable = False
    with pytest.raises(ValidationError, match="writable"):
        cpu.rope_inplace(frozen, np.zeros(2, np.int32), inv_freq)


def test_shapes_and_dtypes_that_do_not_fit_are_refused_by_name():
    x = normal(1, 3, 8)
    with pytest.raises(ValidationError, match="weight must be"):
        cpu.dense_matmul(x, normal(1, 4, 9))
    with pytest.raises(ValidationError, match="float64"):
        cpu.dense_matmul(x.astype(np.float64), x)
    with pytest.raises(ValidationError, match="up must be"):
        cpu.silu_multiply(x, x[:2])
    with pytest.raises(ValidationError, match="not C-contiguous"):
        cpu.softmax(x[:, ::2])
    with pytest.raises(ValidationError, match="at least one column"):
        cpu.softmax(x[:, :0])
    with pytest.raises(ValidationError, match="at least one column"):
        cpu.quantize_activations(x[:, :0])
    with pytest.raises(ValidationError, match="bias must be"):
        cpu.layer_norm(x, x[0], x[0, :4], eps=1e-5)
    with pytest.raises(ValidationError, match="wrong type"):
        cpu.rms_norm(None, x[0], eps=1e-5)
