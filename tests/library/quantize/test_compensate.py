"""Compensated rounding: equal to its slow twin, the same for any number of threads, and better."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import QuantizationError, ValidationError
from tritium.formats.scale_codes import decode_scales, encode_scales
from tritium.quantize import LayerOverride, PlannedLayer, QuantizationConfig, plan_quantization
from tritium.quantize.compensate import LEAST_GAIN, SWEEPS, quantize_compensated
from tritium.quantize.inputs import DAMPING, LayerInputs, Rows
from tritium.quantize.layer import quantize_weights
from tritium.quantize.planes import quantize_planes
from tritium.quantize.quality import output_error

if TYPE_CHECKING:
    from tritium.quantize.weights import QuantizedWeights


def correlated(rows: int, columns: int, *, seed: int = 0) -> np.ndarray:
    """Inputs that go together, some of them driven far harder than others."""
    draw = np.random.default_rng(seed)
    causes = draw.normal(size=(rows, columns // 4)) @ draw.normal(size=(columns // 4, columns))
    driven = np.random.default_rng(99).lognormal(size=columns)
    return ((0.3 * draw.normal(size=(rows, columns)) + causes) * driven).astype(np.float32)


def drawn(rows: int, columns: int, *, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def least_error(weights: np.ndarray, inputs: Rows):
    """The quadratic in plain float64: H with its damping, and the slope at zero."""
    fitted = len(inputs.actual) - len(inputs.actual) // 8
    source, actual = (rows[:fitted].astype(np.float64) for rows in (inputs.source, inputs.actual))
    hessian = actual.T @ actual
    hessian += (DAMPING * hessian.diagonal().mean() or 1.0) * np.eye(len(hessian))
    return hessian, weights @ (hessian + (source - actual).T @ actual)


def error_of(found: QuantizedWeights, weights: np.ndarray, inputs: Rows) -> float:
    """By how much the error exceeds the least of all real matrices, summed over the rows."""
    hessian, pull = least_error(weights.astype(np.float64), inputs)
    best = np.linalg.solve(hessian, pull.T).T
    missed = best - found.dequantized()
    return float(((missed @ hessian) * missed).sum())


def descended_one_by_one(weights: np.ndarray, inputs: LayerInputs, *, planes: int, group_size: int):
    """The same descent a row, a group and a weight at a time, with the slope worked out anew each time."""
    plain = quantize_planes(weights, planes=planes, group_size=group_size)
    quadratic = inputs.quadratic(weights)
    hessian = quadratic.hessian.astype(np.float64)
    pulls = weights @ (hessian + (0 if quadratic.drift is None else quadratic.drift.T))
    pulls += 0 if quadratic.pull is None else quadratic.pull
    levels, scales = plain.levels.astype(np.float64), plain.scales_float32.astype(np.float64)
    largest, limit = scales.max() * 1.5, (3**planes - 1) // 2
    for _ in range(SWEEPS):
        before = levels.copy()
        for row, group in itertools.product(range(len(weights)), range(scales.shape[1])):
            columns = np.arange(len(hessian))[group * group_size : (group + 1) * group_size]

            def slope(columns=columns, row=row):
                values = levels[row] * np.repeat(scales[row], group_size)[: len(hessian)]
                return (pulls[row] - values @ hessian)[columns]

            chosen = levels[row, columns]
            stiffness = chosen @ hessian[np.ix_(columns, columns)] @ chosen
            if stiffness > 0:
                wanted = np.clip(scales[row, group] + chosen @ slope() / stiffness, 0, largest)
                codes, unit = encode_scales(np.array([wanted, largest], dtype=np.float32))
                found = float(decode_scales(codes, unit)[0])
                step = found - scales[row, group]
                gain = step * (2 * (chosen @ slope()) - step * stiffness)
                if found > 0 and gain > LEAST_GAIN / limit**2 * scales[row, group] ** 2 * stiffness:
                    scales[row, group] = found
            for offset, column in enumerate(columns if scales[row, group] > 0 else []):
                moved = slope()[offset] / hessian[column, column] / scales[row, group]
                levels[row, column] = np.clip(np.rint(levels[row, column] + moved), -limit, limit)
        if np.array_equal(before, levels):
            break
    return levels, scales


@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize(("rows", "columns"), [(5, 40), (20, 130), (3, 96)])
def test_it_descends_as_its_slow_twin_does_weight_by_weight(rows, columns, planes):
    weights, source = drawn(rows, columns), correlated(400, columns)
    actual = source + np.float32(0.1) * correlated(400, columns, seed=5)
    source[:, 7] = actual[:, 7] = 0  # an input that is never driven
    weights[0, :32] = 0  # a group without weights
    rows_read = Rows(source=source, actual=actual)
    inputs = LayerInputs.of(rows_read)
    found = quantize_compensated(weights, inputs=inputs, planes=planes, group_size=32)
    levels, scales = descended_one_by_one(weights, inputs, planes=planes, group_size=32)
    # Of two levels that are as good, float32 may take the other one, and the row goes on from there.
    is_same = (found.levels == levels).all(axis=1)
    assert is_same.mean() > 0.9 - 1 / rows
    assert np.array_equal(found.scales_float32[is_same], scales[is_same])
    twin = replace(found, levels=levels.astype(np.int8), scales=scales.astype(np.float32), scale_unit=None)
    errors = [error_of(each, weights, rows_read) for each in (found, twin)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-2)


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("group_size", [32, 200])
def test_no_single_weight_can_be_moved_to_a_better_level(planes, group_size):
    weights, activations = drawn(20, 200), correlated(900, 200)
    inputs = Rows(source=activations, actual=activations)
    found = quantize_compensated(weights, inputs=LayerInputs.of(inputs), planes=planes, group_size=group_size)
    hessian, pull = least_error(weights.astype(np.float64), inputs)
    slope = pull - found.dequantized() @ hessian
    steps = np.repeat(found.scales_float32, group_size, axis=1)[:, :200]
    gains = 2 * np.abs(slope) - steps * hessian.diagonal()  # of the better of one level up and one down
    inside = np.abs(found.levels) < (3**planes - 1) // 2
    assert (gains[inside] <= 1e-3 * np.abs(slope).max()).mean() > 0.99  # the last sweep may leave a few
    plain = quantize_planes(weights, planes=planes, group_size=group_size)
    assert error_of(found, weights, inputs) < 0.6 * error_of(plain, weights, inputs)


def test_behind_quantized_layers_it_takes_their_errors_back():
    weights, source = drawn(64, 96), correlated(2000, 96)
    actual = source + np.float32(0.2) * correlated(2000, 96, seed=5)
    drifted = LayerInputs.of(Rows(source=source, actual=actual))
    found = quantize_compensated(weights, inputs=drifted, planes=2, group_size=32)
    blind = quantize_compensated(weights, inputs=LayerInputs.alike(actual), planes=2, group_size=32)
    errors = [
        output_error(weights, each, activations=actual, source_activations=source) for each in (found, blind)
    ]
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.parametrize("outputs", [64, 20])
@given(seed=st.integers(0, 2**32 - 1), cuts=st.sets(st.integers(1, 1399), max_size=5))
@settings(max_examples=10, deadline=None)
def test_inputs_in_batches_give_the_error_that_all_rows_at_once_have(outputs, seed, cuts):
    draw, starts = np.random.default_rng(seed), [0, *sorted(cuts), 1400]
    source = draw.normal(size=(1400, 64)).astype(np.float32)
    actual = source + np.float32(0.2) * draw.normal(size=source.shape).astype(np.float32)
    weights = drawn(outputs, 64)
    rows = Rows(source=source, actual=actual)
    inputs = LayerInputs(lambda batch: rows.cut(starts[batch], starts[batch + 1]), starts)
    judged = inputs.judged  # read first or last, it is the same
    np.testing.assert_array_equal(judged.actual, actual[1225:])
    np.testing.assert_array_equal(judged.source, source[1225:])
    found = inputs.quadratic(weights)
    hessian, _ = least_error(weights.astype(np.float64), rows)
    np.testing.assert_allclose(found.hessian, hessian, atol=1e-3 * hessian.max())
    np.testing.assert_array_equal(found.hessian, found.hessian.T)
    drifted = weights @ found.drift.T if outputs == 64 else found.pull
    wanted = weights @ ((source - actual)[:1225].astype(np.float64).T @ actual[:1225])
    np.testing.assert_allclose(drifted, wanted, atol=5e-3 * np.abs(wanted).max())


def test_layers_that_read_the_same_rows_share_what_is_added_up():
    activations, reads = correlated(300, 32), []

    def read(batch: int) -> Rows:
        reads.append(batch)
        rows = slice(100 * batch, 100 * batch + 100)
        return Rows(source=activations[rows], actual=activations[rows])

    inputs = LayerInputs(read, (0, 100, 200, 300))
    assert inputs.quadratic(drawn(32, 32)) is inputs.quadratic(drawn(64, 32, seed=2))
    narrow = drawn(4, 32)
    assert inputs.quadratic(narrow) is inputs.quadratic(narrow)
    assert inputs.quadratic(drawn(4, 32)) is not inputs.quadratic(narrow)
    assert reads == [0, 1, 2] * 4


DIGEST = """
import hashlib, sys, numpy as np
from tritium.quantize.compensate import SWEEPS, quantize_compensated
from tritium.quantize.inputs import LayerInputs, Rows
draw = np.random.default_rng(0)
weights = draw.normal(size=(200, 500)).astype(np.float32)
source = (draw.normal(size=(900, 500)) @ draw.normal(size=(500, 500))).astype(np.float32)
actual = source + draw.normal(size=source.shape).astype(np.float32)
inputs = LayerInputs.of(Rows(source=source, actual=actual))
found = quantize_compensated(weights, inputs=inputs, planes=2, group_size=128, threads=int(sys.argv[1]))
print(hashlib.sha256(found.levels.tobytes() + found.scales.tobytes()).hexdigest())
"""


def test_the_number_of_threads_does_not_change_a_bit():
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST, str(threads)],
            env={**os.environ, "OPENBLAS_NUM_THREADS": str(threads)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for threads in (1, 2, 4)
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == hashlib.sha256().digest_size * 2


def quantized(weights: np.ndarray, inputs: LayerInputs | None, **config):
    rows, columns = weights.shape
    layer = PlannedLayer(name="a.layers.0.b", kind="other", out_features=rows, in_features=columns)
    return quantize_weights(weights, layer=layer, config=QuantizationConfig(**config), inputs=inputs)


@pytest.mark.parametrize("planes", [1, 2])
def test_auto_compensates_where_that_lowers_the_error_on_tokens_it_was_not_fitted_to(planes):
    activations = correlated(4000, 128)
    weights, inputs = drawn(64, 128), LayerInputs.alike(activations[:2000])
    found, report = quantized(weights, inputs, min_planes=planes, max_planes=planes)
    _, plain = quantized(weights, inputs, min_planes=planes, max_planes=planes, strategy="standard")
    assert (report.strategy, report.planes) == ("compensated", planes)
    assert report.output_error < 0.8 * plain.output_error
    assert output_error(weights, found, activations=activations[2000:]) < 0.85 * plain.output_error


def test_auto_stays_plain_where_the_judged_tokens_are_unlike_the_others():
    activations = correlated(800, 128)
    activations[700:] = drawn(100, 128, seed=3)
    _, report = quantized(drawn(64, 128), LayerInputs.alike(activations), max_planes=1)
    assert report.strategy == "standard"
    _, forced = quantized(
        drawn(64, 128), LayerInputs.alike(activations), max_planes=1, strategy="compensated"
    )
    assert forced.strategy == "compensated"
    assert forced.output_error > report.output_error


def test_weights_that_are_ternary_already_are_kept_exactly():
    weights = np.float32(0.5) * np.random.default_rng(0).integers(-1, 2, (8, 64)).astype(np.float32)
    source = correlated(100, 64)
    inputs = LayerInputs.of(Rows(source=source, actual=source + np.float32(0.1)))
    assert quantized(weights, inputs)[1].is_lossless


def test_inputs_that_are_all_zero_or_only_one_token_do_no_harm():
    weights = drawn(8, 64)
    plain = quantize_planes(weights, planes=1, group_size=64)
    zero = quantize_compensated(
        weights, inputs=LayerInputs.alike(np.zeros((20, 64), np.float32)), planes=1, group_size=64
    )
    np.testing.assert_array_equal(zero.levels, plain.levels)
    assert quantized(weights, LayerInputs.alike(drawn(1, 64)))[1].output_error < 0.5


def test_an_input_that_is_not_finite_is_refused_by_the_layers_name():
    activations = correlated(100, 64)
    activations[3, 3] = np.inf
    with pytest.raises(QuantizationError, match=r"a\.layers\.0\.b"):
        quantized(drawn(8, 64), LayerInputs.alike(activations), strategy="compensated")


@pytest.mark.parametrize(
    "config",
    [{"strategy": "compensated"}, {"layers": {"*.1.mlp.*": LayerOverride(strategy="compensated")}}],
)
def test_compensation_without_a_calibration_text_is_refused_before_any_work(tiny_llama, config):
    with pytest.raises(ValidationError, match="needs a calibration text"):
        plan_quantization(tiny_llama, QuantizationConfig(**config))
