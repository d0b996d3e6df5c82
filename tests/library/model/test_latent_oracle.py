"""1bitLLM's latent checkpoints against the same mathematics in transformers, under its names."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tritium.errors import ValidationError
from tritium.formats.bitnet_hf import ternarise_online
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.native import open_native
from tritium.kernels.packing import unpack_trits
from tritium.model.bitnet_latent import BitNetLatentModel
from tritium.model.pretrained import load_model
from tritium.quantize import quantize_model

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.oracle

SIZES = {
    "hidden_size": 60,
    "intermediate_size": 77,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "vocab_size": 131,
    "max_position_embeddings": 96,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    "tie_word_embeddings": True,
}
RENAMED = {"self_attn.attn_sub_norm": "self_attn.inner_attn_ln", "mlp.ffn_sub_norm": "mlp.ffn_layernorm"}
TOKENS = np.random.default_rng(4).integers(0, 131, 60)


def _renamed(name: str) -> str:
    for theirs, latent in RENAMED.items():
        name = name.replace(theirs, latent)
    return name


@pytest.fixture(scope="module")
def online(tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as transformers knows it: full-precision masters, ternarised at every forward."""
    path: Path = tiny_models.ternary(tmp_path_factory.mktemp("online") / "model", "online", **SIZES)
    return path


@pytest.fixture(scope="module")
def latent(online: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as 1bitLLM stores it: half precision, a llama's config with another class."""
    path = tmp_path_factory.mktemp("latent") / "model"
    shutil.copytree(online, path)
    tensors = {
        name: tensor.astype(np.float16) for name, tensor in load_file(path / "model.safetensors").items()
    }
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file({_renamed(name): tensor for name, tensor in tensors.items()}, path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, online / "model.safetensors", metadata={"format": "pt"})  # the same numbers
    config = {key: value for key, value in SIZES.items() if key != "rope_parameters"}
    config |= {
        "architectures": ["BitnetForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "input_bits": 8,
        "weight_bits": 1,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "torch_dtype": "float16",
    }
    (path / "config.json").write_text(json.dumps(config))
    return path


def _distance(model: Any, expected: np.ndarray) -> float:
    return float(np.median(np.abs(model.forward_full(TOKENS) - expected).max(axis=1)))


def test_a_latent_model_differs_from_transformers_only_after_a_tie_of_rounding(
    latent: Path, online: Path, oracle: Any, trace: Any
) -> None:
    theirs, ours = oracle.load(online), load_model(latent).generator
    assert isinstance(ours, BitNetLatentModel)
    recording = oracle.record(theirs)
    expected = oracle.logits(theirs, TOKENS)[0]
    recording.stop()
    divergence = trace.first_divergence(trace.observed_inputs(ours, TOKENS), recording.inputs(0))
    if divergence is None:
        assert np.abs(ours.forward_full(TOKENS) - expected).max() < 1e-4
    else:
        assert divergence.largest_distance < 1e-3
    assert _distance(ours, expected) < 0.05


@pytest.mark.parametrize("part", ["attention", "feed_forward"])
def test_a_dropped_sub_norm_is_caught(part: str, latent: Path, online: Path, oracle: Any) -> None:
    expected = oracle.logits(oracle.load(online), TOKENS)[0]
    model: Any = load_model(latent).generator
    setattr(model, f"normalise_{part}", lambda _run, _index, x: x)
    assert _distance(model, expected) > 0.5


def test_an_import_keeps_every_trit_every_scale_and_every_logit(latent: Path, tmp_path: Path) -> None:
    quantize_model(latent, out=tmp_path / "imported")
    with open_checkpoint(latent) as source, open_native(tmp_path / "imported") as native:
        assert native.manifest["quantization"]["source_convention"] == "autobitlinear_online"
        assert len(native.manifest["linears"]) == 14
        for name, entry in native.manifest["linears"].items():
            rows, columns = entry["out_features"], entry["in_features"]
            trits, inverse = ternarise_online(source.read_float32(f"{name}.weight"))
            stored = unpack_trits(native.checkpoint.read(f"{name}.trits")[0], count=rows * columns)
            np.testing.assert_array_equal(stored.reshape(rows, columns), trits)
            assert native.checkpoint.read(f"{name}.scales")[0, 0] == np.float32(1) / inverse
    before, after = load_model(latent).generator, load_model(tmp_path / "imported").generator
    np.testing.assert_array_equal(before.forward_full(TOKENS), after.forward_full(TOKENS))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weight_bits": 2}, "weight_bits"),
        ({"input_bits": 4}, "input_bits"),
        ({"hidden_act": "relu2"}, "relu2"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"quant_method": "bitnet"}}, "quantization_config"),
        # Without the class nothing says that the weights are latent: a llama has no such fields or tensors.
        ({"architectures": ["LlamaForCausalLM"]}, "input_bits|weight_bits"),
        ({"architectures": None}, "input_bits|weight_bits"),
        ({"architectures": ["BitnetForCausalLM", "LlamaForCausalLM"]}, "BitnetForCausalLM"),
        (
            {"architectures": ["LlamaForCausalLM"], "input_bits": None, "weight_bits": None},
            "inner_attn_ln|ffn_layernorm",
        ),
        ({"architectures": ["BitNetForCausalLM"], "model_type": "bitnet"}, "input_bits|weight_bits"),
    ],
)
def test_what_contradicts_latent_weights_is_refused_by_name(
    change: dict[str, Any], named: str, latent: Path, tmp_path: Path
) -> None:
    path = tmp_path / "changed"
    shutil.copytree(latent, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValidationError, match=named):
        load_model(path)
