from __future__ import annotations

import pytest

from tritium.kernels import _native


@pytest.mark.parametrize("probe", [_native.read_bandwidth, _native.peak_int8])
def test_a_probe_refuses_what_it_cannot_measure(probe):
    for threads, seconds in ((0, 0.1), (65, 0.1), (1, 0.0), (1, float("nan"))):
        with pytest.raises(ValueError, match="must be"):
            probe(threads, seconds)


def test_reading_memory_takes_time_and_is_possible():
    assert 1e8 < _native.read_bandwidth(1, 0.02) < 1e13


def test_the_peak_belongs_to_the_instruction_set_in_use():
    chosen = _native.isa()
    try:
        peaks = {
            name: (_native.set_isa(name), _native.peak_int8(1, 0.02))[1] for name in _native.available_isas()
        }
    finally:
        _native.set_isa(chosen)
    assert peaks.pop("scalar") == 0
    assert all(1e9 < peak < 1e14 for peak in peaks.values())
