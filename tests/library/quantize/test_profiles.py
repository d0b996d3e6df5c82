"""Profiles, and the text that a model writes itself to be calibrated on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tritium.errors import ValidationError
from tritium.kernels.sampling import sample_rows
from tritium.model.pretrained import load_model
from tritium.quantize import (
    Profile,
    QuantizationConfig,
    QuantizationPlan,
    assemble,
    plan_quantization,
    quantize_layer,
    quantize_model,
)
from tritium.quantize.generate import written_windows

if TYPE_CHECKING:
    from pathlib import Path

SEED, WINDOW = 7, 40


def written_alone(path: Path, index: int) -> np.ndarray:
    """One window, written by running the whole sequence anew for each token."""
    loaded = load_model(path, threads=1)
    begin, draws = loaded.config.bos_token_id, np.random.default_rng([SEED, index]).random(WINDOW)
    tokens = [begin]
    while len(tokens) < WINDOW:
        if tokens[-1] in loaded.config.eos_token_ids and tokens[-1] != begin:
            tokens.append(begin)
            continue
        logits = loaded.generator.forward_full(np.array(tokens, dtype=np.int32))[-1]
        settings = {"temperature": [1.0], "top_k": [0], "top_p": [1.0], "min_p": [0.0]}
        tokens += sample_rows([logits], random=[float(draws[len(tokens) - 1])], **settings)
    return np.array(tokens)


def test_windows_are_written_together_as_each_would_be_alone(scripture_llama):
    windows = written_windows(load_model(scripture_llama, threads=2), tokens=130, window=WINDOW, seed=SEED)
    assert [len(window) for window in windows] == [WINDOW] * 3
    for index, window in enumerate(windows):
        np.testing.assert_array_equal(window, written_alone(scripture_llama, index))
    assert len({window.tobytes() for window in windows}) == 3


def test_a_model_without_a_beginning_begins_with_its_end_and_without_either_is_refused(make_llama):
    path = make_llama(seed=3)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"bos_token_id": None, "eos_token_id": 5}))
    windows = written_windows(load_model(path), tokens=WINDOW, window=WINDOW)
    assert windows[0][0] == 5
    (path / "config.json").write_text(json.dumps(config | {"bos_token_id": None, "eos_token_id": None}))
    with pytest.raises(ValidationError, match="begins or ends a text"):
        plan_quantization(path, QuantizationConfig(profile="balanced"))


@pytest.fixture
def balanced() -> QuantizationConfig:
    return QuantizationConfig(profile=Profile.BALANCED, group_size=32, calibration_tokens=512, window=64)


def test_balanced_without_a_text_compensates_on_what_the_model_writes(make_llama, balanced, tmp_path):
    source = make_llama(tokenizer=False)
    model = quantize_model(source, balanced, out=tmp_path / "out")
    assert "compensated" in model.metrics["strategies"]
    again = quantize_model(source, balanced, out=tmp_path / "again", threads=1)
    assert (again.path / "model.safetensors").read_bytes() == (
        tmp_path / "out" / "model.safetensors"
    ).read_bytes()
    fast = quantize_model(source, QuantizationConfig(profile="fast", group_size=32), out=tmp_path / "fast")
    assert "compensated" not in fast.metrics["strategies"]


def test_layers_made_in_other_processes_and_orders_read_the_same_written_text(make_llama, balanced, tmp_path):
    source = make_llama(tokenizer=False)
    quantize_model(source, balanced, out=tmp_path / "out")
    stored = json.dumps(plan_quantization(source, balanced).to_dict())
    for index in (9, 2, *range(14)):
        quantize_layer(QuantizationPlan.from_dict(json.loads(stored)), index, tmp_path / "work")
        (tmp_path / "work" / "calibration.safetensors").write_bytes(b"damaged")
    assemble(QuantizationPlan.from_dict(json.loads(stored)), tmp_path / "work", tmp_path / "steps")
    expected = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert (tmp_path / "steps" / "model.safetensors").read_bytes() == expected


def test_a_model_that_writes_its_own_text_loses_less_than_one_read_by_its_weights(
    scripture_llama, held_out_text
):
    config = QuantizationConfig(max_planes=1, validation_text=held_out_text, validation_tokens=2048)
    ratios = [
        quantize_model(scripture_llama, each).validation_report["perplexity_ratio"]["value"]
        for each in (replace(config, profile="balanced", calibration_tokens=1024), config)
    ]
    assert ratios[0] - 1 < 0.6 * (ratios[1] - 1)


def test_native_keeps_a_ternary_model_and_refuses_a_dense_one(scripture_bitnet_offline, make_llama, tmp_path):
    native = QuantizationConfig(profile="native")
    model = quantize_model(scripture_bitnet_offline, native, out=tmp_path / "out")
    assert model.metrics["mean_weight_error"] == 0
    with pytest.raises(ValidationError, match=r"q_proj is dense"):
        plan_quantization(make_llama(), native)


def test_an_encoder_needs_a_text_to_be_balanced(small_encoder):
    with pytest.raises(ValidationError, match="cannot write its own"):
        plan_quantization(small_encoder, QuantizationConfig(profile="balanced"))


@pytest.mark.parametrize("profile", ["fast", "native"])
def test_a_profile_that_reads_no_text_refuses_one(profile):
    with pytest.raises(ValidationError, match="reads no calibration text"):
        QuantizationConfig(profile=profile, calibration_text="In the beginning.")


def test_an_unknown_profile_is_refused_and_a_known_one_survives_its_json():
    with pytest.raises(ValidationError, match="fast, balanced, best, native"):
        QuantizationConfig(profile="quick")
    config = QuantizationConfig(profile="balanced")
    assert QuantizationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
