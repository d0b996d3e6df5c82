"""The functions that are made of kernels, against their formulas in double precision."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tritium.model.layers import Embedding, gelu_tanh_multiply

FLOATS = st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=40)


@given(FLOATS)
def test_gelu_is_its_formula_with_a_hyperbolic_tangent(values: list[float]) -> None:
    x = np.array([values], dtype=np.float32)
    exact = x.astype(np.float64)
    tangent = np.tanh(np.sqrt(2 / np.pi) * (exact + 0.044715 * exact**3))
    expected = 0.5 * exact * (1 + tangent) * 3
    actual = gelu_tanh_multiply(x, np.full_like(x, 3))
    np.testing.assert_allclose(actual, expected, rtol=3e-6, atol=3e-6)


def test_what_is_not_a_number_shows() -> None:
    x = np.array([[1.0, np.nan]], dtype=np.float32)
    assert np.isnan(gelu_tanh_multiply(x, x)).tolist() == [[False, True]]


def test_an_embedding_is_scaled_and_its_table_is_not() -> None:
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    rows = Embedding(table, scale=2.5)(np.array([2, 0], dtype=np.int32))
    np.testing.assert_array_equal(rows, np.array([[10.0, 12.5], [0.0, 2.5]], np.float32))
    np.testing.assert_array_equal(table, np.arange(6).reshape(3, 2))
