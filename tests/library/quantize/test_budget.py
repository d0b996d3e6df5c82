"""A budget of the whole model: refused where it cannot be kept, decided once, and told in the report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tritium.errors import ProcessingError, ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.safetensors import write_safetensors
from tritium.kernels.cpu import prepare
from tritium.model.layers import TernaryLinear
from tritium.model.pretrained import load_model
from tritium.quantize import (
    LayerOverride,
    QuantizationConfig,
    plan_quantization,
    quantize_layer,
    quantize_model,
)
from tritium.quantize import budget as budget_module
from tritium.quantize.budget import ALLOCATION, shares_of
from tritium.quantize.planes import quantize_planes
from tritium.quantize.recompute import recompute_report
from tritium.quantize.sensitivity import TOKENS, measure_layers
from tritium.quantize.source import open_source
from tritium.quantize.validate import compare_models
from tritium.quantize.windows import calibration_windows

if TYPE_CHECKING:
    from pathlib import Path

SENTENCES = "the cat sat on a mat.\n\na mat sat.\n\non the mat a cat.\n\ncat cat the."


@pytest.fixture
def asked(calibration_text: str) -> dict[str, object]:
    """A small calibration, in groups of 32."""
    return {
        "group_size": 32,
        "calibration_text": calibration_text[:4000],
        "calibration_tokens": 64,
        "window": 32,
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"average_bits": 1.6}, "at least"),
        ({"average_bits": 3.0, "min_planes": 2}, "at least"),
        ({"average_bits": 5.6}, "at most"),
        ({"average_bits": 4.0, "max_planes": 2}, "at most"),
        ({"average_bits": 2.0, "max_planes": 1}, "fixed number of planes"),
        ({"average_bits": 3.0, "layers": {"*": LayerOverride(planes=2)}}, "fixed number of planes"),
        ({"average_bits": 3.0, "strategy": "adaptive"}, "finer groups"),
        ({"target_loss": 0.1}, "needs a calibration text"),
    ],
    ids=str,
)
def test_a_budget_that_the_layers_cannot_keep_is_refused_before_any_work(tiny_llama, values, message):
    with pytest.raises(ValidationError, match=message):
        plan_quantization(tiny_llama, QuantizationConfig(group_size=32, **values))


def test_the_limits_that_a_refusal_names_are_taken(tiny_llama):
    for far in (0.1, 99.0):
        with pytest.raises(ValidationError) as refusal:
            plan_quantization(tiny_llama, QuantizationConfig(group_size=32, average_bits=far))
        named = float(str(refusal.value.message).split("must be ")[1].split()[0])
        model = quantize_model(tiny_llama, QuantizationConfig(group_size=32, average_bits=named))
        assert named - 0.1 < model.metrics["bits_per_weight"] <= named


def test_a_source_that_is_ternary_has_nothing_to_give_out(scripture_bitnet_offline):
    with pytest.raises(ValidationError, match="ternary already"):
        plan_quantization(scripture_bitnet_offline, QuantizationConfig(average_bits=2.0))


def test_a_sensitivity_is_what_the_model_loses_if_that_layer_alone_is_rounded(tiny_llama, asked, tmp_path):
    plan = plan_quantization(tiny_llama, QuantizationConfig(average_bits=3.0, **asked))
    with open_source(plan.source) as source:
        measured = measure_layers(plan, source, tmp_path, threads=1)
    loaded = load_model(tiny_llama, threads=1)
    windows = calibration_windows(plan, tmp_path, loaded, tokens=TOKENS)

    def distributions() -> np.ndarray:
        logits = np.concatenate([loaded.generator.forward_full(ids) for ids in windows]).astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    wanted = distributions()
    for index, planes in ((0, 1), (6, 2), (9, 3), (13, 1)):
        name = plan.layer_names[index]
        with open_checkpoint(tiny_llama) as checkpoint:
            weights = checkpoint.read_float32(f"{name}.weight")
        dense = loaded.model.linears()[name]
        rounded = quantize_planes(weights, planes=planes, group_size=32)
        loaded.model.set_linear(name, TernaryLinear(prepare(rounded.ternary_weight()), threads=1))
        expected = (wanted * np.log(wanted / distributions())).sum(axis=1).mean()
        loaded.model.set_linear(name, dense)
        choice = measured[index][planes - 1]
        assert choice.planes == planes
        assert choice.cost == pytest.approx(expected, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("threads", [1, 2])
def test_all_linear_layers_together_take_no_more_than_was_asked_for(
    tiny_llama, asked, held_out_text, threads
):
    config = QuantizationConfig(average_bits=3.0, validation_text=held_out_text[:1500], **asked)
    model = quantize_model(tiny_llama, config, threads=threads)
    assert 2.8 < model.metrics["bits_per_weight"] <= 3.0
    layers = model.manifest["linears"].values()
    assert len({layer["planes"] for layer in layers}) > 1
    assert all(layer["sensitivity"] >= layer["predicted_loss"] for layer in layers)
    predicted = sum(layer["predicted_loss"] for layer in layers)
    assert model.metrics["predicted_loss"] == pytest.approx(predicted)
    loss, ratio = model.validation_report["loss"], model.validation_report["perplexity_ratio"]
    assert loss == pytest.approx({end: float(np.log(value)) for end, value in ratio.items()})
    _check_recomputed(model.path)


def _check_recomputed(path: Path) -> None:
    """The figures that a budget adds follow from the run record."""
    found = recompute_report(path)
    added = {name for name in found.figures if name.endswith(("loss", "loss.value", "sensitivity"))}
    assert {"metrics.predicted_loss"} < added
    assert not added & {difference.figure for difference in found.differences}


def test_more_bits_are_never_predicted_to_lose_more(tiny_llama, asked, tmp_path):
    losses = []
    for bits in (2.1, 2.6, 4.0):
        plan = plan_quantization(tiny_llama, QuantizationConfig(average_bits=bits, **asked))
        (tmp_path / str(bits)).mkdir()
        with open_source(plan.source) as source:
            shares = shares_of(plan, tmp_path / str(bits), source)
        losses.append(sum(share.predicted_loss for share in shares))
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 2 * losses[-1]


def test_an_encoder_becomes_as_small_as_its_loss_allows(small_encoder, tmp_path):
    given = {"calibration_text": SENTENCES, "group_size": 32}
    models = [
        quantize_model(small_encoder, QuantizationConfig(target_loss=loss, **given), out=tmp_path / str(loss))
        for loss in (0.02, 0.1)
    ]
    bits = [model.metrics["bits_per_weight"] for model in models]
    assert bits[1] < bits[0]
    for model, loss in zip(models, (0.02, 0.1), strict=True):
        assert 0 < model.metrics["predicted_loss"] <= loss
        report = compare_models(small_encoder, model.path, text=SENTENCES)
        assert report.loss.value == pytest.approx(1 - report.cosine_similarity.value)
        assert report.loss.low <= report.loss.value <= report.loss.high
        _check_recomputed(model.path)


def test_a_loss_that_no_planes_reach_is_refused_with_what_they_reach(tiny_llama, asked):
    with pytest.raises(ValidationError, match="cannot be met"):
        quantize_model(tiny_llama, QuantizationConfig(target_loss=1e-9, **asked))


def test_layers_with_a_number_of_their_own_keep_it(tiny_llama, asked):
    overrides = {"*.o_proj": LayerOverride(planes=3), "*.q_proj": LayerOverride(planes=1)}
    config = QuantizationConfig(average_bits=3.0, layers=overrides, **asked)
    model = quantize_model(tiny_llama, config)
    for name, layer in model.manifest["linears"].items():
        fixed = {"o_proj": 3, "q_proj": 1}.get(name.rsplit(".", 1)[1])
        assert fixed in (None, layer["planes"])
    assert model.metrics["bits_per_weight"] <= 3.0


def test_without_a_text_planes_follow_the_errors_of_the_weights_and_no_loss_is_claimed(tiny_llama):
    model = quantize_model(tiny_llama, QuantizationConfig(average_bits=3.0, group_size=32))
    assert 2.8 < model.metrics["bits_per_weight"] <= 3.0
    assert model.metrics["predicted_loss"] is None
    assert {layer["sensitivity"] for layer in model.manifest["linears"].values()} == {None}


DAMAGES = {
    "gone": lambda _: None,
    "empty": lambda _: b"",
    "garbage": lambda _: b"\x00{",
    "cut": lambda data: data[: len(data) // 2],
    "another number": lambda data: data.replace(b'"planes": 1', b'"planes": 3', 1),
    "a list": lambda _: b"[]",
    "no shares": lambda data: json.dumps({**json.loads(data), "shares": 3}).encode(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_decision_that_is_damaged_is_made_again(tiny_llama, tmp_path, damage):
    plan = plan_quantization(tiny_llama, QuantizationConfig(average_bits=3.0, group_size=32))
    quantize_layer(plan, 0, tmp_path)
    good = (tmp_path / ALLOCATION).read_bytes()
    damaged = damage(good)
    assert damaged != good
    if damaged is None:
        (tmp_path / ALLOCATION).unlink()
    else:
        (tmp_path / ALLOCATION).write_bytes(damaged)
    quantize_layer(plan, 1, tmp_path)
    assert (tmp_path / ALLOCATION).read_bytes() == good


def test_a_decision_is_made_once_and_for_one_plan(tiny_llama, tmp_path, monkeypatch):
    decided = []
    original = budget_module._decide
    monkeypatch.setattr(
        budget_module,
        "_decide",
        lambda plan, *rest, **more: decided.append(plan) or original(plan, *rest, **more),
    )
    plans = [
        plan_quantization(tiny_llama, QuantizationConfig(average_bits=bits, group_size=32))
        for bits in (2.5, 3.0)
    ]
    for plan in (plans[0], plans[0], plans[1]):
        for index in (3, 0):
            quantize_layer(plan, index, tmp_path)
    assert decided == plans


def test_a_plan_without_a_budget_is_the_plan_it_was(tiny_llama, asked):
    config = QuantizationConfig(**asked)
    plain = plan_quantization(tiny_llama, config)
    budgeted = plan_quantization(tiny_llama, QuantizationConfig(average_bits=3.0, **asked))
    assert plain.digest != budgeted.digest
    assert plain.digest == type(plain).from_dict(plain.to_dict()).digest


def test_a_source_that_overflows_is_refused(make_llama, asked):
    source = make_llama(seed=5)
    with open_checkpoint(source) as checkpoint:
        tensors = {name: np.array(checkpoint.read(name)) for name in checkpoint.tensors}
    for name in ("up_proj", "down_proj"):
        tensors[f"model.layers.1.mlp.{name}.weight"][:] = 1e30
    write_safetensors(source / "model.safetensors", tensors)
    with pytest.raises(ProcessingError, match="overflow"):
        quantize_model(source, QuantizationConfig(average_bits=3.0, **asked))
