"""One layer: the strategy that is chosen, the error that is measured, and the planes it may cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tritium.errors import QuantizationError
from tritium.kernels.quantization import least_squares_scales
from tritium.quantize.adaptive import choose_strategy, quantize_adaptive, weighted_scales
from tritium.quantize.config import LayerOverride, QuantizationConfig
from tritium.quantize.inputs import LayerInputs
from tritium.quantize.layer import quantize_weights, settings_of
from tritium.quantize.plan import PlannedLayer
from tritium.quantize.quality import output_error, weight_error
from tritium.quantize.standard import quantize_standard
from tritium.quantize.stats import analyze_weight_distribution


def attention_layer(rows: int = 16, columns: int = 128, kind: str = "attention") -> PlannedLayer:
    return PlannedLayer(name="model.layers.0.x", kind=kind, out_features=rows, in_features=columns)


def heavy_tailed(rows: int = 16, columns: int = 256) -> np.ndarray:
    return np.random.default_rng(0).standard_t(2.5, size=(rows, columns)).astype(np.float32)


def gaussian(rows: int = 16, columns: int = 128, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def quantized(weights: np.ndarray, *, kind: str = "attention", activations=None, **config):
    layer = attention_layer(*weights.shape, kind=kind)
    inputs = None if activations is None else LayerInputs.alike(activations)
    return quantize_weights(weights, layer=layer, config=QuantizationConfig(**config), inputs=inputs)


@given(
    hnp.arrays(np.float32, (3, 50), elements=st.floats(-4, 4, width=16)),
    st.integers(-20, 20),
)
@settings(max_examples=50, deadline=None)
def test_the_statistic_does_not_depend_on_the_unit_of_the_weights(weights, exponent):
    ours = analyze_weight_distribution(weights)
    scaled = analyze_weight_distribution(weights * np.float32(2.0**exponent))
    assert scaled.kurtosis == pytest.approx(ours.kurtosis, rel=1e-9)
    assert scaled.row_scale_dispersion == pytest.approx(ours.row_scale_dispersion, rel=1e-9)
    assert choose_strategy(scaled, kind="attention") is choose_strategy(ours, kind="attention")


def test_the_distribution_has_the_known_moments():
    found = analyze_weight_distribution(gaussian(512, 2048))
    assert found.kurtosis == pytest.approx(3, abs=0.03)
    assert found.absmean == pytest.approx(np.sqrt(2 / np.pi), abs=0.002)
    assert found.row_scale_dispersion == pytest.approx(1 / np.sqrt(2 * 2048), rel=0.2)


def test_only_attention_layers_with_difficult_weights_are_adaptive():
    assert quantized(heavy_tailed())[1].strategy == "adaptive"
    assert quantized(heavy_tailed(), kind="feed_forward")[1].strategy == "standard"
    assert quantized(gaussian())[1].strategy == "standard"
    uneven = gaussian() * np.repeat(np.float32([1, 3]), 8)[:, None]
    statistic = analyze_weight_distribution(uneven)
    assert statistic.kurtosis < 5.5  # uneven rows alone make it difficult, not their tails
    assert quantized(uneven)[1].strategy == "adaptive"


def test_adaptive_takes_finer_groups_where_they_pay_and_only_there():
    patches = gaussian(16, 256) * np.repeat(np.float32([1, 9, 1, 9, 1, 9, 1, 9]), 32)
    assert quantize_adaptive(patches, group_size=128, activations=None).group_size == 32
    even = gaussian(64, 512)
    errors = [weight_error(even, quantize_standard(even, group_size=size)) for size in (128, 64)]
    assert errors[1] < errors[0]  # finer groups fit a little better, and cost more than that
    assert quantize_adaptive(even, group_size=128, activations=None).group_size == 128
    ternary = np.sign(gaussian(16, 256)) * np.float32(0.5)
    assert quantize_adaptive(ternary, group_size=128, activations=None).group_size == 128


def test_adaptive_weighs_an_error_by_how_strongly_its_input_is_driven():
    weights = heavy_tailed()
    activations = gaussian(300, 256, seed=3) * np.geomspace(0.05, 5, 256, dtype=np.float32)
    adaptive = quantize_adaptive(weights, group_size=128, activations=activations)
    standard = quantize_standard(weights, group_size=128)
    errors = [output_error(weights, found, activations=activations) for found in (adaptive, standard)]
    assert errors[0] < 0.95 * errors[1]


def test_adaptive_returns_to_standard_where_the_measured_output_is_worse():
    # Inputs that rise and fall together: errors of single weights add up, which their weighting cannot see.
    common = np.random.default_rng(2).normal(size=(300, 1)) * np.geomspace(0.05, 5, 256)
    activations = (common + 0.05 * np.random.default_rng(3).normal(size=(300, 256))).astype(np.float32)
    weights = heavy_tailed()
    adaptive = quantize_adaptive(weights, group_size=128, activations=activations)
    standard = quantize_standard(weights, group_size=128)
    np.testing.assert_array_equal(adaptive.levels, standard.levels)
    np.testing.assert_array_equal(adaptive.scales, standard.scales)


@given(
    hnp.arrays(np.float32, (1, 6), elements=st.floats(-4, 4, width=16)),
    hnp.arrays(np.float64, 6, elements=st.floats(0, 4, width=16)),
    st.floats(0, 4),
    st.floats(0, 4),
)
@settings(max_examples=200, deadline=None)
def test_no_scale_and_threshold_has_a_smaller_weighted_error(weights, importance, scale, threshold):
    def error(scale: float, threshold: float) -> float:
        trits = np.sign(weights) * (np.abs(weights) > threshold)
        return float((importance * np.square(weights - scale * trits)).sum())

    best = float(weighted_scales(weights, importance=importance, group_size=6)[0, 0])
    assert error(best, best / 2) <= error(scale, threshold) + 1e-4


@given(hnp.arrays(np.float32, (2, 70), elements=st.floats(-4, 4, width=16)))
@settings(max_examples=50, deadline=None)
def test_equal_importance_gives_the_standard_scales(weights):
    found = weighted_scales(weights, importance=np.full(70, 0.5), group_size=32)
    expected = least_squares_scales(weights, group_size=32)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_layer_gets_planes_until_its_loss_is_acceptable_and_no_more():
    weights = gaussian()
    planes = [quantized(weights, max_acceptable_loss=loss)[1].planes for loss in (0.5, 0.3, 0.1)]
    assert planes == [1, 2, 3]
    assert quantized(weights, max_acceptable_loss=0.0)[1].planes == 3
    assert quantized(weights, max_acceptable_loss=0.0, max_planes=2)[1].planes == 2
    assert quantized(weights, min_planes=2)[1].planes == 2


def test_the_loss_is_that_of_the_output_where_real_activations_are_given():
    weights, activations = gaussian(), np.zeros((4, 128), dtype=np.float32)
    activations[:, 0] = 1  # only the first column matters
    weights[:, 0] = 0.001  # and it is far below every threshold
    _, report = quantized(weights, activations=activations, max_planes=1)
    assert report.output_error == pytest.approx(1, abs=1e-6)
    assert report.loss == report.output_error
    assert report.weight_error < 0.5
    assert quantized(weights, activations=activations)[1].planes == 3
    assert quantized(weights)[1].planes == 1


def test_the_output_error_is_that_of_the_kernel_with_int8_activations():
    weights, activations = gaussian(32, 160), gaussian(20, 160, seed=9)
    found = quantize_standard(weights, group_size=64)
    scale = 127 / np.abs(activations).max(axis=1, keepdims=True)
    rounded = np.clip(np.rint(activations * scale), -128, 127) / scale
    expected = activations.astype(np.float64) @ weights.T
    actual = rounded.astype(np.float64) @ found.dequantized().T
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    assert output_error(weights, found, activations=activations) == pytest.approx(error, rel=1e-4)


def test_the_report_counts_the_bytes_that_are_stored():
    found, report = quantized(gaussian(16, 96), min_planes=2, group_size=32)
    assert report.stored_bytes == found.packed().nbytes + found.scales.nbytes
    assert report.bits_per_weight == 8 * report.stored_bytes / (16 * 96)
    assert report.weight_error == weight_error(gaussian(16, 96), found)


def test_absmean_is_the_mean_absolute_weight_times_the_nearest_trit():
    weights = gaussian()
    found, report = quantized(weights, strategy="absmean", max_planes=1)
    mean = np.abs(weights).mean(dtype=np.float64)
    trits = np.clip(np.rint(weights / mean), -1, 1)
    np.testing.assert_allclose(found.dequantized(), trits * mean, rtol=1e-6)
    assert report.weight_error == pytest.approx(
        np.linalg.norm(weights - trits * mean) / np.linalg.norm(weights)
    )


def test_a_group_longer_than_the_row_is_the_row():
    assert quantized(gaussian(4, 40), group_size=64)[0].group_size == 40


def test_a_forced_absmean_that_is_escalated_says_that_it_is_standard_now():
    _, kept = quantized(gaussian(), strategy="absmean", max_planes=1)
    assert (kept.strategy, kept.planes) == ("absmean", 1)
    _, escalated = quantized(gaussian(), strategy="absmean", max_acceptable_loss=0.3)
    assert (escalated.strategy, escalated.planes) == ("standard", 2)


def test_group_size_zero_gives_a_whole_row_one_scale():
    found, report = quantized(gaussian(16, 200), group_size=0)
    assert found.scales.shape == (16, 1)
    assert report.group_size == 200


def test_an_exact_override_wins_over_a_pattern_and_the_first_pattern_over_the_second():
    config = QuantizationConfig(
        layers={
            "a.*": LayerOverride(planes=2),
            "*": LayerOverride(group_size=64),
            "a.b": LayerOverride(strategy="absmean"),
        }
    )
    exact, pattern, rest = (settings_of(config, name) for name in ("a.b", "a.c", "z"))
    assert (exact.strategy.value, exact.group_size, exact.min_planes) == ("absmean", 128, 1)
    assert (pattern.min_planes, pattern.max_planes, pattern.group_size) == (2, 2, 128)
    assert (rest.group_size, rest.max_planes) == (64, 3)


def test_a_failure_inside_names_the_layer():
    with pytest.raises(QuantizationError, match=r"model\.layers\.0\.x") as failure:
        quantized(gaussian(), activations=np.full((2, 128), np.nan, dtype=np.float32))
    assert failure.value.details["layer"] == "model.layers.0.x"
