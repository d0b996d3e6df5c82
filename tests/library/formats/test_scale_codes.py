"""Scales in a byte: every code is its own rounding, and rounding is to the nearest code there is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.formats.scale_codes import (
    LARGEST_UNIT,
    SMALLEST_UNIT,
    decode_scales,
    encode_scales,
    nearest_scales,
)

ALL = np.arange(256, dtype=np.uint8)


@pytest.mark.parametrize("unit", [SMALLEST_UNIT, -30, 0, 7, LARGEST_UNIT])
def test_codes_stand_for_growing_values_that_are_coded_as_themselves(unit):
    values = decode_scales(ALL, unit)
    assert np.isfinite(values).all()
    assert (np.diff(values) > 0).all()
    codes, found = encode_scales(values)
    np.testing.assert_array_equal(codes, ALL)
    assert found == unit


@given(
    st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=50),
    st.integers(-60, 60),
)
def test_every_scale_gets_the_nearest_of_all_codes(values, exponent):
    scales = np.ldexp(np.array(values, dtype=np.float32), exponent).astype(np.float32)
    codes, unit = encode_scales(scales)
    np.testing.assert_array_equal(nearest_scales(scales, unit), decode_scales(codes, unit))
    found = decode_scales(codes, unit).astype(np.float64)
    table = decode_scales(ALL, unit).astype(np.float64)
    nearest = np.abs(table[None] - scales.astype(np.float64)[:, None]).min(axis=1)
    np.testing.assert_array_equal(np.abs(found - scales), nearest)
    # Below 16 of the smallest unit a code has fewer digits: those are numbers near the end of float32.
    large = scales.astype(np.float64) > max(scales.max() * 2.0**-14, 16 * 2.0**SMALLEST_UNIT)
    assert (np.abs(found - scales)[large] <= scales[large] / 31).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_what_is_no_scale_has_no_code(bad):
    with pytest.raises(ValidationError, match="no code"):
        encode_scales(np.array([1.0, bad], np.float32))


@pytest.mark.parametrize("unit", [SMALLEST_UNIT - 1, LARGEST_UNIT + 1, True, 1.0, None])
def test_a_unit_outside_float32_is_refused(unit):
    with pytest.raises(ValidationError, match="unit"):
        decode_scales(ALL, unit)


@pytest.mark.parametrize("unit", [SMALLEST_UNIT, -30, 0, 7, LARGEST_UNIT])
def test_halfway_between_codes_the_even_one_is_nearest(unit):
    values = decode_scales(ALL, unit)
    halfway = values[:-1] / 2 + values[1:] / 2
    around = np.concatenate(
        [np.nextafter(halfway, np.float32(0)), halfway, np.nextafter(halfway, values[1:])]
    )
    codes, found = encode_scales(np.append(around, values[-1]))
    assert found == unit
    np.testing.assert_array_equal(nearest_scales(around, unit), decode_scales(codes[:-1], unit))


@pytest.mark.parametrize("scale", [-1.0, np.nan, np.inf])
def test_what_has_no_code_has_no_nearest_scale(scale):
    with pytest.raises(ValidationError, match="no code"):
        nearest_scales(np.array([1.0, scale], np.float32), 0)
