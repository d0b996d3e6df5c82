"""Dense weights that are ternary already are found by exact equality and kept at the cost of their scales."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.safetensors import write_safetensors
from tritium.model.pretrained import load_model
from tritium.quantize import QuantizationConfig, plan_quantization, quantize_model
from tritium.quantize.config import LayerOverride
from tritium.quantize.detect import detect_ternary, shares_scale
from tritium.quantize.layer import quantize_weights
from tritium.quantize.plan import PlannedLayer
from tritium.quantize.weights import QuantizedWeights, is_lossless

DTYPES = ("float32", "float16", "bfloat16")


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return float32 values that a checkpoint of this type can hold."""
    if dtype == "bfloat16":
        return (values.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    return values.astype(dtype).astype(np.float32)


def trits_of(shape: tuple[int, int], *, seed: int = 0) -> np.ndarray:
    trits = np.random.default_rng(seed).integers(-1, 2, shape).astype(np.float32)
    trits[:, 0] = 1  # no row without a weight
    return trits


def some_scales(shape: tuple[int, int], dtype: str, *, seed: int = 1) -> np.ndarray:
    return rounded(np.random.default_rng(seed).uniform(0.01, 0.1, shape), dtype)


def found(weights: np.ndarray) -> QuantizedWeights:
    quantized = detect_ternary(weights)
    assert quantized is not None
    assert is_lossless(weights, quantized)
    return quantized


shapes = st.tuples(st.integers(1, 6), st.integers(1, 333))


@given(
    hnp.arrays(np.int8, shapes, elements=st.integers(-1, 1)),
    st.floats(2.0**-14, 2.0**15, width=16),
    st.sampled_from(DTYPES),
)
@settings(max_examples=150, deadline=None)
def test_a_tensor_of_one_magnitude_has_one_scale_whatever_its_shape_and_type(trits, scale, dtype):
    scale = rounded(np.array([scale]), dtype)[0]
    quantized = found(trits * scale)
    assert (quantized.scales.shape, quantized.group_size) == ((1, 1), trits.shape[1])
    assert np.array_equal(quantized.levels, trits)
    assert quantized.scales_float32[0, 0] == (scale if trits.any() else 0)


@given(shapes, st.sampled_from(DTYPES), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_rows_of_one_magnitude_each_have_a_scale_each(shape, dtype, seed):
    scales = some_scales((shape[0], 1), dtype, seed=seed)
    quantized = found(trits_of(shape, seed=seed) * scales)
    expected = "tensor" if len(np.unique(scales)) == 1 else "row"
    assert (shares_scale(quantized), quantized.group_size) == (expected, shape[1])


@given(st.integers(1, 5), st.integers(2, 9), st.integers(1, 64), st.sampled_from(DTYPES), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_groups_of_one_magnitude_each_are_found_with_a_short_last_one(rows, groups, short, dtype, seed):
    size = 64
    columns = (groups - 1) * size + min(short, size)
    scales = np.sort(some_scales((rows, groups), dtype, seed=seed), axis=1)
    scales[:, 1::2] *= 2  # neighbours differ, so that no larger group is exact
    trits = trits_of((rows, columns), seed=seed)
    trits[:, ::32] = 1
    quantized = found(trits * np.repeat(scales, size, axis=1)[:, :columns])
    assert (shares_scale(quantized), quantized.group_size) == ("group", size)
    assert quantized.scales.shape == (rows, groups)


@given(hnp.arrays(np.float32, shapes, elements=st.floats(-4, 4, width=32)))
@settings(max_examples=200, deadline=None)
def test_what_is_found_is_exact_and_what_is_not_found_holds_two_magnitudes_in_a_smallest_group(weights):
    quantized = detect_ternary(weights)
    if quantized is not None:
        assert is_lossless(weights, quantized)
        return
    pieces = [row[start : start + 32] for row in weights for start in range(0, len(row), 32)]
    assert any(len(np.unique(np.abs(piece[piece != 0]))) > 1 for piece in pieces)


def test_one_weight_that_is_off_by_the_last_bit_makes_a_layer_dense():
    weights = trits_of((7, 100)) * np.float32(0.3)
    weights[6, 0] = np.nextafter(weights[6, 0], np.float32(1))
    assert detect_ternary(weights) is None
    rows = weights.copy()
    rows[6] = np.float32(0.3)
    rows[6, 99] = 0
    assert shares_scale(found(rows)) == "tensor"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_ternary(value):
    weights = np.zeros((3, 40), dtype=np.float32)
    weights[1, 5] = value
    assert detect_ternary(weights) is None


def test_zeros_take_any_scale():
    empty = found(np.zeros((3, 70), dtype=np.float32))
    assert (empty.scales.tolist(), empty.levels.any()) == ([[0.0]], False)
    weights = trits_of((4, 70)) * np.float32(0.5)
    weights[2] = 0
    assert shares_scale(found(weights)) == "tensor"
    weights[3] *= 2
    assert found(weights).scales_float32[:, 0].tolist() == [0.5, 0.5, 0.0, 1.0]


def test_scales_take_the_fewest_bytes_that_hold_them():
    rows = trits_of((4, 70))
    for dtype, stored in zip(DTYPES, (np.float32, np.float16, np.float16), strict=True):
        assert found(rows * some_scales((4, 1), dtype)).scales.dtype == stored
    beyond_half = some_scales((4, 1), "bfloat16") * np.float32(2.0**-30)
    assert found(rows * beyond_half).scales.dtype == np.uint16
    groups = np.repeat(np.float32([[0.5, 1.0, 0.25], [1.0, 0.5, 2.0]]), 32, axis=1)
    coded = found(trits_of((2, 96)) * groups)
    assert (coded.scales.dtype, coded.scales.shape) == (np.uint8, (2, 3))
    assert found(rows * np.float32(2.0**-130)).scales.dtype == np.uint16  # no normal number, and yet exact


@pytest.mark.parametrize(
    "config",
    [
        QuantizationConfig(),
        QuantizationConfig(strategy="absmean", max_planes=1),
        QuantizationConfig(min_planes=2, group_size=32),
        QuantizationConfig(layers={"a": LayerOverride(planes=3)}),
    ],
)
def test_a_ternary_layer_is_kept_whatever_is_asked_for(config):
    weights = trits_of((9, 200)) * some_scales((9, 1), "float16")
    layer = PlannedLayer(name="a", kind="attention", out_features=9, in_features=200)
    quantized, report = quantize_weights(weights, layer=layer, config=config, inputs=None)
    assert (report.strategy, report.source_scales, report.planes) == ("detected", "row", 1)
    assert (report.is_lossless, report.weight_error) == (True, 0)
    assert report.stored_bytes == -(-9 * 200 // 5) + 2 * 9
    assert is_lossless(weights, quantized)


def spans(name: str, rows: int, columns: int, dtype: str) -> np.ndarray:
    """Return the scales of a layer: the attention has one a tensor, the MLP one a row."""
    if "self_attn" in name:
        return rounded(np.full((rows, columns), 0.07), dtype)
    return np.repeat(some_scales((rows, 1), dtype, seed=len(name)), columns, axis=1)


@pytest.fixture(params=DTYPES)
def ternary_llama(request, make_llama):
    """A llama whose linear layers are ternary and stored dense."""
    path = make_llama(seed=11)
    with open_checkpoint(path) as source:
        tensors = {name: np.array(source.read(name)) for name in source.tensors}
    for name, tensor in tensors.items():
        if "_proj" in name:
            weights = trits_of(tensor.shape, seed=len(name)) * spans(name, *tensor.shape, request.param)
            stored = weights.astype(request.param) if request.param != "bfloat16" else None
            tensors[name] = (weights.view(np.uint32) >> 16).astype(np.uint16) if stored is None else stored
    write_safetensors(path / "model.safetensors", tensors)
    return path


def test_a_dense_checkpoint_that_is_ternary_is_imported_without_loss(ternary_llama, tmp_path):
    model = quantize_model(ternary_llama, QuantizationConfig(profile="native"), out=tmp_path / "out")
    assert model.metrics["strategies"] == {"detected": 14}
    for name, entry in model.manifest["linears"].items():
        assert entry["is_lossless"]
        assert entry["source_scales"] == ("tensor" if "self_attn" in name else "row")
    source, made = load_model(ternary_llama), load_model(tmp_path / "out")
    for name, linear in made.model.linears().items():
        eye = np.eye(linear.in_features, dtype=np.float32)  # int8 activations hold it exactly
        np.testing.assert_allclose(linear(eye), source.model.linears()[name](eye), rtol=1e-6)


def test_the_profile_native_names_the_layer_that_is_not_ternary(ternary_llama):
    with open_checkpoint(ternary_llama) as source:
        tensors = {name: np.array(source.read(name)) for name in source.tensors}
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = np.random.default_rng(0).normal(size=tensors[name].shape).astype(np.float32)
    write_safetensors(ternary_llama / "model.safetensors", tensors)
    with pytest.raises(ValidationError, match=r"layers\.1\.mlp\.up_proj is dense"):
        plan_quantization(ternary_llama, QuantizationConfig(profile="native"))
