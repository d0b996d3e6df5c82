from __future__ import annotations

import numpy as np
import pytest

from tritium.formats.floats import bfloat16_to_float32, first_not_finite

SCAN_ELEMENTS = 1 << 20


def every_bfloat16() -> np.ndarray:
    return np.arange(1 << 16, dtype=np.uint16)


def test_every_bfloat16_becomes_the_float32_that_begins_with_its_bits():
    bits = every_bfloat16()
    np.testing.assert_array_equal(bfloat16_to_float32(bits).view(np.uint32), bits.astype(np.uint32) << 16)
    known = {0x3F80: 1.0, 0xC000: -2.0, 0x4049: 3.140625, 0x0001: 2.0**-133}
    for code, value in known.items():
        assert bfloat16_to_float32(np.array([code], np.uint16))[0] == np.float32(value)


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
