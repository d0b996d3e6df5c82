"""The standard strategy finds the exact optimum, and says so against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tritium.kernels.quantization import least_squares_scales
from tritium.quantize.absmean import quantize_absmean
from tritium.quantize.quality import weight_error
from tritium.quantize.standard import quantize_standard
from tritium.quantize.weights import is_lossless

matrices = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 100)),
    elements=st.floats(-8, 8, width=32, allow_subnormal=False),
)


def least_error_by_brute_force(group: np.ndarray) -> float:
    """Try every assignment of trits, each with its own best scale."""
    best = float(np.square(group).sum())
    for trits in itertools.product((-1, 0, 1), repeat=len(group)):
        pattern = np.array(trits, dtype=np.float64)
        count = float(np.square(pattern).sum())
        if count:
            scale = max(0.0, float(pattern @ group) / count)
            best = min(best, float(np.square(group - scale * pattern).sum()))
    return best


def squared_error(weights: np.ndarray, scale: float, threshold: float) -> float:
    trits = np.sign(weights) * (np.abs(weights) > threshold)
    return float(np.square(weights - scale * trits).sum())


@given(hnp.arrays(np.float64, st.integers(1, 7), elements=st.floats(-4, 4, width=16)))
@settings(max_examples=60, deadline=None)
def test_the_scale_of_a_group_has_the_least_error_of_all_assignments(group):
    weights = group.astype(np.float32)[None, :]
    scale = float(least_squares_scales(weights, group_size=len(group))[0, 0])
    error = squared_error(weights, scale, scale / 2)
    assert error <= least_error_by_brute_force(group) + 1e-5


@given(matrices, st.floats(0, 8), st.floats(0, 8))
@settings(max_examples=100, deadline=None)
def test_no_other_scale_and_threshold_of_a_row_is_better(weights, scale, threshold):
    columns = weights.shape[1]
    found = least_squares_scales(weights, group_size=columns)[:, 0].astype(np.float64)
    for row, best in zip(weights.astype(np.float64), found, strict=True):
        energy = float(np.square(row).sum())
        assert squared_error(row, best, best / 2) <= squared_error(row, scale, threshold) + 1e-6 * (
            1 + energy
        )


@given(matrices)
@settings(max_examples=100, deadline=None)
def test_standard_is_never_worse_than_absmean(weights):
    standard = quantize_standard(weights, group_size=32)
    absmean = weight_error(weights, quantize_absmean(weights))
    # Scales in a byte add at most 1/32 at a right angle to the error of the best scale.
    assert weight_error(weights, standard) <= math.hypot(absmean, 1 / 32) + 5e-4
    rows = quantize_standard(weights, group_size=weights.shape[1])  # float16: half of the eleventh bit
    assert weight_error(weights, rows) <= absmean + 5e-4


@given(
    hnp.arrays(np.int8, st.tuples(st.integers(1, 5), st.integers(1, 200)), elements=st.integers(-1, 1)),
    st.floats(2.0**-30, 2.0**30, width=32),
)
@settings(max_examples=100, deadline=None)
def test_weights_that_are_ternary_already_are_kept_exactly(trits, scale):
    weights = trits * np.float32(scale)
    quantized = quantize_standard(weights, group_size=64)
    assert is_lossless(weights, quantized)
    assert np.array_equal(quantized.levels, trits)


@pytest.mark.parametrize("columns", [1, 5, 31, 32, 33, 127, 129, 384])
def test_a_short_last_group_has_a_scale_of_its_own(columns):
    weights = np.random.default_rng(columns).normal(size=(3, columns)).astype(np.float32)
    quantized = quantize_standard(weights, group_size=32)
    groups = -(-columns // 32)
    assert quantized.scales.shape == (3, groups)
    last = weights[:, 32 * (groups - 1) :]
    alone = quantize_standard(last, group_size=32)
    assert np.array_equal(quantized.levels[:, 32 * (groups - 1) :], alone.levels)


def test_an_all_zero_matrix_becomes_zeros_without_a_warning():
    quantized = quantize_standard(np.zeros((2, 40), dtype=np.float32), group_size=32)
    assert not quantized.levels.any()
    assert weight_error(np.zeros((2, 40), dtype=np.float32), quantized) == 0


def test_gaussian_weights_reach_the_known_least_error_of_three_levels():
    weights = np.random.default_rng(0).normal(size=(64, 4096)).astype(np.float32)
    error = weight_error(weights, quantize_standard(weights, group_size=4096))
    assert error == pytest.approx(0.436, abs=0.004)  # Lloyd-Max, three levels: 0.1902 of the variance


def test_scales_beyond_float16_are_kept_as_float32():
    weights = np.full((1, 32), 1e6, dtype=np.float32)
    quantized = quantize_standard(weights, group_size=32)
    assert quantized.scales.dtype == np.float32
    assert is_lossless(weights, quantized)
