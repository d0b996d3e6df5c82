import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tritium.errors import ValidationError
from tritium.kernels import packing, reference

SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=300)
TRITS = arrays.arrays(
    np.int8, SHAPES.filter(lambda s: np.prod(s) < 5000), elements=st.integers(-1, 1), fill=st.just(np.int8(0))
)
SIZES = st.tuples(st.integers(0, 5), st.integers(0, 400))
MATRICES = arrays.arrays(np.int8, SIZES, elements=st.integers(-1, 1), fill=st.just(np.int8(1)))


@given(TRITS)
def test_packing_five_trits_to_a_byte_loses_nothing_and_equals_the_reference(trits):
    packed = packing.pack_trits(trits)
    assert packed.shape == (*trits.shape[:-1], -(-trits.shape[-1] // 5))
    np.testing.assert_array_equal(packed, reference.pack_trits(trits))
    np.testing.assert_array_equal(packing.unpack_trits(packed, count=trits.shape[-1]), trits)
    np.testing.assert_array_equal(reference.unpack_trits(packed, count=trits.shape[-1]), trits)


@given(MATRICES)
def test_the_compute_layout_loses_nothing_and_equals_the_reference(trits):
    planes = packing.to_compute_layout(trits)
    np.testing.assert_array_equal(planes, reference.to_compute_layout(trits))
    np.testing.assert_array_equal(packing.from_compute_layout(planes, count=trits.shape[1]), trits)
    np.testing.assert_array_equal(reference.from_compute_layout(planes, count=trits.shape[1]), trits)
    repacked = packing.packed5_to_compute(packing.pack_trits(trits), count=trits.shape[1])
    np.testing.assert_array_equal(repacked, planes)


def test_the_first_trit_is_the_least_significant_digit_and_padding_is_trit_zero():
    assert packing.pack_trits(np.array([1, 0, -1], np.int8)).tolist() == [2 + 3 * 1 + 9 * 0 + 27 * 1 + 81 * 1]


def test_element_32d_plus_j_of_a_block_sits_in_byte_j_at_bits_2d():
    trits = np.full((1, 128), -1, np.int8)
    trits[0, 2 * 32 + 7] = 1
    planes = packing.to_compute_layout(trits)
    assert planes[0, 7] == 2 << 4
    assert not planes[0, :7].any()
    assert not planes[0, 8:].any()


@pytest.mark.parametrize("twin", [packing, reference])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_byte_above_242_is_refused(twin, place):
    packed = np.zeros((1, 7), np.uint8)
    packed[0, place] = 243
    with pytest.raises(ValidationError, match="242"):
        twin.unpack_trits(packed, count=31)
    with pytest.raises(ValidationError, match="242"):
        twin.packed5_to_compute(packed, count=31)


@pytest.mark.parametrize("twin", [packing, reference])
@pytest.mark.parametrize("value", [2, -2, 127, -128])
def test_a_value_that_is_no_trit_is_refused(twin, value):
    trits = np.zeros((2, 9), np.int8)
    trits[1, 8] = value
    with pytest.raises(ValidationError, match="-1, 0 or 1"):
        twin.pack_trits(trits)
    with pytest.raises(ValidationError, match="-1, 0 or 1"):
        twin.to_compute_layout(trits)


@pytest.mark.parametrize("twin", [packing, reference])
def test_code_3_of_the_compute_layout_is_refused(twin):
    planes = np.zeros((2, 32), np.uint8)
    planes[1, 31] = 3 << 6
    with pytest.raises(ValidationError, match="code 3"):
        twin.from_compute_layout(planes, count=128)


@pytest.mark.parametrize("twin", [packing, reference])
@pytest.mark.parametrize("count", [-1, 0, 9, 16, 1 << 62])
def test_a_count_that_does_not_fit_the_bytes_is_refused(twin, count):
    with pytest.raises(ValidationError):
        twin.unpack_trits(np.zeros((1, 3), np.uint8), count=count)


def test_arrays_of_the_wrong_kind_are_refused():
    for wrong in (np.zeros((2, 5)), np.zeros((2, 5), np.uint8), np.zeros((), np.int8)):
        with pytest.raises(ValidationError):
            packing.pack_trits(wrong)
    with pytest.raises(ValidationError):
        packing.to_compute_layout(np.zeros((4, 8), np.int8)[:, ::2])
