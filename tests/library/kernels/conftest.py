"""Every kernel test runs on each instruction set that this processor has."""

from __future__ import annotations

import numpy as np
import pytest

from tritium.kernels import _native, packing
from tritium.kernels.weight import TernaryWeight


@pytest.fixture(scope="module", params=_native.available_isas())
def isa(request):
    """Forces one instruction set for the tests of a module."""
    before = _native.isa()
    assert _native.set_isa(request.param)
    yield request.param
    _native.set_isa(before)


@pytest.fixture(scope="session")
def each_isa():
    """Forces one instruction set after the other: an example and its expected result serve them all."""

    def force():
        before = _native.isa()
        try:
            for name in _native.available_isas():
                assert _native.set_isa(name)
                yield name
        finally:
            _native.set_isa(before)

    return force


@pytest.fixture(scope="session")
def make_weight():
    """Builds a random ternary weight."""

    def make(random, *, rows, columns, planes=1, group_size=None, divides=False, scale_per_row=True):
        size = group_size or columns
        trits = [random.integers(-1, 2, (rows, columns)).astype(np.int8) for _ in range(planes)]
        groups = -(-columns // size)
        return TernaryWeight(
            planes=np.stack([packing.to_compute_layout(plane) for plane in trits]),
            scales=random.uniform(0.01, 2.0, (rows if scale_per_row else 1, groups)).astype(np.float32),
            group_size=size,
            in_features=columns,
            out_features=rows,
            divides=divides,
        )

    return make
