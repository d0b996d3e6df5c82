"""The native quantization kernels against their numpy twins, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tritium.errors import ValidationError
from tritium.kernels import quantization
from tritium.kernels import reference_quantization as reference

pytestmark = pytest.mark.usefixtures("isa")

LARGEST = float(np.finfo(np.float32).max)


def as_bfloat16(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def as_half(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -65504, 65504).astype(np.float16)


KINDS = {"float32": np.asarray, "float16": as_half, "bfloat16": as_bfloat16}
SIZES = st.tuples(st.integers(1, 20), st.integers(1, 300))
# From subnormal to the largest, and few different ones, so that equal magnitudes meet.
NUMBERS = st.one_of(
    st.floats(-LARGEST, LARGEST, width=32), st.floats(-8, 8, width=32), st.integers(-4, 4).map(float)
)
MATRICES = hnp.arrays(np.float32, SIZES, elements=NUMBERS, fill=st.just(np.float32(0.375)))


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
@given(weights=MATRICES, data=st.data())
@settings(max_examples=60, deadline=None)
def test_absmean_equals_the_reference(kind, weights, data):
    columns = weights.shape[1]
    sizes = [None, columns, *range(32, columns, 32)]
    size = data.draw(st.sampled_from(sizes))
    stored = KINDS[kind](weights)
    planes, scales = quantization.absmean(stored, group_size=size)
    expected_planes, expected_scales = reference.absmean(stored, group_size=size)
    assert_same_bits(scales, expected_scales)
    assert_same_bits(planes, expected_planes)


@pytest.mark.parametrize("kind", KINDS)
@given(weights=MATRICES, data=st.data())
@settings(max_examples=100, deadline=None)
def test_least_squares_scales_equal_the_reference(kind, weights, data):
    size = data.draw(st.one_of(st.none(), st.integers(1, weights.shape[1])))
    stored = KINDS[kind](weights)
    assert_same_bits(
        quantization.least_squares_scales(stored, group_size=size),
        reference.least_squares_scales(stored, group_size=size),
    )


@given(
    weights=hnp.arrays(np.float32, SIZES, elements=st.floats(-100, 100, width=32)),
    scale=st.floats(2.0**-20, 2.0**20, width=32),
    limit=st.sampled_from([1, 4, 13]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_round_levels_equals_the_reference(weights, scale, limit, data):
    rows, columns = weights.shape
    size = data.draw(st.integers(1, columns))
    shape = (data.draw(st.sampled_from([1, rows])), -(-columns // size))
    scales = np.float32(scale) * np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert_same_bits(
        quantization.round_levels(weights, scales, group_size=size, limit=limit),
        reference.round_levels(weights, scales, group_size=size, limit=limit),
    )


@pytest.mark.parametrize("distribution", ["normal", "laplace", "standard_cauchy", "two clusters"])
@pytest.mark.parametrize("size", [32, 64, 128, 256, 257, 1000, 6912, 16384])
def test_the_optimum_is_found_in_groups_of_every_length(distribution, size):
    draw = np.random.default_rng(size)
    shape = (37, size)
    if distribution == "two clusters":  # two thresholds that no small step improves
        weights = np.where(
            draw.random(shape) < 0.5, draw.normal(1.0, 0.05, shape), draw.normal(0.42, 0.05, shape)
        )
    else:
        weights = getattr(draw, distribution)(size=shape)
    weights = weights.astype(np.float32)
    assert_same_bits(
        quantization.least_squares_scales(weights, group_size=size),
        reference.least_squares_scales(weights, group_size=size),
    )


def test_a_tie_goes_to_the_scale_of_fewer_weights():
    weights = np.array([[3, 1, 1, 1]], np.float32)  # 3^2 / 1 = 6^2 / 4
    assert quantization.least_squares_scales(weights, group_size=4).item() == 3.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [None, 128, 640])
def test_the_number_of_threads_changes_nothing(kind, size):
    values = np.random.default_rng(0).normal(size=(700, 640)).astype(np.float32)
    weights = KINDS[kind](values)
    for kernel in (quantization.absmean, quantization.least_squares_scales):
        one, three = (kernel(weights, group_size=size, threads=count) for count in (1, 3))
        for alone, together in zip(one, three, strict=True):
            np.testing.assert_array_equal(alone, together)
    scales = np.ones((700, 5), np.float32)
    one, three = (
        quantization.round_levels(values, scales, group_size=128, limit=4, threads=count) for count in (1, 3)
    )
    np.testing.assert_array_equal(one, three)


def test_the_threshold_of_absmean_is_the_rounding_half_to_even_of_floats_beside_it():
    draw = np.random.default_rng(1)
    for _ in range(50):
        mean = np.float32(np.exp(draw.uniform(-12, 60)))
        near = np.float32(0.5) * mean
        steps = near.view(np.uint32) + np.arange(-8, 9, dtype=np.int64)
        row = np.zeros(4096, np.float32)
        row[: len(steps)] = steps.astype(np.uint32).view(np.float32)
        row[-1] = max(0.0, float(mean) * len(row) - float(row.sum(dtype=np.float64)))
        planes, scales = quantization.absmean(row[None], group_size=len(row))
        assert_same_bits(planes, reference.absmean(row[None], group_size=len(row))[0])
        assert scales.shape == (1, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [None, 32, 300])
@pytest.mark.parametrize("twin", [quantization, reference])
def test_weights_that_are_not_finite_are_refused(kind, wrong, size, twin):
    weights = np.ones((3, 300), np.float32)
    stored = KINDS[kind](weights)
    bad = np.array([wrong], np.float32)
    stored[1, 299] = {"float32": bad, "float16": bad.astype(np.float16), "bfloat16": as_bfloat16(bad)}[kind][
        0
    ]
    for kernel in (twin.absmean, twin.least_squares_scales):
        with pytest.raises(ValidationError, match="NaN or infinity"):
            kernel(stored, group_size=size)


def test_what_does_not_fit_is_refused():
    weights = np.ones((4, 100), np.float32)
    for wrong in (
        weights[:, ::2],
        weights[0],
        weights.astype(np.float64),
        weights[:0],
        weights.astype(np.int16),
    ):
        for kernel in (quantization.absmean, quantization.least_squares_scales):
            with pytest.raises(ValidationError, match="weights"):
                kernel(wrong, group_size=None)
    for size in (-1, 33):
        with pytest.raises(ValidationError, match="group"):
            quantization.absmean(weights, group_size=size)
    with pytest.raises(ValidationError, match="threads"):
        quantization.absmean(weights, threads=0)
    for scales in (np.ones((4, 2), np.float32), np.ones((3, 1), np.float32), np.ones((4, 1))):
        with pytest.raises(ValidationError):
            quantization.round_levels(weights, scales, group_size=100, limit=1)
    with pytest.raises(ValidationError, match="limit"):
        quantization.round_levels(weights, np.ones((4, 1), np.float32), group_size=100, limit=128)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint16])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_number_that_is_not_finite_is_found(dtype, threads):
    values = np.ones(100_000, dtype)
    assert quantization.first_not_finite(values, threads=threads) == -1
    for position in (99_999, 70_000, 16_384, 3):
        values[position] = 0xFF80 if dtype == np.uint16 else np.nan
        assert quantization.first_not_finite(values, threads=threads) == position


def test_only_floating_point_numbers_are_searched():
    for wrong in (np.ones(4, np.int32), np.ones((2, 2), np.float32), np.ones(8, np.float32)[::2]):
        with pytest.raises(ValidationError, match="values"):
            quantization.first_not_finite(wrong)
