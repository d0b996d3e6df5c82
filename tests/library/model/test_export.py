"""A whole model as GGUF: every trit and scale stands where llama.cpp looks for it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.native import open_native
from tritium.formats.safetensors import write_safetensors
from tritium.kernels import packing
from tritium.model.export import export_gguf
from tritium.model.pretrained import load_model
from tritium.quantize.config import QuantizationConfig
from tritium.quantize.pipeline import quantize_model


def sibling(name: str):
    """The readers of the tests of the formats, so that there is one of each."""
    path = Path(__file__).parent.parent / "formats" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"gguf_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONTAINER, BLOCKS = sibling("test_gguf"), sibling("test_gguf_blocks")


@pytest.fixture(scope="module")
def ternary_llama(scripture_llama, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ternary") / "model"
    quantize_model(scripture_llama, QuantizationConfig(group_size=256, max_planes=1), out=out)
    return out


@pytest.fixture(scope="module", params=["tq1_0", "tq2_0"])
def exported(request, ternary_llama, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    report = export_gguf(ternary_llama, path, ternary_type=request.param, embedding_type="f16")
    return request.param, report, *CONTAINER.read_gguf(path.read_bytes())


def stored_weight(directory: Path, name: str) -> np.ndarray:
    with open_native(directory) as native:
        entry = native.manifest["linears"][name]
        shape = (entry["out_features"], entry["in_features"])
        trits = packing.unpack_trits(native.checkpoint.read(f"{name}.trits")[0], count=shape[0] * shape[1])
        scales = native.checkpoint.read_float32(f"{name}.scales")
        wide = np.repeat(scales, entry["group_size"], axis=1)
        return trits.reshape(shape) * wide


def test_every_ternary_weight_is_the_stored_one(exported, ternary_llama):
    kind, report, _, tensors = exported
    size, decode = {"tq1_0": (54, BLOCKS.decode_tq1_0), "tq2_0": (66, BLOCKS.decode_tq2_0)}[kind]
    assert report.largest_scale_rounding == 0  # the source's bfloat16 scales are fp16 numbers too
    for ours, theirs in {"self_attn.v_proj": "attn_v", "mlp.down_proj": "ffn_down"}.items():
        shape, number, data = tensors[f"blk.2.{theirs}.weight"]
        assert number == {"tq1_0": 34, "tq2_0": 35}[kind]
        rows = np.frombuffer(data, np.uint8).reshape(shape[0], -1)
        expected = stored_weight(ternary_llama, f"model.layers.2.{ours}")
        np.testing.assert_array_equal(BLOCKS.decoded(rows, size, decode), expected)


def test_queries_and_keys_are_interleaved_as_ggml_rotates_them(exported, ternary_llama):
    kind, _, _, tensors = exported
    size, decode = {"tq1_0": (54, BLOCKS.decode_tq1_0), "tq2_0": (66, BLOCKS.decode_tq2_0)}[kind]
    for ours, theirs, heads in (("q_proj", "attn_q", 8), ("k_proj", "attn_k", 4)):
        shape, _, data = tensors[f"blk.0.{theirs}.weight"]
        found = BLOCKS.decoded(np.frombuffer(data, np.uint8).reshape(shape[0], -1), size, decode)
        expected = stored_weight(ternary_llama, f"model.layers.0.self_attn.{ours}")
        for head in range(heads):
            for pair in range(16):  # we rotate (i, i + 16) of a head of 32, ggml rotates (2 i, 2 i + 1)
                np.testing.assert_array_equal(found[32 * head + 2 * pair], expected[32 * head + pair])
                np.testing.assert_array_equal(
                    found[32 * head + 2 * pair + 1], expected[32 * head + 16 + pair]
                )


def test_the_rest_of_the_file_describes_the_model(exported, ternary_llama):
    _, report, metadata, tensors = exported
    model = load_model(ternary_llama)
    assert metadata["general.architecture"] == "llama"
    assert metadata["llama.block_count"] == 6
    assert metadata["llama.attention.head_count_kv"] == 4
    assert metadata["llama.rope.dimension_count"] == 32
    assert metadata["llama.rope.freq_base"] == 10000.0
    assert metadata["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert metadata["tokenizer.ggml.pre"] == "gpt-2"
    assert metadata["tokenizer.ggml.bos_token_id"] == 0
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert len(metadata["tokenizer.ggml.tokens"]) == 4096
    definition = model.tokenizer.definition
    assert [m.split(" ") for m in metadata["tokenizer.ggml.merges"]] == definition["model"]["merges"]
    assert len(tensors) == 6 * 9 + 2
    assert report.bytes > 0
    assert sum(report.tensor_types.values()) == len(tensors)
    shape, number, data = tensors["token_embd.weight"]
    assert (shape, number) == ((4096, 256), 1)
    with open_native(ternary_llama) as native:
        table = native.checkpoint.read_float32("model.embed_tokens.weight")
        norm = native.checkpoint.read_float32("model.layers.5.input_layernorm.weight")
    np.testing.assert_array_equal(np.frombuffer(data, "<f2").reshape(shape), table.astype(np.float16))
    np.testing.assert_array_equal(np.frombuffer(tensors["blk.5.attn_norm.weight"][2], "<f4"), norm)


def test_the_same_model_gives_the_same_bytes(ternary_llama, tmp_path):
    for name in ("one", "two"):
        export_gguf(ternary_llama, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"group_size": 128, "max_planes": 1}, "changes inside a block of 256"),
        ({"group_size": 256, "min_planes": 2, "max_planes": 2}, "2 planes"),
    ],
)
def test_a_layer_that_would_lose_something_is_refused_by_name(scripture_llama, tmp_path, settings, reason):
    quantize_model(scripture_llama, QuantizationConfig(**settings), out=tmp_path / "m")
    with pytest.raises(ValidationError, match=reason) as caught:
        export_gguf(tmp_path / "m", tmp_path / "m.gguf")
    assert caught.value.details["layer"] == "model.layers.0.self_attn.q_proj"
    assert not (tmp_path / "m.gguf").exists()


def test_a_dense_model_is_refused(scripture_llama, tmp_path):
    with pytest.raises(ValidationError, match="no ternary layer"):
        export_gguf(scripture_llama, tmp_path / "m.gguf")


def test_another_formula_is_refused(scripture_bitnet_offline, tmp_path):
    with pytest.raises(ValidationError, match="relu2"):
        export_gguf(scripture_bitnet_offline, tmp_path / "m.gguf")


def test_dividing_scales_are_inverted_and_their_rounding_is_reported(scripture_bitnet_bitlinear, tmp_path):
    """The trained ternary model without its sub-norms is no good model, but its scales divide."""
    source = as_llama(scripture_bitnet_bitlinear, tmp_path / "llama")
    report = export_gguf(source, tmp_path / "m.gguf")
    assert 0 < report.largest_scale_rounding < 2**-11
    _, tensors = CONTAINER.read_gguf((tmp_path / "m.gguf").read_bytes())
    scale = np.frombuffer(tensors["blk.1.ffn_up.weight"][2][64:66], "<f2")[0]
    with open_checkpoint(source) as checkpoint:
        inverse = checkpoint.read_float32("model.layers.1.mlp.up_proj.weight_scale")[0]
    assert scale == np.float16(1 / np.float64(inverse))


def as_llama(source: Path, target: Path) -> Path:
    target.mkdir()
    with open_checkpoint(source) as checkpoint:
        tensors = {n: checkpoint.read(n) for n in checkpoint.tensors if "sub_norm" not in n}
        config = checkpoint.config | {
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
        }  # fmt: skip
        write_safetensors(target / "model.safetensors", tensors)
    (target / "config.json").write_text(json.dumps(config))
    (target / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    return target


@pytest.mark.parametrize("name", ["ternary_type", "embedding_type"])
def test_unknown_types_are_refused(ternary_llama, tmp_path, name):
    with pytest.raises(ValidationError, match="is not one of"):
        export_gguf(ternary_llama, tmp_path / "m.gguf", **{name: "q9"})
