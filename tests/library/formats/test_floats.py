from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.formats.floats import SCAN_ELEMENTS, bfloat16_to_float32, first_not_finite, float32_to_bfloat16


def every_bfloat16() -> np.ndarray:
    return np.arange(1 << 16, dtype=np.uint16)


def test_every_bfloat16_survives_the_way_to_float32_and_back():
    bits = every_bfloat16()
    widened = bfloat16_to_float32(bits)
    back = float32_to_bfloat16(widened)
    nan = np.isnan(widened)
    np.testing.assert_array_equal(back[~nan], bits[~nan])
    assert np.isnan(bfloat16_to_float32(back[nan])).all()


@given(value=st.floats(width=32, allow_nan=False))
def test_rounding_to_bfloat16_takes_the_nearest_and_half_to_even(value):
    single = np.array([value], dtype=np.float32)
    bits = int(single.view(np.uint32)[0])
    low, rest = bits >> 16, bits & 0xFFFF
    expected = low + (1 if rest > 0x8000 or (rest == 0x8000 and low & 1) else 0)
    assert int(float32_to_bfloat16(single)[0]) == expected


@pytest.mark.oracle
def test_rounding_to_bfloat16_equals_torch():
    import torch  # noqa: PLC0415 - the oracle is not always installed

    values = np.random.default_rng(7).normal(size=100_000).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(float32_to_bfloat16(values), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 5, SCAN_ELEMENTS, SCAN_ELEMENTS + 3])
def test_the_first_value_that_is_not_finite_is_found(dtype, value, position):
    values = np.zeros(SCAN_ELEMENTS + 4, dtype=dtype)
    values[position:] = value
    assert first_not_finite(values) == position


def test_exactly_the_bfloat16_bits_of_nan_and_inf_are_not_finite():
    for bits in (0x7F80, 0xFF80, 0x7F81, 0x7FC0, 0xFFFF):
        assert first_not_finite(np.array([0, bits], dtype=np.uint16)) == 1
    finite = every_bfloat16()[np.isfinite(bfloat16_to_float32(every_bfloat16()))]
    assert first_not_finite(finite) is None


def test_integers_are_finite():
    assert first_not_finite(np.full(4, -1, dtype=np.int8)) is None
    assert first_not_finite(np.zeros((0, 3), dtype=np.float32)) is None
