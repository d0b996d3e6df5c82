"""Weights that are dead, constant, broken or far too large: a clean result, or an error that names them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.safetensors import write_safetensors
from tritium.model.pretrained import load_model
from tritium.quantize import PlannedLayer, QuantizationConfig, plan_quantization, quantize_model
from tritium.quantize.inputs import LayerInputs
from tritium.quantize.layer import quantize_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BLOCK = "model.layers.1"


@pytest.fixture
def altered(tiny_llama: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny llama with some tensors changed by functions of theirs."""

    def write(**changes: Callable[[np.ndarray], np.ndarray]) -> Path:
        path = tmp_path / "altered"
        shutil.copytree(tiny_llama, path)
        with open_checkpoint(tiny_llama) as source:
            tensors = {name: np.array(source.read(name)) for name in source.tensors}
        for name, change in changes.items():
            tensors[name] = change(tensors[name])
        write_safetensors(path / "model.safetensors", tensors)
        return path

    return write


def quantized(weights: np.ndarray, *, inputs: LayerInputs | None = None, **config):
    rows, columns = weights.shape
    layer = PlannedLayer(name="a.layers.0.b", kind="other", out_features=rows, in_features=columns)
    return quantize_weights(weights, layer=layer, config=QuantizationConfig(**config), inputs=inputs)


@pytest.mark.parametrize("calibrates", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_dead_and_constant_layers_are_kept_exactly_and_the_model_runs(
    *, altered, calibration_text, tmp_path, value, calibrates
):
    name = f"{BLOCK}.mlp.down_proj"
    source = altered(**{f"{name}.weight": lambda weights: np.full_like(weights, value)})
    text = calibration_text[:2000] if calibrates else None
    config = QuantizationConfig(calibration_text=text, calibration_tokens=64, window=32)
    model = quantize_model(source, config, out=tmp_path / "out")
    entry = model.manifest["linears"][name]
    assert (entry["weight_error"], entry["planes"], entry["is_lossless"]) == (0, 1, True)
    assert np.isfinite(load_model(tmp_path / "out").generator.forward_full(np.arange(5))).all()


def test_dead_rows_stay_dead_and_do_not_touch_the_others():
    weights = np.random.default_rng(0).normal(size=(6, 96)).astype(np.float32)
    alone, _ = quantized(weights[3:])
    weights[:3] = 0
    found, report = quantized(weights)
    assert not found.levels[:3].any()
    np.testing.assert_array_equal(found.levels[3:], alone.levels)
    assert 0 < report.weight_error < 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name", [f"{BLOCK}.mlp.down_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
def test_a_weight_that_is_not_finite_is_refused_by_name_before_any_work(altered, name, value):
    def broken(weights: np.ndarray) -> np.ndarray:
        weights[..., -1] = value
        return weights

    with pytest.raises(ValidationError, match=rf"{name}.*NaN or Inf") as refused:
        plan_quantization(altered(**{name: broken}))
    assert refused.value.details["tensor"] == name


@pytest.mark.parametrize("calibrates", [False, True])
def test_outlier_channels_leave_groups_without_them_as_they_were_and_are_reported(*, calibrates):
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(32, 256)).astype(np.float32)
    _, before = quantized(weights)
    weights[:, [3, 40]] *= 1000
    inputs = LayerInputs.alike(draw.normal(size=(400, 256)).astype(np.float32)) if calibrates else None
    found, report = quantized(weights, inputs=inputs, group_size=64, strategy="standard")
    assert np.isfinite(report.weight_error)
    assert report.kurtosis > 50 > before.kurtosis
    rest = slice(64, 256)
    error = np.linalg.norm(weights[:, rest] - found.dequantized()[:, rest]) / np.linalg.norm(weights[:, rest])
    assert error < 0.45
    if calibrates:
        assert report.output_error == pytest.approx(report.weight_error, abs=0.1)


def test_a_model_with_outliers_that_no_text_judged_says_so(altered, held_out_text, tmp_path):
    def outlying(weights: np.ndarray) -> np.ndarray:
        weights[:, 7] *= 1000
        weights[:, 7][1:] = 0
        return weights

    source = altered(**{f"{BLOCK}.mlp.gate_proj.weight": outlying})
    model = quantize_model(source, out=tmp_path / "blind")
    assert (
        f"1 of 14 layers a few weights are far larger than the others (most so in {BLOCK}"
        in model.warnings[0]
    )
    judged = QuantizationConfig(validation_text=held_out_text[:600], window=32)
    assert quantize_model(source, judged, out=tmp_path / "judged").warnings == ()


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 200),
    group=st.sampled_from([0, 32, 64, 128, 4096]),
    planes=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_any_size_goes_with_any_group(rows, columns, group, planes, seed):
    weights = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    found, report = quantized(weights, group_size=group, min_planes=planes, max_planes=planes)
    assert found.levels.shape == weights.shape
    assert found.group_size == (columns if group == 0 or group >= columns else group)
    assert found.scales.shape == (rows, -(-columns // found.group_size))
    assert report.weight_error <= 1
    assert np.isfinite(found.dequantized()).all()
