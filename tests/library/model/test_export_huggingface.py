"""Packed safetensors for transformers: the same trits and scale bytes, and what it computes with them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.formats.bitnet_hf import pack_bitnet
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.floats import bfloat16_to_float32, float32_to_bfloat16
from tritium.formats.native import open_native
from tritium.formats.safetensors import write_safetensors
from tritium.model.batch import ForwardBatch
from tritium.model.export_huggingface import export_huggingface
from tritium.model.pretrained import load_model
from tritium.quantize import QuantizationConfig, quantize_model

CONVENTIONS = {
    "bitlinear": {"linear_class": "bitlinear"},
    "offline": {"linear_class": "autobitlinear", "quantization_mode": "offline"},
    "online": {"linear_class": "autobitlinear", "quantization_mode": "online"},
}
ABSMEAN = QuantizationConfig(strategy="absmean", max_planes=1, embedding_bits=16)


def write_bitnet(
    directory: Path, convention: str, *, half_head: int, inner: int, seed: int, bias: bool
) -> Path:
    """Write a random BitNet of one block, three heads and one key head, with scales of its own dtype."""
    random, head = np.random.default_rng(seed), 2 * half_head
    hidden, name = 3 * head, "model.layers.0"
    config = {
        "model_type": "bitnet",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": 1,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "vocab_size": 11,
        "max_position_embeddings": 16,
        "tie_word_embeddings": True,
        "attention_bias": bias,
        "quantization_config": {"quant_method": "bitnet", **CONVENTIONS[convention]},
    }
    linears = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (head, hidden),
        "self_attn.v_proj": (head, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    tensors: dict[str, np.ndarray] = {"model.embed_tokens.weight": random.standard_normal((11, hidden))}
    for norm in ("input_layernorm", "post_attention_layernorm", "self_attn.attn_sub_norm"):
        tensors[f"{name}.{norm}.weight"] = np.ones(hidden)
    tensors |= {f"{name}.mlp.ffn_sub_norm.weight": np.ones(inner), "model.norm.weight": np.ones(hidden)}
    tensors = {key: value.astype(np.float32) for key, value in tensors.items()}
    for role, shape in linears.items():
        if bias and "self_attn" in role:
            tensors[f"{name}.{role}.bias"] = random.standard_normal(shape[0]).astype(np.float32)
        if convention == "online":
            tensors[f"{name}.{role}.weight"] = random.standard_normal(shape).astype(np.float32)
            continue
        tensors[f"{name}.{role}.weight"] = pack_bitnet(random.integers(-1, 2, shape).astype(np.int8))
        scale = np.exp(random.uniform(-2, 1, 1)).astype(np.float32)
        tensors[f"{name}.{role}.weight_scale"] = float32_to_bfloat16(scale) if seed % 2 else scale
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    write_safetensors(directory / "model.safetensors", tensors)
    return directory


def codes_and_scales(directory: Path) -> dict[str, tuple[str, bytes]]:
    with open_native(directory) as native:
        read = {
            name: native.checkpoint.read(name)
            for name in native.checkpoint.tensors
            if name.endswith((".trits", ".scales"))
        }
    return {name: (str(values.dtype), values.tobytes()) for name, values in read.items()}


def packed(directory: Path) -> dict[str, tuple[str, bytes]]:
    with open_checkpoint(directory) as checkpoint:
        read = {
            name: checkpoint.read(name)
            for name in checkpoint.tensors
            if "_proj." in name and not name.endswith("bias")
        }
    return {name: (str(values.dtype), values.tobytes()) for name, values in read.items()}


@settings(max_examples=12)
@given(
    convention=st.sampled_from(sorted(CONVENTIONS)),
    half_head=st.integers(1, 7),
    inner=st.integers(1, 23),
    seed=st.integers(0, 1000),
    bias=st.booleans(),
)
def test_import_export_import_keeps_every_code_and_scale_byte(convention, half_head, inner, seed, bias):
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        source = write_bitnet(
            base / "source", convention, half_head=half_head, inner=inner, seed=seed, bias=bias
        )
        quantize_model(source, out=base / "first")
        export_huggingface(base / "first", base / "exported")
        export_huggingface(source, base / "direct")
        quantize_model(base / "exported", out=base / "second")
        assert codes_and_scales(base / "second") == codes_and_scales(base / "first")
        assert packed(base / "direct") == packed(base / "exported")
        if convention != "online":
            assert packed(base / "exported") == packed(source)


@pytest.mark.parametrize("convention", ["bitlinear", "offline"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_the_other_convention_has_the_inverse_scales_and_computes_the_same(convention, bias, tmp_path):
    source = write_bitnet(tmp_path / "source", convention, half_head=4, inner=12, seed=1, bias=bias)
    other = "autobitlinear" if convention == "bitlinear" else "bitlinear"
    report = export_huggingface(source, tmp_path / "other", linear_class=other)
    assert 0 < report.largest_scale_rounding < 2**-23
    assert any("inverted" in note for note in report.notes)
    with open_checkpoint(source) as one, open_checkpoint(tmp_path / "other") as two:
        for name in one.tensors:
            if name.endswith("_proj.weight"):
                np.testing.assert_array_equal(one.read(name), two.read(name))
                product = one.read_float32(f"{name}_scale") * two.read_float32(f"{name}_scale").astype(float)
                assert abs(product[0] - 1) < 2**-23
    ids = np.arange(10, dtype=np.int32)
    logits = [load_model(path).generator.forward_full(ids) for path in (source, tmp_path / "other")]
    assert np.abs(logits[0] - logits[1]).max() < 1e-4 * np.abs(logits[0]).max()


@pytest.fixture(scope="module")
def exported(scripture_llama, scripture_bitnet_bitlinear, scripture_bitnet_offline, tmp_path_factory):
    """By name: what Tritium holds, and what it exported."""
    base = tmp_path_factory.mktemp("exported")
    quantize_model(scripture_llama, ABSMEAN, out=base / "absmean")
    quantize_model(scripture_bitnet_bitlinear, out=base / "imported")
    cases = {
        "absmean llama": (base / "absmean", None),
        "absmean llama, multiplying": (base / "absmean", "autobitlinear"),
        "imported bitlinear": (base / "imported", None),
        "offline": (scripture_bitnet_offline, None),
    }
    for index, (source, linear_class) in enumerate(cases.values()):
        export_huggingface(source, base / str(index), linear_class=linear_class)
    return {name: (case[0], base / str(index)) for index, (name, case) in enumerate(cases.items())}


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("absmean llama", "BitLinear"),
        ("absmean llama, multiplying", "AutoBitLinear"),
        ("imported bitlinear", "BitLinear"),
        ("offline", "AutoBitLinear"),
    ],
)
def test_transformers_loads_it_and_computes_every_layer_as_we_do(
    name: str, module: str, *, exported: Any, oracle: Any, trace: Any, held_out_text: str
) -> None:
    ours, theirs = load_model(exported[name][0]), oracle.load(exported[name][1])
    token_ids = np.array(ours.tokenizer.encode(held_out_text[:300])[:48])
    inputs = trace.observed_inputs(ours.generator, token_ids)
    for layer, linear in ours.generator.linears().items():
        assert type(theirs.get_submodule(layer)).__name__ == module
        with oracle.torch.no_grad():
            expected = theirs.get_submodule(layer)(oracle.torch.tensor(inputs[layer])).numpy()
        actual = linear(inputs[layer])
        if module == "BitLinear":
            np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))
        else:  # it multiplies rounded floats, so its own order of additions shows
            assert np.abs(actual - expected).max() < 3e-6 * np.abs(expected).max()
    recording = oracle.record(theirs)
    logits = oracle.logits(theirs, token_ids)[0]
    recording.stop()
    divergence = trace.first_divergence(inputs, recording.inputs(0))
    if divergence is None:
        assert np.abs(ours.generator.forward_full(token_ids) - logits).max() < 1e-3
    else:
        assert divergence.largest_distance < 1e-3


def test_what_travels_along_and_what_the_report_counts(exported, scripture_llama):
    _, path = exported["absmean llama"]
    assert (path / "tokenizer.json").read_bytes() == (scripture_llama / "tokenizer.json").read_bytes()
    config = json.loads((path / "config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "bitnet",
        "linear_class": "bitlinear",
        "quantization_mode": "offline",
        "modules_to_not_convert": ["lm_head"],
    }
    assert load_model(path).tokenizer.vocab_size == 4096


def test_coded_embeddings_are_decoded_and_the_report_says_so(scripture_llama, tmp_path):
    config = QuantizationConfig(strategy="absmean", max_planes=1, embedding_bits=8)
    quantize_model(scripture_llama, config, out=tmp_path / "m")
    report = export_huggingface(tmp_path / "m", tmp_path / "hf")
    assert report.notes == [
        "model.embed_tokens.weight has codes of 8 bits; it was decoded and rounded to bfloat16."
    ]
    with open_checkpoint(tmp_path / "hf") as checkpoint, open_checkpoint(scripture_llama) as source:
        assert checkpoint.tensors["model.embed_tokens.weight"].dtype == "BF16"
        written = checkpoint.read_float32("model.embed_tokens.weight")
        original = source.read_float32("model.embed_tokens.weight")
    assert np.linalg.norm(written - original) < 0.02 * np.linalg.norm(original)


def test_ternary_embeddings_are_decoded_and_the_report_says_so(scripture_llama, tmp_path):
    config = QuantizationConfig(strategy="absmean", max_planes=1, embedding_planes=2)
    quantize_model(scripture_llama, config, out=tmp_path / "m")
    report = export_huggingface(tmp_path / "m", tmp_path / "hf")
    name = "model.embed_tokens.weight"
    assert report.notes == [f"{name} has 2 trit-planes; it was decoded and rounded to bfloat16."]
    ids = np.arange(4096, dtype=np.int32)
    with open_checkpoint(tmp_path / "hf") as checkpoint:
        written = checkpoint.read_float32(name)
    ours = load_model(tmp_path / "m").generator.embed(ForwardBatch.of_sequences([ids[:100]]))
    np.testing.assert_allclose(written[:100], ours, rtol=2**-8)


def test_a_layer_that_is_dense_stays_dense_by_name(tmp_path):
    source = write_bitnet(tmp_path / "source", "offline", half_head=4, inner=12, seed=0, bias=False)
    config = json.loads((source / "config.json").read_text())
    name = "model.layers.0.self_attn.q_proj"
    config["quantization_config"]["modules_to_not_convert"] = ["lm_head", name]
    (source / "config.json").write_text(json.dumps(config))
    with open_checkpoint(source) as checkpoint:
        tensors = {key: checkpoint.read(key) for key in checkpoint.tensors if key != f"{name}.weight_scale"}
    tensors[f"{name}.weight"] = np.ones((24, 24), np.float32)
    write_safetensors(source / "model.safetensors", tensors)
    report = export_huggingface(source, tmp_path / "hf")
    assert (report.ternary_tensors, report.dense_tensors) == (6, 1)
    written = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert written["quantization_config"]["modules_to_not_convert"] == ["lm_head", name]
    ids = np.arange(9, dtype=np.int32)
    np.testing.assert_array_equal(
        load_model(tmp_path / "hf").generator.forward_full(ids),
        load_model(source).generator.forward_full(ids),
    )


def test_outputs_that_transformers_cannot_load_are_told(tmp_path):
    source = write_bitnet(tmp_path / "source", "offline", half_head=4, inner=13, seed=0, bias=False)
    report = export_huggingface(source, tmp_path / "hf")
    assert "mlp.gate_proj has 13" in report.notes[0]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (QuantizationConfig(max_planes=1), "has 512 scales"),
        (QuantizationConfig(group_size=0, max_planes=1), "has 256 scales"),
        (QuantizationConfig(min_planes=2, max_planes=2), "has 2 trit-planes"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_written(
    config, reason, scripture_llama, tmp_path
):
    quantize_model(scripture_llama, config, out=tmp_path / "m")
    with pytest.raises(ValidationError, match=f"q_proj does not fit .*{reason}.*absmean") as caught:
        export_huggingface(tmp_path / "m", tmp_path / "hf")
    assert caught.value.details["layer"] == "model.layers.0.self_attn.q_proj"
    assert not (tmp_path / "hf").exists()


def test_dense_models_and_unknown_classes_are_refused(scripture_llama, tmp_path):
    with pytest.raises(ValidationError, match="no ternary layer"):
        export_huggingface(scripture_llama, tmp_path / "hf")
    with pytest.raises(ValidationError, match="'linear' is not one of bitlinear, autobitlinear"):
        export_huggingface(scripture_llama, tmp_path / "hf", linear_class="linear")


@given(st.floats(-(2.0**126), 2.0**126, width=32))
def test_rounding_to_bfloat16_takes_the_nearest_and_keeps_what_is_one(value):
    values = np.array([value], np.float32)
    bits = float32_to_bfloat16(values)
    near = bfloat16_to_float32((int(bits[0]) + np.array([-1, 0, 1])).astype(np.uint16)).astype(float)
    distances = np.abs(near - float(values[0]))
    assert distances[1] == distances[np.isfinite(distances)].min()
    np.testing.assert_array_equal(float32_to_bfloat16(bfloat16_to_float32(bits)), bits)
