"""Trits as a file holds them become the tiles that the portable form becomes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.kernels import cpu, packing

pytestmark = pytest.mark.usefixtures("isa")


def as_in_a_file(weight: cpu.TernaryWeight) -> np.ndarray:
    """Packs the trits of a weight five to a byte, row after row without a gap."""
    trits = [packing.from_compute_layout(plane, count=weight.in_features) for plane in weight.planes]
    return np.stack([packing.pack_trits(plane.reshape(-1)) for plane in trits])


CASES = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 50),
        "columns": st.integers(1, 520),
        "planes": st.integers(1, 3),
        "group_size": st.sampled_from([None, 32, 96, 128]),
    }
)


@settings(deadline=None)
@given(case=CASES, threads=st.sampled_from([1, 3]), seed=st.integers(0, 2**32))
def test_packed_trits_give_the_same_weight_as_the_portable_form(make_weight, case, threads, seed):
    random, columns = np.random.default_rng(seed), case["columns"]
    weight = make_weight(random, **case)
    packed = cpu.prepare_packed(
        as_in_a_file(weight),
        weight.scales,
        out_features=weight.out_features,
        in_features=columns,
        group_size=weight.group_size,
        threads=threads,
    )
    expected = cpu.prepare(weight)
    q, scale = cpu.quantize_activations(random.standard_normal((3, columns)).astype(np.float32))
    np.testing.assert_array_equal(cpu.ternary_accumulate(packed, q), cpu.ternary_accumulate(expected, q))
    np.testing.assert_array_equal(
        cpu.ternary_matmul(packed, q, scale), cpu.ternary_matmul(expected, q, scale), strict=True
    )
    assert packed.nbytes == expected.nbytes


@pytest.mark.parametrize("columns", [40, 43])
def test_a_byte_above_242_is_refused_wherever_it_stands(columns):
    clean = np.zeros((2, -(-16 * columns // 5)), np.uint8)
    scales = np.ones((1, 1), np.float32)
    sizes = {"out_features": 16, "in_features": columns, "group_size": columns}
    cpu.prepare_packed(clean, scales, **sizes)
    for place in range(clean.size):
        damaged = clean.copy()
        damaged.reshape(-1)[place] = 243
        with pytest.raises(ValidationError, match="242"):
            cpu.prepare_packed(damaged, scales, **sizes)


def test_what_does_not_fit_is_refused():
    packed, scales = np.zeros((1, 320), np.uint8), np.ones((1, 1), np.float32)
    sizes = {"out_features": 16, "in_features": 100, "group_size": 100}
    for wrong in (packed[:, :-1].copy(), packed[0], packed.astype(np.int8), np.zeros((4, 320), np.uint8)):
        with pytest.raises(ValidationError):
            cpu.prepare_packed(wrong, scales, **sizes)
    for change in ({"out_features": 1 << 62}, {"in_features": 1 << 62}, {"out_features": 0}, {"threads": 0}):
        with pytest.raises(ValidationError):
            cpu.prepare_packed(packed, scales, **{**sizes, **change})
    with pytest.raises(ValidationError, match="scales"):
        cpu.prepare_packed(packed, np.ones((3, 1), np.float32), **sizes)
