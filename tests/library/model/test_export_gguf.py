"""A whole model as GGUF: every trit and scale stands where llama.cpp looks for it."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.formats.bitnet_hf import unpack_bitnet
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.gguf import TensorType
from tritium.formats.native import NativeModel, open_native
from tritium.formats.safetensors import write_safetensors
from tritium.formats.scale_codes import decode_scales
from tritium.kernels import packing
from tritium.kernels.weight import TernaryWeight
from tritium.model.export_gguf import export_gguf
from tritium.model.gguf_graph import gguf_architecture
from tritium.model.gguf_ternary import TernaryLayer
from tritium.model.pretrained import load_model
from tritium.model.rope import RopeKind, RopeParameters
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
    config = QuantizationConfig(group_size=256, max_planes=1, embedding_bits=16)
    quantize_model(scripture_llama, config, out=out)
    return out


@pytest.fixture(scope="module", params=["tq1_0", "tq2_0"])
def exported(request, ternary_llama, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    report = export_gguf(ternary_llama, path, ternary_type=request.param, embedding_type="f16")
    return request.param, report, *CONTAINER.read_gguf(path.read_bytes())


def stored_scales(native: NativeModel, name: str) -> np.ndarray:
    scales, unit = (
        native.checkpoint.read(f"{name}.scales"),
        native.manifest["linears"][name].get("scale_unit"),
    )
    return scales.astype(np.float32) if unit is None else decode_scales(scales, unit)


def stored_weight(directory: Path, name: str) -> np.ndarray:
    with open_native(directory) as native:
        entry = native.manifest["linears"][name]
        shape = (entry["out_features"], entry["in_features"])
        trits = packing.unpack_trits(native.checkpoint.read(f"{name}.trits")[0], count=shape[0] * shape[1])
        scales = stored_scales(native, name)
        wide = np.repeat(scales, entry["group_size"], axis=1)
        return trits.reshape(shape) * wide


def test_every_ternary_weight_is_the_stored_one(exported, ternary_llama):
    kind, report, _, tensors = exported
    size, decode = {"tq1_0": (54, BLOCKS.decode_tq1_0), "tq2_0": (66, BLOCKS.decode_tq2_0)}[kind]
    assert report.largest_scale_rounding == 0  # codes of eight bits are fp16 numbers
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


@pytest.mark.parametrize("group_size", [64, 128])
def test_scales_that_change_inside_a_block_are_refused_with_what_to_do(scripture_llama, tmp_path, group_size):
    config = QuantizationConfig(group_size=group_size, max_planes=1)
    quantize_model(scripture_llama, config, out=tmp_path / "m")
    reason = f"a scale for each {group_size} .* quantize again with group_size 256 .or 0: one scale a row"
    with pytest.raises(ValidationError, match=reason) as caught:
        export_gguf(tmp_path / "m", tmp_path / "m.gguf")
    assert caught.value.details["layer"] == "model.layers.0.self_attn.q_proj"
    assert not (tmp_path / "m.gguf").exists()


def test_a_scale_for_each_row_is_repeated_in_every_block(scripture_llama, tmp_path):
    config = QuantizationConfig(group_size=0, max_planes=1)
    quantize_model(scripture_llama, config, out=tmp_path / "m")
    export_gguf(tmp_path / "m", tmp_path / "m.gguf", embedding_type="q8_0")
    _, tensors = CONTAINER.read_gguf((tmp_path / "m.gguf").read_bytes())
    shape, _, data = tensors["blk.1.ffn_down.weight"]
    found = BLOCKS.decoded(np.frombuffer(data, np.uint8).reshape(shape[0], -1), 66, BLOCKS.decode_tq2_0)
    expected = stored_weight(tmp_path / "m", "model.layers.1.mlp.down_proj")
    np.testing.assert_array_equal(found, expected.astype(np.float16).astype(np.float64))


def read_planes(weight: TernaryWeight) -> np.ndarray:
    """What a reader computes that knows how planes add up."""
    layer = TernaryLayer("l", "blk.0.ffn_up", lambda: weight, np.arange(weight.out_features))
    tensors, _ = layer.tensors(TensorType.TQ2_0)
    total = np.zeros((weight.out_features, weight.in_features))
    for tensor in tensors:
        data = np.concatenate([np.frombuffer(piece, np.uint8) for piece in tensor.pieces()])
        plane = BLOCKS.decoded(data.reshape(weight.out_features, -1), 66, BLOCKS.decode_tq2_0)
        total = 3 * total + plane
    return total


@settings(max_examples=25)
@given(
    planes=st.integers(1, 3),
    rows=st.integers(1, 5),
    blocks=st.integers(1, 4),
    group=st.sampled_from([0, 256, 512, 768]),
    seed=st.integers(0, 2**16),
)
def test_the_planes_of_a_layer_add_up_to_it_whatever_its_groups(planes, rows, blocks, group, seed):
    random, columns = np.random.default_rng(seed), 256 * blocks
    group = group if 0 < group < columns else columns
    trits = random.integers(-1, 2, (planes, rows, columns)).astype(np.int8)
    scales = (random.integers(1024, 2048, (rows, -(-columns // group))) / 2**16).astype(
        np.float32
    )  # as fp16 has them
    weight = TernaryWeight(
        planes=np.stack([packing.to_compute_layout(plane) for plane in trits]),
        scales=scales, group_size=group, in_features=columns, out_features=rows,
    )  # fmt: skip
    levels = sum(3 ** (planes - 1 - index) * plane.astype(int) for index, plane in enumerate(trits))
    expected = levels * np.repeat(scales, group, axis=1)[:, :columns].astype(np.float64)
    np.testing.assert_array_equal(read_planes(weight), expected)


def test_several_planes_become_siblings_under_an_architecture_that_no_other_reader_takes(
    scripture_llama, tmp_path
):
    config = QuantizationConfig(group_size=256, min_planes=2, max_planes=2)
    quantize_model(scripture_llama, config, out=tmp_path / "m")
    report = export_gguf(tmp_path / "m", tmp_path / "m.gguf")
    assert "llama.cpp refuses this file: layers have up to 2 trit-planes" in report.notes[0]
    metadata, tensors = CONTAINER.read_gguf((tmp_path / "m.gguf").read_bytes())
    assert metadata["general.architecture"] == "llama-planes"
    assert metadata["llama-planes.trit_planes"] == 2
    assert metadata["llama-planes.trit_plane_ratio"] == 3
    assert metadata["llama-planes.block_count"] == 6
    assert not any(key.startswith("llama.") for key in metadata)
    assert len(tensors) == 6 * 16 + 2
    total = 0
    for name in ("blk.3.ffn_up.weight", "blk.3.ffn_up.plane1.weight"):
        shape, number, data = tensors[name]
        assert number == 35
        rows = np.frombuffer(data, np.uint8).reshape(shape[0], -1)
        total = 3 * total + BLOCKS.decoded(rows, 66, BLOCKS.decode_tq2_0)
    with open_native(tmp_path / "m") as native:
        planes = native.checkpoint.read("model.layers.3.mlp.up_proj.trits")
        scales = stored_scales(native, "model.layers.3.mlp.up_proj")
    levels = sum(
        weight * packing.unpack_trits(plane, count=total.size).astype(float)
        for weight, plane in zip((3, 1), planes, strict=True)
    )
    np.testing.assert_array_equal(total, levels.reshape(total.shape) * np.repeat(scales, 256, axis=1))
    assert report.largest_scale_rounding == 0


def test_a_dense_model_is_refused(scripture_llama, tmp_path):
    with pytest.raises(ValidationError, match="no ternary layer"):
        export_gguf(scripture_llama, tmp_path / "m.gguf")


@pytest.mark.parametrize("kind", ["tq1_0", "tq2_0"])
def test_a_formula_that_llama_cpp_would_not_run_is_refused_by_name(scripture_bitnet_offline, tmp_path, kind):
    with pytest.raises(ValidationError, match=r"bitnet with SiLU, this model has relu2.*i2_s") as caught:
        export_gguf(scripture_bitnet_offline, tmp_path / "m.gguf", ternary_type=kind)
    assert caught.value.details["field"] == "hidden_act"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "llama", "activation": "relu2"}, "no graph of llama with relu2"),
        ({"model_type": "mistral", "activation": "silu"}, "no graph of mistral with silu"),
        ({"model_type": "qwen3", "activation": "relu2"}, "no graph of qwen3 with relu2"),
        ({"tie_word_embeddings": False}, "embeddings as the head"),
        ({"has_attention_bias": True}, "no biases"),
        ({"rope": RopeParameters(theta=1e4, kind=RopeKind.LLAMA3, factor=8.0)}, "llama3"),
    ],
)
def test_what_the_graphs_of_bitnet_lack_is_refused_by_name(scripture_bitnet_offline, changes, named):
    config = replace(load_model(scripture_bitnet_offline).config, **changes)
    with pytest.raises(ValidationError, match=named):
        gguf_architecture(config, ternary=TensorType.I2_S)


@pytest.mark.parametrize("convention", ["bitlinear", "offline"])
def test_i2_s_holds_the_trits_the_scale_and_the_keys_that_bitnet_cpp_reads(convention, request, tmp_path):
    source = request.getfixturevalue(f"scripture_bitnet_{convention}")
    quantize_model(source, out=tmp_path / "m")
    for name, path in (("imported", tmp_path / "m"), ("source", source)):
        report = export_gguf(path, tmp_path / name, ternary_type="i2_s", embedding_type="f16")
    assert (tmp_path / "imported").stat().st_size > 1e6
    assert any("bitnet.cpp" in note for note in report.notes)
    metadata, tensors = CONTAINER.read_gguf((tmp_path / "imported").read_bytes())
    config, prefix = load_model(source).config, "bitnet-b1.58"
    expected = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_positions,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope.theta,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.layer_norm_rms_epsilon": pytest.approx(config.norm_eps),
    }
    assert metadata["general.architecture"] == prefix
    assert metadata["general.file_type"] == 40
    assert {key: metadata[f"{prefix}.{key}"] for key in expected} == expected
    assert len(tensors) == 2 + 11 * config.num_layers
    with open_checkpoint(source) as checkpoint:
        for ours, theirs in {"self_attn.q_proj": "attn_q", "mlp.down_proj": "ffn_down"}.items():
            shape, number, data = tensors[f"blk.1.{theirs}.weight"]
            assert number == 36
            name = f"model.layers.1.{ours}.weight"
            trits = unpack_bitnet(checkpoint.read(name), out_features=shape[0])
            stored = checkpoint.read_float32(f"{name}_scale")[0]
            scale = np.float32(1 / np.float64(stored)) if convention == "bitlinear" else stored
            np.testing.assert_array_equal(BLOCKS.decode_i2_s(data, shape), trits * np.float64(scale))
        norm = checkpoint.read_float32("model.layers.2.mlp.ffn_sub_norm.weight")
    np.testing.assert_array_equal(np.frombuffer(tensors["blk.2.ffn_sub_norm.weight"][2], "<f4"), norm)
    again = CONTAINER.read_gguf((tmp_path / "source").read_bytes())[1]
    assert {name: entry[2] for name, entry in again.items()} == {
        name: entry[2] for name, entry in tensors.items()
    }


def test_a_bitnet_with_silu_is_written_for_llama_cpp_without_interleaving(scripture_bitnet_offline, tmp_path):
    source = changed_config(scripture_bitnet_offline, tmp_path / "silu", hidden_act="silu")
    export_gguf(source, tmp_path / "m.gguf")
    metadata, tensors = CONTAINER.read_gguf((tmp_path / "m.gguf").read_bytes())
    assert metadata["general.architecture"] == "bitnet"
    shape, _, data = tensors["blk.0.attn_q.weight"]
    found = BLOCKS.decoded(np.frombuffer(data, np.uint8).reshape(shape[0], -1), 66, BLOCKS.decode_tq2_0)
    with open_checkpoint(source) as checkpoint:
        packed = checkpoint.read("model.layers.0.self_attn.q_proj.weight")
    np.testing.assert_array_equal(np.sign(found), unpack_bitnet(packed, out_features=shape[0]))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"group_size": 256, "max_planes": 1}, "one scale for the whole tensor.*absmean"),
        ({"group_size": 256, "min_planes": 2, "max_planes": 2}, "2 planes.*max_planes 1"),
    ],
)
def test_what_i2_s_cannot_hold_is_refused_with_what_to_do(scripture_llama, tmp_path, settings, reason):
    quantize_model(scripture_llama, QuantizationConfig(**settings), out=tmp_path / "m")
    with pytest.raises(ValidationError, match=reason):
        export_gguf(tmp_path / "m", tmp_path / "m.gguf", ternary_type="i2_s")


def changed_config(source: Path, target: Path, **changes) -> Path:
    shutil.copytree(source, target)
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


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
