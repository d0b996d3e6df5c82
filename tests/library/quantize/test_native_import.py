"""Native ternary checkpoints of all three conventions become ours with every trit and every scale bit."""

from __future__ import annotations

import numpy as np
import pytest

from tritium.formats.bitnet_hf import ternarise_online, unpack_bitnet
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.native import open_native
from tritium.kernels.packing import unpack_trits
from tritium.model.pretrained import load_model
from tritium.quantize import QuantizationConfig, evaluate, quantize_model

CONVENTIONS = ["scripture_bitnet_bitlinear", "scripture_bitnet_offline", "scripture_bitnet_online"]


@pytest.fixture(params=CONVENTIONS)
def native_source(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def imported(native_source, tmp_path):
    quantize_model(native_source, out=tmp_path / "imported")
    return tmp_path / "imported"


def test_every_trit_and_every_scale_byte_is_kept(native_source, imported):
    with open_checkpoint(native_source) as source, open_native(imported) as native:
        assert len(native.manifest["linears"]) == 42
        for name, entry in native.manifest["linears"].items():
            rows, columns = entry["out_features"], entry["in_features"]
            stored = source.read(f"{name}.weight")
            if stored.dtype == np.uint8:
                expected = unpack_bitnet(stored, out_features=rows)
                scale = source.read(f"{name}.weight_scale")
                kept = native.checkpoint.read(f"{name}.scales")
                assert kept.dtype == scale.dtype
                assert kept.tobytes() == scale.tobytes()
            else:
                expected, _ = ternarise_online(source.read_float32(f"{name}.weight"))
            trits = unpack_trits(native.checkpoint.read(f"{name}.trits")[0], count=rows * columns)
            np.testing.assert_array_equal(trits.reshape(rows, columns), expected)


def test_the_report_says_absmean_one_plane_and_lossless(imported):
    with open_native(imported) as native:
        entries = native.manifest["linears"].values()
        assert {entry["strategy"] for entry in entries} == {"absmean"}
        assert {entry["planes"] for entry in entries} == {1}
        assert all(entry["is_lossless"] and entry["weight_error"] == 0 for entry in entries)
        metrics = native.manifest["metrics"]
    assert metrics["trit_bits_per_weight"] == pytest.approx(1.6, abs=1e-3)
    assert metrics["bits_per_weight"] < 1.61


def test_the_imported_model_computes_the_same_logits_bit_for_bit(native_source, imported):
    ids = np.arange(5, 45, dtype=np.int32)
    before = load_model(native_source).generator.forward_full(ids)
    after = load_model(imported).generator.forward_full(ids)
    np.testing.assert_array_equal(before, after)


def test_the_validation_of_an_import_finds_no_difference(scripture_bitnet_bitlinear, held_out_text):
    config = QuantizationConfig(validation_text=held_out_text[:4000], validation_tokens=512)
    report = quantize_model(scripture_bitnet_bitlinear, config).validation_report
    assert report["perplexity_ratio"]["value"] == 1
    assert report["top1_agreement"]["value"] == 1


def test_the_import_drops_the_packing_of_the_source_from_the_config(scripture_bitnet_offline, tmp_path):
    quantize_model(scripture_bitnet_offline, out=tmp_path / "imported")
    assert "quantization_config" not in (tmp_path / "imported" / "config.json").read_text()
    with open_native(tmp_path / "imported") as native:
        assert native.manifest["quantization"]["source_convention"] == "autobitlinear_offline"


def test_all_conventions_give_the_same_perplexity(
    scripture_bitnet_bitlinear, scripture_bitnet_offline, held_out_text, tmp_path
):
    text = held_out_text[:6000]
    figures = []
    for index, source in enumerate((scripture_bitnet_bitlinear, scripture_bitnet_offline)):
        quantize_model(source, out=tmp_path / str(index))
        figures.append(evaluate(tmp_path / str(index), text=text).perplexity.value)
    # The two store 1/mean and mean, each rounded to bfloat16 on its own.
    assert figures[0] == pytest.approx(figures[1], rel=5e-3)
