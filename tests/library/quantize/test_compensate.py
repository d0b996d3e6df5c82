"""Compensated rounding: equal to the paper's slow way, the same for any number of threads, and better."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import QuantizationError, ValidationError
from tritium.quantize import LayerOverride, PlannedLayer, QuantizationConfig, plan_quantization
from tritium.quantize.compensate import corrected, quantize_compensated
from tritium.quantize.inputs import DAMPING, LayerInputs, gram
from tritium.quantize.layer import quantize_weights
from tritium.quantize.planes import quantize_planes
from tritium.quantize.quality import output_error


def correlated(rows: int, columns: int, *, seed: int = 0) -> np.ndarray:
    """Inputs that go together, some of them driven far harder than others."""
    draw = np.random.default_rng(seed)
    causes = draw.normal(size=(rows, columns // 4)) @ draw.normal(size=(columns // 4, columns))
    driven = np.random.default_rng(99).lognormal(size=columns)
    return ((0.3 * draw.normal(size=(rows, columns)) + causes) * driven).astype(np.float32)


def drawn(rows: int, columns: int, *, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def damped(activations: np.ndarray) -> np.ndarray:
    fitted = activations[: len(activations) - len(activations) // 8].astype(np.float64)
    hessian = fitted.T @ fitted
    return hessian + (DAMPING * hessian.diagonal().mean() or 1.0) * np.eye(len(hessian))


def rounded_as_in_the_paper(
    weights: np.ndarray, scales: np.ndarray, *, limit: int, hessian: np.ndarray, group_size: int
) -> np.ndarray:
    """Round one column, move all the others by the inverse of what remains of H, and invert anew."""
    moved, levels = weights.astype(np.float64), np.zeros(weights.shape, dtype=np.int8)
    remaining = list(np.argsort(hessian.diagonal(), kind="stable")[::-1])
    while remaining:
        column = remaining[0]
        inverse = np.linalg.inv(hessian[np.ix_(remaining, remaining)])
        scale = scales[:, column // group_size].astype(np.float64)
        level = np.clip(np.rint(moved[:, column] / np.where(scale > 0, scale, np.inf)), -limit, limit)
        levels[:, column] = level
        error = (moved[:, column] - level * scale) / inverse[0, 0]
        moved[:, remaining] -= error[:, None] * inverse[0]
        remaining = remaining[1:]
    return levels


@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize(("rows", "columns"), [(5, 40), (100, 130), (3, 48)])
def test_it_rounds_as_the_paper_does_column_by_column(rows, columns, planes):
    weights, activations = drawn(rows, columns), correlated(400, columns)
    activations[:, 7] = 0  # an input that is never driven
    weights[0, :32] = 0  # a group without weights
    inputs = LayerInputs.alike(activations)
    found = quantize_compensated(weights, inputs=inputs, planes=planes, group_size=32)
    plain = quantize_planes(weights, planes=planes, group_size=32)
    np.testing.assert_array_equal(found.scales, plain.scales)
    expected = rounded_as_in_the_paper(
        weights,
        plain.scales_float32,
        limit=(3**planes - 1) // 2,
        hessian=damped(activations),
        group_size=32,
    )
    np.testing.assert_array_equal(found.levels, expected)


def test_weights_move_to_the_least_squares_answer_to_inputs_that_drifted():
    weights, source = drawn(100, 70), correlated(300, 70)
    actual = source + 0.1 * correlated(300, 70, seed=5)
    fitted = slice(300 - 300 // 8)
    drift = actual[fitted].T.astype(np.float64) @ (source - actual)[fitted]
    expected = weights + (np.linalg.solve(damped(actual), drift @ weights.T.astype(np.float64))).T
    found = corrected(weights, inputs=LayerInputs(source=source, actual=actual))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert corrected(weights, inputs=LayerInputs.alike(source)) is weights


@given(st.integers(0, 2**32 - 1), st.integers(-60, 60))
@settings(max_examples=20, deadline=None)
def test_the_sums_of_products_are_exact_so_their_order_does_not_matter(seed, exponent):
    draw = np.random.default_rng(seed)
    first, second = (draw.normal(size=(90, 7)) * 2.0**exponent for _ in range(2))
    first, second = first.astype(np.float32), second.astype(np.float32)
    order = draw.permutation(90)
    found = gram(first, second)
    np.testing.assert_array_equal(gram(first[order], second[order]), found)
    expected = first.T.astype(np.float64) @ second
    np.testing.assert_allclose(found, expected, atol=1e-4 * 4.0**exponent)


DIGEST = """
import hashlib, numpy as np
from tritium.quantize.compensate import corrected, quantize_compensated
from tritium.quantize.inputs import LayerInputs
draw = np.random.default_rng(0)
weights = draw.normal(size=(200, 500)).astype(np.float32)
source = (draw.normal(size=(900, 500)) @ draw.normal(size=(500, 500))).astype(np.float32)
inputs = LayerInputs(source=source, actual=source + draw.normal(size=source.shape).astype(np.float32))
target = corrected(weights, inputs=inputs)
found = quantize_compensated(target, inputs=inputs, planes=2, group_size=128)
print(hashlib.sha256(target.tobytes() + found.levels.tobytes() + inputs.factor.lower.tobytes()).hexdigest())
"""


def test_the_number_of_blas_threads_does_not_change_a_bit():
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
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
    inputs = LayerInputs(source=source, actual=source + np.float32(0.1))
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
