"""Embedding and head made ternary on request: one copy in memory, looked up and multiplied by."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.native import open_native
from tritium.formats.safetensors import write_safetensors
from tritium.model.export_gguf import export_gguf
from tritium.model.layers import TernaryLinear
from tritium.model.pretrained import QuantizedModel, load_model
from tritium.quantize import QuantizationConfig, plan_quantization, quantize_model, tables
from tritium.quantize.planes import quantize_planes
from tritium.quantize.quality import weight_error
from tritium.quantize.recompute import recompute_report

if TYPE_CHECKING:
    from pathlib import Path

TABLE = "model.embed_tokens"


@pytest.fixture(scope="module", params=[1, 2, 3])
def ternary(request, tiny_llama, tmp_path_factory) -> tuple[Path, int]:
    """A quantized llama whose tied table has so many planes, in groups of 32 of its 40 inputs."""
    out = tmp_path_factory.mktemp("tables") / "model"
    quantize_model(tiny_llama, QuantizationConfig(embedding_planes=request.param, group_size=32), out=out)
    return out, request.param


@pytest.fixture
def expected(tiny_llama, ternary):
    """The table as the planes of a layer would have it, and its error."""
    with open_checkpoint(tiny_llama) as source:
        weights = source.read_float32(f"{TABLE}.weight")
    quantized = quantize_planes(weights, planes=ternary[1], group_size=32)
    return quantized, weight_error(weights, quantized)


def test_a_table_is_stored_as_the_planes_of_a_layer_are(ternary, expected):
    path, planes = ternary
    quantized, error = expected
    with open_native(path) as native:
        entry = native.manifest["coded"][TABLE]
        np.testing.assert_array_equal(native.checkpoint.read(f"{TABLE}.trits"), quantized.packed())
        np.testing.assert_array_equal(native.checkpoint.read(f"{TABLE}.scales"), quantized.scales)
        assert f"{TABLE}.weight" not in native.checkpoint.tensors
        reported = native.manifest["metrics"]["coded"][TABLE]
        assert native.manifest["format_version"] == 4
    assert entry["scale_unit"] == quantized.scale_unit
    stored = quantized.packed().nbytes + quantized.scales.nbytes
    assert (reported["planes"], reported["stored_bytes"]) == (planes, stored)
    assert reported["bits_per_weight"] == 8 * stored / quantized.levels.size
    assert reported["weight_error"] == pytest.approx(error, rel=1e-6)


def test_lookup_and_head_share_one_copy(ternary, expected):
    model = load_model(ternary[0]).generator
    assert isinstance(model.head, TernaryLinear)
    assert model.head.weight is model._embedding.weight
    ids = np.array([0, 4095, 17, 0], dtype=np.int32)
    np.testing.assert_array_equal(model._embedding(ids), expected[0].dequantized()[ids])


def test_the_recorded_pass_and_its_cuts_give_the_same_bits_on_any_threads(ternary):
    one, two = (load_model(ternary[0], threads=threads).generator for threads in (1, 2))
    assert one.recorded() is not None
    ids = np.arange(3, 33, dtype=np.int32)
    whole = one.forward_full(ids)
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(two.forward_full(ids), whole)
    np.testing.assert_array_equal(one.forward_full(ids[:9]), whole[:9])
    one.observer = lambda name, x: None  # which runs operation by operation
    np.testing.assert_array_equal(one.forward_full(ids), whole)


def test_the_report_is_computed_again_and_the_model_saved_again(ternary, tmp_path):
    path, _ = ternary
    assert recompute_report(path).differences == ()
    QuantizedModel.from_pretrained(path).save_pretrained(tmp_path / "again")
    for file in path.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_neither_threads_nor_pieces_change_a_byte(tiny_llama, tmp_path, monkeypatch):
    config = QuantizationConfig(embedding_planes=2)
    quantize_model(tiny_llama, config, out=tmp_path / "whole", threads=1)
    monkeypatch.setattr(tables, "CHUNK_WEIGHTS", 40 * 33)  # 30 rows at a time, the last piece shorter
    quantize_model(tiny_llama, config, out=tmp_path / "pieces", threads=3)
    whole, pieces = (tmp_path / name / "model.safetensors" for name in ("whole", "pieces"))
    assert whole.read_bytes() == pieces.read_bytes()


def rewritten(source: Path, target: Path, *, scale: float) -> Path:
    """A copy whose table is ternary already, in bfloat16, with a head of its own twice as large."""
    shutil.copytree(source, target)
    with open_checkpoint(source) as opened:
        tensors = {name: np.array(opened.read(name)) for name in opened.tensors}
    table = np.sign(tensors[f"{TABLE}.weight"]) * np.float32(scale)
    tensors[f"{TABLE}.weight"] = (table.view(np.uint32) >> 16).astype(np.uint16)
    tensors["lm_head.weight"] = 2 * table
    write_safetensors(target / "model.safetensors", tensors)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    return target


@pytest.mark.parametrize("group_size", [0, 32])
def test_tables_that_are_ternary_already_are_kept_exactly(tiny_llama, tmp_path, group_size):
    source = rewritten(tiny_llama, tmp_path / "source", scale=0.0703125)
    model = quantize_model(
        source, QuantizationConfig(embedding_planes=1, group_size=group_size), out=tmp_path / "out"
    )
    assert set(model.metrics["coded"]) == {TABLE, "lm_head"}
    assert {entry["weight_error"] for entry in model.metrics["coded"].values()} == {0.0}
    loaded = load_model(tmp_path / "out").generator
    ids = np.arange(40, dtype=np.int32)
    with open_checkpoint(source) as opened:
        np.testing.assert_array_equal(loaded._embedding(ids), opened.read_float32(f"{TABLE}.weight")[:40])


def test_planes_are_part_of_the_plan(tiny_llama):
    configs = [QuantizationConfig(), *(QuantizationConfig(embedding_planes=planes) for planes in (1, 2))]
    assert len({plan_quantization(tiny_llama, config).digest for config in configs}) == 3


def test_an_encoder_has_ternary_embeddings_on_request(small_encoder, tmp_path):
    config = QuantizationConfig(embedding_planes=3, min_planes=3, group_size=32)
    model = quantize_model(small_encoder, config, out=tmp_path / "out")
    assert all(entry["planes"] == 3 for entry in model.metrics["coded"].values())
    vectors = [load_model(path).encoder.encode([[1, 4, 3, 2]]) for path in (small_encoder, tmp_path / "out")]
    assert (vectors[0] * vectors[1]).sum() > 0.9


def test_a_model_with_a_ternary_table_is_exported(scripture_llama, tmp_path):
    config = QuantizationConfig(embedding_planes=3, group_size=256, max_planes=1)
    quantize_model(scripture_llama, config, out=tmp_path / "m")
    report = export_gguf(tmp_path / "m", tmp_path / "model.gguf", embedding_type="f32")
    assert report.ternary_tensors == 42
    exported, ours = (load_model(tmp_path / name).generator for name in ("model.gguf", "m"))
    ids = np.arange(50, dtype=np.int32)
    np.testing.assert_array_equal(exported._embedding(ids), ours._embedding(ids))
