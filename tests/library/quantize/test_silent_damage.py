"""Each mistake here has shipped, finite and plausible: the import refuses it, or validation tells."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.formats.bitnet_hf import pack_bitnet, unpack_bitnet
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.safetensors import write_safetensors
from tritium.quantize import QuantizationConfig, plan_quantization, quantize_model
from tritium.quantize.figures import validation_figures
from tritium.quantize.record import Side, TextRecord
from tritium.quantize.report import ModelKind, ValidationReport
from tritium.quantize.selfcheck import i2_s_confusion
from tritium.quantize.side_by_side import _cosines_to_others, _encoder_results, _unit_rows
from tritium.quantize.source import Source
from tritium.quantize.validate import compare_models
from tritium.quantize.verdict import unigram_losses

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Tensors = dict[str, np.ndarray]
LAYERS = [f"model.layers.{index}.self_attn.{role}" for index in (0, 1, 5) for role in ("q_proj", "o_proj")]
SUB_NORMS = ("attn_sub_norm.weight", "ffn_sub_norm.weight")


def damaged(
    source: Path, target: Path, *, change: Callable[[Tensors], None] | None = None, **config: Any
) -> Path:
    """Copy a checkpoint with other tensors or other fields in its config."""
    shutil.copytree(source, target)
    if change is not None:
        with open_checkpoint(source) as checkpoint:
            tensors = {name: np.array(checkpoint.read(name)) for name in checkpoint.tensors}
        change(tensors)
        write_safetensors(target / "model.safetensors", tensors)
    declared = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(declared | config))
    return target


def on_trits(tensors: Tensors, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    packed = tensors[f"{name}.weight"]
    trits = unpack_bitnet(packed, out_features=4 * len(packed))
    tensors[f"{name}.weight"] = pack_bitnet(np.ascontiguousarray(change(trits)))


def transpose(name: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        if tensors[f"{name}.weight"].dtype == np.uint8:
            on_trits(tensors, name, np.transpose)
        else:
            tensors[f"{name}.weight"] = np.ascontiguousarray(tensors[f"{name}.weight"].T)

    return change


def ternary_names(tensors: Tensors) -> list[str]:
    return [name.removesuffix(".weight") for name, tensor in tensors.items() if tensor.dtype == np.uint8]


@pytest.fixture(params=["scripture_bitnet_offline", "scripture_bitnet_bitlinear", "scripture_llama"])
def sound(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def test_sound_models_pass(sound: Path, tiny_llama: Path) -> None:
    assert plan_quantization(sound).layers
    assert plan_quantization(tiny_llama).layers  # random: it shows no pattern at all


@pytest.mark.parametrize("layer", LAYERS)
def test_a_transposed_square_matrix_is_refused_at_import(layer: str, sound: Path, tmp_path: Path) -> None:
    path = damaged(sound, tmp_path / "m", change=transpose(layer))
    with pytest.raises(ValidationError, match="looks transposed") as caught:
        plan_quantization(path)
    assert caught.value.details["layer"] == layer


def test_a_transposed_matrix_of_two_sizes_is_refused_at_import(scripture_llama: Path, tmp_path: Path) -> None:
    path = damaged(scripture_llama, tmp_path / "m", change=transpose("model.layers.2.mlp.up_proj"))
    with pytest.raises(ValidationError, match=r"up_proj\.weight has shape .* the config asks for"):
        plan_quantization(path)


@pytest.mark.parametrize("read_as", [64, 128])
def test_columns_in_another_block_of_i2_s_are_refused_at_import(
    read_as: int, scripture_bitnet_offline: Path, tmp_path: Path
) -> None:
    def change(tensors: Tensors) -> None:
        for name in ternary_names(tensors):
            order = i2_s_confusion(tensors[f"{name}.weight"].shape[1])
            order = order if read_as == 128 else np.argsort(order)
            on_trits(tensors, name, lambda trits, order=order: trits[:, order])

    path = damaged(scripture_bitnet_offline, tmp_path / "m", change=change)
    with pytest.raises(ValidationError, match=f"unpacked from I2_S in blocks of {read_as} though"):
        plan_quantization(path)


def test_the_confusion_of_blocks_is_what_packing_in_64_and_unpacking_in_128_gives() -> None:
    packed = [[64 * block + j + 16 * n for n in range(4)] for block in range(4) for j in range(16)]
    read = np.empty(256, int)
    for place, codes in enumerate(packed):
        for n, weight in enumerate(codes):
            read[128 * (place // 32) + place % 32 + 32 * n] = weight
    np.testing.assert_array_equal(i2_s_confusion(256), read)


@pytest.mark.parametrize("fixture", ["scripture_bitnet_offline", "scripture_bitnet_bitlinear"])
def test_one_inverted_scale_is_refused_at_import(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    name = "model.layers.3.mlp.down_proj"

    def change(tensors: Tensors) -> None:
        bits = tensors[f"{name}.weight_scale"].astype(np.uint32) << 16
        tensors[f"{name}.weight_scale"] = (1 / bits.view(np.float32)).astype(np.float32)

    path = damaged(request.getfixturevalue(fixture), tmp_path / "m", change=change)
    with pytest.raises(ValidationError, match=r"scale of .* looks inverted") as caught:
        plan_quantization(path)
    assert caught.value.details["layer"] == name


@pytest.mark.parametrize(
    ("fixture", "linear_class"),
    [("scripture_bitnet_offline", "bitlinear"), ("scripture_bitnet_bitlinear", "autobitlinear")],
)
def test_the_wrong_convention_in_the_config_is_refused_at_import(
    fixture: str, linear_class: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    settings = {"quant_method": "bitnet", "linear_class": linear_class, "quantization_mode": "offline"}
    path = damaged(request.getfixturevalue(fixture), tmp_path / "m", quantization_config=settings)
    with pytest.raises(ValidationError, match=r"looks inverted.*Correct linear_class"):
        plan_quantization(path)


def drop_sub_norms(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.endswith(SUB_NORMS)]:
        del tensors[name]


def test_a_dropped_sub_norm_is_refused_at_import(scripture_bitnet_offline: Path, tmp_path: Path) -> None:
    path = damaged(scripture_bitnet_offline, tmp_path / "tensors", change=drop_sub_norms)
    with pytest.raises(ValidationError, match=r"misses tensors .*attn_sub_norm"):
        plan_quantization(path)
    fields = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    path = damaged(scripture_bitnet_offline, tmp_path / "config", **fields)
    with pytest.raises(ValidationError, match=r"does not explain: .*attn_sub_norm"):
        plan_quantization(path)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(
    scripture_llama: Path, held_out_text: str, tmp_path: Path
) -> None:
    path = damaged(scripture_llama, tmp_path / "m")
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["a token of another model"] = 4096
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValidationError, match="not this model's tokenizer"):
        quantize_model(path, QuantizationConfig(validation_text=held_out_text[:3000]))


def findings(path: Path, text: str) -> dict[str, str]:
    """Import or quantize a model, validate it, and return what was found by name."""
    config = QuantizationConfig(validation_text=text[:4500], max_planes=1)
    report = quantize_model(path, config).validation_report
    assert report["is_broken"] is bool(report["findings"])
    return {finding["name"]: finding["message"] for finding in report["findings"]}


@pytest.mark.parametrize(
    ("fixture", "wrong", "right"),
    [("scripture_bitnet_offline", "silu", "relu2"), ("scripture_llama", "relu2", "silu")],
)
def test_a_swapped_activation_is_found_in_validation(
    fixture: str,
    wrong: str,
    right: str,
    *,
    request: pytest.FixtureRequest,
    held_out_text: str,
    tmp_path: Path,
) -> None:
    path = damaged(request.getfixturevalue(fixture), tmp_path / "m", hidden_act=wrong)
    assert f"With hidden_act={right}" in findings(path, held_out_text)["another_reading_fits_better"]


def test_a_wrong_base_of_rope_is_found_in_validation(
    scripture_bitnet_offline: Path, held_out_text: str, tmp_path: Path
) -> None:
    rope = {"rope_type": "default", "rope_theta": 5e5}
    path = damaged(scripture_bitnet_offline, tmp_path / "m", rope_parameters=rope)
    assert "With rope_theta=10000" in findings(path, held_out_text)["another_reading_fits_better"]


def test_sub_norms_dropped_from_tensors_and_config_are_found_in_validation(
    scripture_bitnet_offline: Path, held_out_text: str, tmp_path: Path
) -> None:
    fields = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    path = damaged(scripture_bitnet_offline, tmp_path / "m", change=drop_sub_norms, **fields)
    found = findings(path, held_out_text)["another_reading_fits_better"]
    assert "With norms before the output projections" in found


def test_the_tokenizer_of_another_model_is_found_in_validation(
    scripture_llama: Path, held_out_text: str, tmp_path: Path
) -> None:
    path = damaged(scripture_llama, tmp_path / "m")
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    kept = {token["content"] for token in tokenizer["added_tokens"]}
    names = [name for name in vocabulary if name not in kept]
    ids = [vocabulary[name] for name in names]
    tokenizer["model"]["vocab"] = vocabulary | dict(zip(names, ids[1:] + ids[:1], strict=True))
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert (
        "tokenizer is another model's" in findings(path, held_out_text)["source_knows_less_than_frequencies"]
    )


def test_damage_done_by_the_import_itself_is_found_in_validation(
    scripture_bitnet_offline: Path, held_out_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = Source.ternary_weights

    def read(self: Source, name: str) -> Any:
        weights = sound(self, name)
        if name == "model.layers.2.self_attn.q_proj":
            weights.levels[0, 0] = 1 - abs(weights.levels[0, 0])
        return weights

    monkeypatch.setattr(Source, "ternary_weights", read)
    found = findings(scripture_bitnet_offline, held_out_text)
    assert set(found) == {"a_lossless_import_differs"}


def test_sound_models_are_not_called_broken_and_the_evidence_is_there(
    sound: Path, held_out_text: str
) -> None:
    config = QuantizationConfig(validation_text=held_out_text[:4500])
    report = quantize_model(sound, config).validation_report
    assert report["is_broken"] is False
    assert report["findings"] == []
    assert report["unigram_perplexity"]["value"] > 3 * report["source_perplexity"]["value"]
    readings = report["other_readings"]
    assert {"rope_theta=500000", "rope_theta=1e+06"} <= readings.keys()
    assert any(name.startswith("hidden_act=") for name in readings)
    assert any("weight_scale" in name for name in readings) == ("bitnet" in sound.name)
    assert all(reading["low"] > 1 for reading in readings.values())


def test_a_model_that_knows_nothing_is_called_broken(tiny_llama: Path, held_out_text: str) -> None:
    found = findings(tiny_llama, held_out_text)
    assert "often each token came before" in found["quantized_knows_less_than_frequencies"]


def test_an_encoder_whose_embeddings_are_nobodys_is_called_broken() -> None:
    random = np.random.default_rng(0)
    source = random.standard_normal((20, 32))

    def report(embeddings: np.ndarray) -> ValidationReport:
        sides = {Side.SOURCE: source, Side.QUANTIZED: embeddings}
        rows = {side: _unit_rows(found) for side, found in sides.items()}
        text = TextRecord(
            text_sha256="",
            tokenizer_sha256="",
            window=None,
            token_limit=None,
            counts=[1] * len(source),
            results={side: _encoder_results(side, found, rows[Side.SOURCE]) for side, found in rows.items()},
            samples=[],
            cosines_to_others=_cosines_to_others(rows[Side.QUANTIZED], rows[Side.SOURCE]),
            unigram_losses=[],
            other_readings={},
            is_lossless=False,
        )
        return validation_figures(ModelKind.ENCODER, text)

    sound = report(source + random.standard_normal(source.shape))
    assert (sound.is_broken, sound.findings) == (False, [])
    for broken in (np.roll(source, 1, axis=0), np.zeros_like(source)):
        found = report(broken)
        assert found.is_broken
        assert [finding.name for finding in found.findings] == ["embeddings_are_no_nearer_to_their_own"]
    cosines = _unit_rows(source) @ _unit_rows(np.roll(source, 1, axis=0)).T
    others = (cosines.sum() - cosines.trace()) / (20 * 19)
    assert report(np.roll(source, 1, axis=0)).cosine_to_others.value == pytest.approx(others, abs=1e-7)


def test_a_comparison_judges_without_other_readings(
    sound: Path, tiny_llama: Path, held_out_text: str
) -> None:
    report = compare_models(sound, sound, text=held_out_text[:1500])
    assert report.other_readings is None
    assert report.unigram_perplexity.value > report.source_perplexity.value
    assert report.is_broken is False
    assert compare_models(tiny_llama, tiny_llama, text=held_out_text[:1500]).is_broken


@given(st.lists(st.lists(st.integers(0, 6), min_size=2, max_size=9), min_size=1, max_size=4))
def test_the_reader_of_frequencies_gives_probabilities_that_sum_to_one(windows: list[list[int]]) -> None:
    arrays = [np.array(window, np.int32) for window in windows]
    last = windows[-1][:-1]
    before = unigram_losses([*arrays[:-1], np.array(last, np.int32)], vocab_size=7)
    total = 0.0
    for token in range(7):
        after = unigram_losses([*arrays[:-1], np.array([*last, token], np.int32)], vocab_size=7)
        total += float(np.exp(before[-1] - after[-1]))
    assert total == pytest.approx(1)
