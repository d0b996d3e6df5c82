"""Embeddings and heads as coded matrices: asked for by bits, reported with size and error."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.native import open_native
from tritium.formats.safetensors import write_safetensors
from tritium.kernels import cpu
from tritium.model.pretrained import load_model
from tritium.quantize import QuantizationConfig, plan_quantization, quantize_model


@pytest.mark.parametrize("bits", [6, 8])
def test_the_table_becomes_codes_and_the_report_tells_size_and_error(tiny_llama, tmp_path, bits):
    model = quantize_model(tiny_llama, QuantizationConfig(embedding_bits=bits), out=tmp_path / "m")
    (name, reported), *others = model.metrics["coded"].items()
    assert (name, others) == ("model.embed_tokens", [])
    with open_native(tmp_path / "m") as native:
        stored = native.checkpoint.read(f"{name}.codes")
        assert f"{name}.weight" not in native.checkpoint.tensors
        assert native.manifest["coded"][name]["bits"] == bits
        assert model.metrics["quantized_bytes"] == native.checkpoint.total_bytes
    with load_source(tiny_llama) as source:
        weight = source.weights.dense(f"{name}.weight")
    expected, error = cpu.round_to_codes(weight, bits=bits)
    np.testing.assert_array_equal(stored, expected.tiles)
    assert reported == {
        "bits": bits,
        "parameters": weight.size,
        "stored_bytes": stored.nbytes,
        "bits_per_weight": 8 * stored.nbytes / weight.size,
        "weight_error": error,
    }


def load_source(path):
    from tritium.quantize.source import open_source  # noqa: PLC0415 - a test's own look at the source

    return open_source(path)


def test_the_table_becomes_codes_of_six_bits_by_default(tiny_llama, tmp_path):
    quantize_model(tiny_llama, out=tmp_path / "m")
    quantize_model(tiny_llama, QuantizationConfig(embedding_bits=6), out=tmp_path / "six")
    with open_native(tmp_path / "m") as native, open_native(tmp_path / "six") as six:
        assert native.manifest["coded"] == six.manifest["coded"]
        assert native.manifest["coded"]["model.embed_tokens"]["bits"] == 6
        codes = [each.checkpoint.read("model.embed_tokens.codes") for each in (native, six)]
        np.testing.assert_array_equal(*codes)


def test_the_table_of_a_ternary_source_stays_as_it_is_by_default(scripture_bitnet_offline, tmp_path):
    with_codes = QuantizationConfig(embedding_bits=6)
    assert quantize_model(scripture_bitnet_offline, with_codes, out=tmp_path / "asked").metrics["coded"]
    model = quantize_model(scripture_bitnet_offline, out=tmp_path / "m")
    assert model.metrics["coded"] == {}
    with open_checkpoint(scripture_bitnet_offline) as source, open_native(tmp_path / "m") as native:
        name = "model.embed_tokens.weight"
        np.testing.assert_array_equal(native.checkpoint.read(name), source.read(name))


def test_the_table_stays_as_it_is_where_that_is_asked_for(tiny_llama, tmp_path):
    model = quantize_model(tiny_llama, QuantizationConfig(embedding_bits=16), out=tmp_path / "m")
    assert model.metrics["coded"] == {}
    with open_native(tmp_path / "m") as native:
        assert native.manifest["format_version"] == 1
        assert "coded" not in native.manifest
        assert "model.embed_tokens.weight" in native.checkpoint.tensors


def test_the_number_of_threads_does_not_change_a_byte(tiny_llama, tmp_path):
    config = QuantizationConfig(embedding_bits=6)
    for threads in (1, 3):
        quantize_model(tiny_llama, config, out=tmp_path / str(threads), threads=threads)
    for file in (tmp_path / "1").iterdir():
        assert file.read_bytes() == (tmp_path / "3" / file.name).read_bytes()


def test_bits_are_part_of_the_plan_only_where_they_change_something(tiny_llama):
    plans = {
        bits: plan_quantization(tiny_llama, QuantizationConfig(embedding_bits=bits)).digest
        for bits in (None, 6, 8, 16)
    }
    assert len(set(plans.values())) == 4
    assert plans[None] == plan_quantization(tiny_llama).digest


def test_a_head_of_its_own_is_coded_as_well(make_llama, tmp_path):
    path = tmp_path / "source"
    shutil.copytree(make_llama(), path)
    with load_source(path) as source:
        names = [f"{layer.name}.weight" for layer in source.layers()] + list(
            source.weights.architecture.tensors
        )
        tensors = {name: source.checkpoint.read(name).copy() for name in names}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * np.float32(2)
    (path / "model.safetensors").unlink()
    write_safetensors(path / "model.safetensors", tensors)
    config = json.loads((path / "config.json").read_text()) | {"tie_word_embeddings": False}
    (path / "config.json").write_text(json.dumps(config))
    model = quantize_model(path, QuantizationConfig(embedding_bits=8), out=tmp_path / "m")
    assert set(model.metrics["coded"]) == {"model.embed_tokens", "lm_head"}
    logits = load_model(tmp_path / "m").generator.forward_full(np.arange(5))
    assert np.isfinite(logits).all()


def test_a_table_that_codes_cannot_hold_is_refused_by_name(make_llama, tmp_path):
    path = tmp_path / "source"
    shutil.copytree(make_llama(), path)
    with load_source(path) as source:
        tensors = {name: source.checkpoint.read(name).copy() for name in source.checkpoint.tensors}
    tensors["model.embed_tokens.weight"][7, 3] = 1e20
    (path / "model.safetensors").unlink()
    write_safetensors(path / "model.safetensors", tensors)
    with pytest.raises(ValidationError, match=r"model\.embed_tokens\.weight cannot become codes of 6 bits"):
        quantize_model(path, QuantizationConfig(embedding_bits=6), out=tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_sentence_encoder_keeps_its_vectors(minilm, tmp_path):
    texts = [[101, 2023, 2003, 1037, 3231, 102], [101, 4937, 2938, 102]]
    vectors = {}
    for bits in (16, 8, 6):
        config = QuantizationConfig(embedding_bits=bits, min_planes=3, group_size=64)
        quantize_model(minilm, config, out=tmp_path / str(bits))
        vectors[bits] = load_model(tmp_path / str(bits)).encoder.encode(texts)
    for bits in (8, 6):  # any change flips roundings of activations on the way: 8 bits are no closer than 6
        assert (vectors[16] * vectors[bits]).sum(1).min() > 0.98
