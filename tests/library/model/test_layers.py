"""The functions that are made of kernels, against their formulas in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.model.layers import Embedding, bound, gelu_tanh_multiply

FLOATS = st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=40)


@given(FLOATS)
def test_gelu_is_its_formula_with_a_hyperbolic_tangent(values: list[float]) -> None:
    x = np.array([values], dtype=np.float32)
    exact = x.astype(np.float64)
    tangent = np.tanh(np.sqrt(2 / np.pi) * (exact + 0.044715 * exact**3))
    expected = 0.5 * exact * (1 + tangent) * 3
    actual = gelu_tanh_multiply(x, np.full_like(x, 3))
    np.testing.assert_allclose(actual, expected, rtol=3e-6, atol=3e-6)


@given(FLOATS, st.floats(0.5, 100))
def test_a_bound_is_its_formula_and_never_passed(values: list[float], cap: float) -> None:
    x = np.array([values], dtype=np.float32)
    actual = bound(x, cap)
    np.testing.assert_allclose(actual, cap * np.tanh(x.astype(np.float64) / cap), rtol=2e-6, atol=1e-6 * cap)
    assert np.abs(actual).max() <= np.float32(cap)


@pytest.mark.parametrize("function", [lambda x: gelu_tanh_multiply(x, x), lambda x: bound(x, 5.0)])
def test_what_is_not_a_number_shows(function: object) -> None:
    x = np.array([[1.0, np.nan]], dtype=np.float32)
    assert callable(function)
    assert np.isnan(function(x)).tolist() == [[False, True]]


def test_an_embedding_is_scaled_and_its_table_is_not() -> None:
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    rows = Embedding(table, scale=2.5)(np.array([2, 0], dtype=np.int32))
    np.testing.assert_array_equal(rows, np.array([[10.0, 12.5], [0.0, 2.5]], np.float32))
    np.testing.assert_array_equal(table, np.arange(6).reshape(3, 2))
