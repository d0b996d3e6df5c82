"""The device is chosen by measurement. Figures are injected: no test depends on how fast this machine is."""

from __future__ import annotations

import numpy as np
import pytest

from tritium.kernels import _native, device
from tritium.kernels.measure import Candidate, Product, measure_candidates, measure_product

PRODUCT = Product(out_features=300, in_features=200, rows=1)
ISAS = ["avx512_vbmi", "avx2", "scalar"]


@pytest.fixture
def machine(monkeypatch):
    """A processor with three instruction sets and six threads."""
    monkeypatch.delenv("TRITIUM_ISA", raising=False)
    monkeypatch.setattr(_native, "available_isas", lambda: ISAS)
    monkeypatch.setattr(device, "_usable_processors", lambda: 6)


def chosen_by(figures: dict[tuple[str, int], float], **settings) -> device.Device:
    return device.select_optimal_device(
        0, product=PRODUCT, measure=lambda _, isa, threads: figures[isa, threads], **settings
    )


WIDEST = {("avx512_vbmi", 6): 90.0, ("avx512_vbmi", 3): 80.0, ("avx512_vbmi", 1): 30.0}
OTHERS = {("avx2", 6): 50.0, ("avx2", 3): 55.0, ("avx2", 1): 20.0, ("scalar", 6): 4.0}


@pytest.mark.usefixtures("machine")
def test_the_fastest_is_chosen_and_the_figures_say_why():
    found = chosen_by(WIDEST | OTHERS)
    assert (found.isa, found.threads, found.product) == ("avx512_vbmi", 6, PRODUCT)
    assert found.candidates == (
        Candidate(isa="avx512_vbmi", threads=6, gops=90.0),
        Candidate(isa="avx512_vbmi", threads=3, gops=80.0),
        Candidate(isa="avx2", threads=6, gops=50.0),
        Candidate(isa="avx512_vbmi", threads=1, gops=30.0),
        Candidate(isa="scalar", threads=6, gops=4.0),
    )


@pytest.mark.usefixtures("machine")
def test_a_narrower_set_and_fewer_threads_are_chosen_where_they_are_faster():
    found = chosen_by(WIDEST | OTHERS | {("avx2", 6): 100.0, ("avx2", 3): 130.0})
    assert (found.isa, found.threads) == ("avx2", 3)
    assert found.candidates[0].gops == 130.0


@pytest.mark.usefixtures("machine")
def test_within_the_noise_the_widest_set_and_all_threads_stay():
    found = chosen_by(WIDEST | OTHERS | {("avx2", 6): 92.0, ("avx512_vbmi", 3): 93.0})
    assert (found.isa, found.threads) == ("avx512_vbmi", 6)
    assert found.candidates[0].gops == 90.0


@pytest.mark.usefixtures("machine")
def test_what_is_asked_for_is_not_measured_against(monkeypatch):
    found = chosen_by(WIDEST | OTHERS | {("scalar", 3): 3.0}, threads=3)
    assert (found.isa, found.threads) == ("avx512_vbmi", 3)
    assert {candidate.threads for candidate in found.candidates} == {3}
    monkeypatch.setenv("TRITIUM_ISA", "avx2")
    found = chosen_by(OTHERS)
    assert (found.isa, found.threads) == ("avx2", 3)
    assert {candidate.isa for candidate in found.candidates} == {"avx2"}
    forced = chosen_by({}, threads=2)  # nothing is left to choose, so nothing is measured
    assert (forced.isa, forced.threads, forced.candidates) == ("avx2", 2, ())


def test_without_a_product_nothing_is_measured():
    found = device.select_optimal_device(0)
    assert (found.candidates, found.product) == ((), None)


def test_the_product_of_a_model_is_its_largest():
    found = Product.of_model([(64, 64), (32, 256), (100, 64)])
    assert (found.out_features, found.in_features) == (32, 256)


@pytest.mark.parametrize("isa", _native.available_isas())
def test_a_product_runs_on_the_set_that_is_measured_and_leaves_the_one_in_use(isa, monkeypatch):
    before, seen = _native.isa(), []
    multiply = _native.ternary_matmul

    def watched(weight, *arguments):
        seen.append((weight.isa, weight.out_features, weight.in_features))
        return multiply(weight, *arguments)

    monkeypatch.setattr(_native, "ternary_matmul", watched)
    assert measure_product.__wrapped__(PRODUCT, isa, 1) > 0
    assert set(seen) == {(isa, 300, 200)}
    assert _native.isa() == before


def test_a_weight_is_laid_out_for_a_set_of_this_processor_alone():
    with pytest.raises(ValueError, match="no such instruction set"):
        measure_product.__wrapped__(PRODUCT, "sse9", 1)


def test_a_product_that_is_too_large_is_measured_with_fewer_outputs(monkeypatch):
    monkeypatch.setattr("tritium.kernels.measure.MOST_WEIGHTS", 1000)
    shapes = []
    prepare = _native.prepare
    monkeypatch.setattr(
        _native, "prepare", lambda planes, *rest: shapes.append(planes.shape) or prepare(planes, *rest)
    )
    measure_product.__wrapped__(Product(out_features=50, in_features=128, rows=2), "scalar", 1)
    assert shapes == [(1, 7, 32)]


def test_the_speed_is_the_operations_over_the_best_of_the_calls_after_the_first(monkeypatch):
    ticks = iter(np.cumsum([0, 1, 0, 8, 0, 2, 0, 4]))  # the first call takes 1, the best of the others 2
    monkeypatch.setattr("tritium.kernels.measure.time.perf_counter", lambda: float(next(ticks)))
    speed = measure_product.__wrapped__(PRODUCT, "scalar", 1)
    assert speed == pytest.approx(2 * 300 * 200 / 2 / 1e9)


def test_a_single_candidate_is_the_fastest():
    found = measure_candidates(PRODUCT, isas=["scalar"], threads=[1], measure=lambda *_: 2.0)
    assert found == (Candidate(isa="scalar", threads=1, gops=2.0),)
