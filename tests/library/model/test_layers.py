"""Layers that are more than a call of one kernel."""

from __future__ import annotations

import numpy as np

from tritium.model.layers import Embedding


def test_an_embedding_is_scaled_and_its_table_is_not() -> None:
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    rows = Embedding(table, scale=2.5)(np.array([2, 0], dtype=np.int32))
    np.testing.assert_array_equal(rows, np.array([[10.0, 12.5], [0.0, 2.5]], np.float32))
    np.testing.assert_array_equal(table, np.arange(6).reshape(3, 2))
