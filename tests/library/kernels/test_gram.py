"""The native sums of products against their numpy twin, on every instruction set, and against float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.kernels import gram
from tritium.kernels import reference_gram as reference

pytestmark = pytest.mark.usefixtures("isa")


def drawn(rows: int, columns: int, *, seed: int, exponent: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(rows, columns)) * draw.lognormal(size=columns, sigma=3) * 2.0**exponent
    values[:, draw.random(columns) < 0.1] = 0
    return values.astype(np.float32)


@given(
    rows=st.one_of(st.integers(1, 40), st.integers(505, 1100)),
    columns=st.integers(1, 60),
    others=st.integers(1, 60),
    exponent=st.integers(-110, 55),
    seed=st.integers(0, 2**32 - 1),
    threads=st.integers(1, 2),
)
@settings(max_examples=40, deadline=None)
def test_the_sums_are_the_references_bit_for_bit(rows, columns, others, *, exponent, seed, threads):
    first = drawn(rows, columns, seed=seed, exponent=exponent)
    second = drawn(rows, others, seed=seed + 1)
    found = np.random.default_rng(seed).normal(size=(columns, others)).astype(np.float32)
    wanted = found.copy()
    gram.add_cross_gram(first, second, found, threads=threads)
    reference.add_cross_gram(first, second, wanted)
    np.testing.assert_array_equal(found, wanted)
    found, wanted = np.zeros((2, others, others), np.float32)
    gram.add_gram(second, found, threads=threads)
    reference.add_gram(second, wanted)
    np.testing.assert_array_equal(np.triu(found), np.triu(wanted))


@pytest.mark.parametrize("threads", [1, 2])
def test_wide_inputs_are_cut_into_tiles_and_all_of_them_are_there(threads):
    first, second = drawn(300, 1100, seed=1), drawn(300, 1090, seed=2)
    found, wanted = np.zeros((2, 1100, 1090), np.float32)
    gram.add_cross_gram(first, second, found, threads=threads)
    reference.add_cross_gram(first, second, wanted)
    np.testing.assert_array_equal(found, wanted)
    found, wanted = np.zeros((2, 1100, 1100), np.float32)
    gram.add_gram(first, found, threads=threads)
    reference.add_gram(first, wanted)
    np.testing.assert_array_equal(np.triu(found), np.triu(wanted))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_rounding_adds_less_than_a_thousandth_of_the_columns_lengths(seed):
    draw = np.random.default_rng(seed)
    first, second = (draw.standard_t(3, size=(700, 9)).astype(np.float32) for _ in range(2))
    first[draw.integers(700), 4] = 1e4  # one token that drives an input far harder than all the others
    found = np.zeros((9, 9), np.float32)
    gram.add_cross_gram(first, second, found)
    exact = first.T.astype(np.float64) @ second
    lengths = np.sqrt(np.square(first.astype(np.float64)).sum(axis=0))
    others = np.sqrt(np.square(second.astype(np.float64)).sum(axis=0))
    assert (np.abs(found - exact) <= 1e-3 * lengths[:, None] * others).all()


def test_a_product_is_that_of_the_matrices():
    first, second = drawn(7, 600, seed=3), drawn(600, 5, seed=4)
    exact = first.astype(np.float64) @ second
    lengths = np.linalg.norm(first, axis=1)[:, None] * np.linalg.norm(second, axis=0)
    assert (np.abs(gram.multiplied(first, second) - exact) <= 1e-3 * lengths).all()


def test_shapes_and_dtypes_that_do_not_fit_are_refused():
    values = np.zeros((4, 3), np.float32)
    with pytest.raises(ValidationError, match="out"):
        gram.add_gram(values, np.zeros((3, 4), np.float32))
    with pytest.raises(ValidationError, match="second"):
        gram.add_cross_gram(values, np.zeros((5, 3), np.float32), np.zeros((3, 3), np.float32))
    with pytest.raises(ValidationError, match="values"):
        gram.add_gram(values.astype(np.float64), np.zeros((3, 3), np.float32))
    with pytest.raises(ValidationError, match="values"):
        gram.add_gram(values[:, :2], np.zeros((2, 2), np.float32))


def test_inputs_turned_in_pieces_leave_the_same_bits():
    draw = np.random.default_rng(5)
    first, second = (draw.normal(size=size).astype(np.float32) for size in ((3, 5000), (5000, 20)))
    at_once = np.zeros((3, 20), np.float32)
    gram.add_cross_gram(np.ascontiguousarray(first.T), second, at_once)
    np.testing.assert_array_equal(gram.multiplied(first, second), at_once)
