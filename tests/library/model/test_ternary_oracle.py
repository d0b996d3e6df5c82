"""Ternary layers and models against transformers, in all three conventions of `weight_scale`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tritium.formats.bitnet_hf import pack_bitnet, ternarise_online
from tritium.kernels import cpu, packing
from tritium.model.layers import TernaryLinear
from tritium.model.pretrained import load_model
from tritium.quantize import quantize_model

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.oracle

BITNET = {
    "hidden_size": 60,
    "intermediate_size": 92,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 131,
    "max_position_embeddings": 96,
}
SHAPES = [(1, 1), (3, 5), (4, 127), (5, 128), (7, 129), (77, 60), (92, 257), (33, 1000), (6, 6912)]


@pytest.mark.parametrize(("out_features", "in_features"), SHAPES)
@pytest.mark.parametrize("bias", ["no bias", "bias"])
def test_a_bitlinear_layer_is_bit_identical(
    out_features: int, in_features: int, bias: str, oracle: Any
) -> None:
    from transformers.integrations.bitnet import BitLinear  # noqa: PLC0415 - the bare wheel has none

    torch, random = oracle.torch, np.random.default_rng(out_features * in_features)
    trits, inverse = ternarise_online(random.standard_normal((out_features, in_features)).astype(np.float32))
    packed = pack_bitnet(trits)
    added = random.standard_normal(out_features).astype(np.float32) if bias == "bias" else None
    # transformers reserves out // 4 rows and unpacks whole ones: give it all rows and drop the padding's.
    theirs = BitLinear(in_features, out_features, bias=False, dtype=torch.float32)
    theirs.weight, theirs.weight_scale = torch.tensor(packed), torch.tensor([inverse])
    x = (random.standard_normal((9, in_features)) * 10.0 ** random.integers(-6, 6, (9, 1))).astype(np.float32)
    expected = theirs(torch.tensor(x)).numpy()[:, :out_features]
    weight = cpu.TernaryWeight(
        planes=packing.to_compute_layout(trits)[None],
        scales=np.array([[inverse]], dtype=np.float32),
        group_size=in_features,
        in_features=in_features,
        out_features=out_features,
        divides=True,
    )
    actual = TernaryLinear(cpu.prepare(weight), added)(x)
    if added is not None:
        expected = expected + added
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("convention", ["bitlinear", "offline", "online"])
@pytest.mark.parametrize("model_type", ["bitnet", "llama"])
@pytest.mark.parametrize("bias", ["no bias", "bias"])
def test_every_layer_of_a_tiny_model_is_that_of_transformers(
    convention: str, model_type: str, bias: str, *, oracle: Any, tiny_models: Any, tmp_path: Any
) -> None:
    fields: dict[str, Any] = {**BITNET, "attention_bias": bias == "bias"}
    if convention == "online":
        fields["intermediate_size"] = 77  # only masters can have rows that are no multiple of four there
    path = tiny_models.ternary(tmp_path / "model", convention, model_type=model_type, **fields)
    theirs = oracle.load(path)
    linears = load_model(path).generator.linears()
    random = np.random.default_rng(3)
    for name, linear in linears.items():
        module = theirs.get_submodule(name)
        assert type(module).__name__ == ("BitLinear" if convention == "bitlinear" else "AutoBitLinear")
        x = random.standard_normal((8, linear.in_features)).astype(np.float32)
        with oracle.torch.no_grad():
            expected = module(oracle.torch.tensor(x)).numpy()
        actual = linear(x)
        if convention == "bitlinear":
            np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))
        else:  # there transformers multiplies rounded floats, so its own order of additions shows
            assert np.abs(actual - expected).max() < 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("convention", ["bitlinear", "offline", "online"])
@pytest.mark.parametrize("kept_dense", ["no layer", "a layer"])
def test_a_model_with_biases_survives_its_import_bit_for_bit(
    convention: str, kept_dense: str, *, oracle: Any, tiny_models: Any, tmp_path: Any
) -> None:
    path = tiny_models.ternary(tmp_path / "model", convention, **{**BITNET, "attention_bias": True})
    if kept_dense == "a layer":
        _keep_dense(path, "model.layers.1.self_attn.q_proj")
    quantize_model(path, out=tmp_path / "imported")
    token_ids = np.random.default_rng(5).integers(0, 131, 40).astype(np.int32)
    source, imported = load_model(path).generator, load_model(tmp_path / "imported").generator
    np.testing.assert_array_equal(imported.forward_full(token_ids), source.forward_full(token_ids))
    x, theirs = np.random.default_rng(6).standard_normal((8, 60)).astype(np.float32), oracle.load(path)
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"):
        linear, module = imported.linears()[name], theirs.get_submodule(name)
        assert np.abs(linear.bias).max() > 0.01
        with oracle.torch.no_grad():
            expected = module(oracle.torch.tensor(x)).numpy()
        assert np.abs(linear(x) - expected).max() < 3e-6 * np.abs(expected).max()


def _keep_dense(path: Path, name: str) -> None:
    """Make one ternary layer of a checkpoint an ordinary one, and say so in its config."""
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"]["modules_to_not_convert"] = ["lm_head", name]
    (path / "config.json").write_text(json.dumps(config))
    tensors = load_file(path / "model.safetensors")
    tensors.pop(f"{name}.weight_scale", None)
    random = np.random.default_rng(7)
    tensors[f"{name}.weight"] = random.standard_normal((60, 60)).astype(np.float32)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("convention", ["bitlinear", "offline", "online"])
@pytest.mark.parametrize("model_type", ["bitnet", "llama", "mistral", "qwen2", "qwen3"])
def test_a_tiny_model_differs_only_after_a_tie_of_rounding(
    convention: str, model_type: str, *, oracle: Any, tiny_models: Any, trace: Any, tmp_path: Any
) -> None:
    path = tiny_models.ternary(tmp_path / "model", convention, model_type=model_type, **BITNET)
    token_ids = np.random.default_rng(4).integers(0, 131, 60)
    theirs, ours = oracle.load(path), load_model(path).generator
    recording = oracle.record(theirs)
    expected = oracle.logits(theirs, token_ids)[0]
    recording.stop()
    divergence = trace.first_divergence(trace.observed_inputs(ours, token_ids), recording.inputs(0))
    if divergence is None:
        assert np.abs(ours.forward_full(token_ids) - expected).max() < 1e-4
    else:
        assert divergence.largest_distance < 1e-3


@pytest.mark.parametrize("fixture", ["bitlinear", "offline", "online"])
def test_every_layer_of_a_trained_model_is_that_of_transformers(
    fixture: str, oracle: Any, held_out_text: str, request: pytest.FixtureRequest, trace: Any
) -> None:
    path = request.getfixturevalue(f"scripture_bitnet_{fixture}")
    loaded, theirs = load_model(path), oracle.load(path)
    token_ids = np.array(loaded.tokenizer.encode(held_out_text[:400])[:64])
    inputs = trace.observed_inputs(loaded.generator, token_ids)
    for name, linear in loaded.generator.linears().items():
        with oracle.torch.no_grad():
            expected = theirs.get_submodule(name)(oracle.torch.tensor(inputs[name])).numpy()
        actual = linear(inputs[name])
        if fixture == "bitlinear":
            np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))
        else:
            assert np.abs(actual - expected).max() < 3e-6 * np.abs(expected).max()
