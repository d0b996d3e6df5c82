"""More trit-planes never fit worse, and their digits add up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tritium.kernels.packing import unpack_trits
from tritium.quantize.planes import quantize_planes
from tritium.quantize.quality import weight_error
from tritium.quantize.standard import quantize_standard
from tritium.quantize.weights import level_limit, split_levels

matrices = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 100)),
    elements=st.floats(-8, 8, width=32, allow_subnormal=False),
)


def least_error_on_a_fine_grid(group: np.ndarray, limit: int) -> float:
    steps = np.linspace(1e-3, np.abs(group).max() * 1.2, 4000)
    levels = np.clip(np.rint(group[None, :] / steps[:, None]), -limit, limit)
    return float(np.square(group - levels * steps[:, None]).sum(axis=1).min())


@given(matrices)
@example(np.full((1, 33), np.finfo(np.float32).tiny))
@settings(max_examples=100, deadline=None)
def test_each_plane_lowers_the_weight_error_or_keeps_it(weights):
    errors = [
        weight_error(weights, quantize_planes(weights, planes=count, group_size=32)) for count in (1, 2, 3)
    ]
    # Scales in a byte add at most 1/32 at a right angle to the error of the best scale.
    assert errors[1] <= math.hypot(errors[0], 1 / 32) + 1e-3
    assert errors[2] <= math.hypot(errors[1], 1 / 32) + 1e-3


@pytest.mark.parametrize("planes", [1, 2, 3])
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_digits_of_the_planes_add_up_to_the_level(planes, data):
    limit = level_limit(planes)
    shape = st.tuples(st.integers(1, 3), st.integers(1, 40))
    levels = data.draw(hnp.arrays(np.int8, shape, elements=st.integers(-limit, limit)))
    digits = list(split_levels(levels, planes=planes))
    assert len(digits) == planes
    assert all(np.abs(digit).max(initial=0) <= 1 for digit in digits)
    value = sum(digit.astype(int) * 3 ** (planes - 1 - index) for index, digit in enumerate(digits))
    assert np.array_equal(value, levels)


def test_one_plane_is_the_standard_strategy():
    weights = np.random.default_rng(1).normal(size=(8, 256)).astype(np.float32)
    one, standard = (
        quantize_planes(weights, planes=1, group_size=128),
        quantize_standard(weights, group_size=128),
    )
    assert np.array_equal(one.levels, standard.levels)
    assert np.array_equal(one.scales, standard.scales)


@pytest.mark.parametrize(("planes", "expected"), [(2, 0.1698), (3, 0.0617)])
def test_gaussian_weights_reach_the_error_of_a_uniform_grid(planes, expected):
    weights = np.random.default_rng(2).normal(size=(64, 1024)).astype(np.float32)
    quantized = quantize_planes(weights, planes=planes, group_size=128)
    assert weight_error(weights, quantized) == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("planes", [2, 3])
@pytest.mark.parametrize("tail", ["normal", "laplace", "standard_t"])
def test_the_grid_is_within_one_percent_of_an_exhaustive_search(planes, tail):
    draw = np.random.default_rng(3)
    arguments = (4,) if tail == "standard_t" else (0.0, 1.0)
    weights = getattr(draw, tail)(*arguments, size=(40, 128)).astype(np.float32)
    quantized = quantize_planes(weights, planes=planes, group_size=128)
    found = np.square(weights - quantized.dequantized()).sum()
    best = sum(least_error_on_a_fine_grid(row.astype(np.float64), level_limit(planes)) for row in weights)
    assert found <= best * 1.01


def test_packed_trits_hold_the_levels():
    weights = np.random.default_rng(4).normal(size=(5, 133)).astype(np.float32)
    quantized = quantize_planes(weights, planes=2, group_size=64)
    packed = quantized.packed()
    assert packed.shape == (2, 133)
    trits = unpack_trits(packed, count=5 * 133).reshape(2, 5, 133).astype(int)
    assert np.array_equal(3 * trits[0] + trits[1], quantized.levels)
