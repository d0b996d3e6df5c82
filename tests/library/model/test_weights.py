"""A checkpoint's tensors must be exactly those that its config asks for."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file

from tritium.errors import ProcessingError, ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.model.config import parse_config
from tritium.model.pretrained import load_model
from tritium.model.weights import CheckpointWeights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Tensors = dict[str, np.ndarray]
DOWN = "model.layers.5.mlp.down_proj"


def _bits(directory: Path) -> Tensors:
    """All tensors, bfloat16 as float32 (numpy's safetensors has no bfloat16)."""
    with open_checkpoint(directory) as checkpoint:
        return {
            name: checkpoint.read(name).copy() if info.dtype == "U8" else checkpoint.read_float32(name)
            for name, info in checkpoint.tensors.items()
        }


def _changed(source: Path, target: Path, change: Callable[[Tensors], object], **config: object) -> Path:
    shutil.copytree(source, target)
    tensors = _bits(source)
    change(tensors)
    save_file(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()}, target / "model.safetensors"
    )
    values = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**values, **config}))
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), r"misses .*model\.norm\.weight"),
        (lambda t: t.pop(f"{DOWN}.weight"), rf"misses .*{DOWN}\.weight"),
        (
            lambda t: t.update({"model.layers.6.x": np.zeros(2, np.float32)}),
            r"does not explain: model\.layers\.6\.x",
        ),
        (lambda t: t.update({f"{DOWN}.bias": np.zeros(256, np.float32)}), rf"does not explain: {DOWN}\.bias"),
        (
            lambda t: t.update({f"{DOWN}.weight": t[f"{DOWN}.weight"].T}),
            rf"{DOWN}\.weight has shape \[768, 256\]",
        ),
        (
            lambda t: t.update({"model.norm.weight": np.ones(255, np.float32)}),
            r"model\.norm\.weight has shape",
        ),
        (lambda t: t["model.norm.weight"].__setitem__(3, np.nan), "NaN"),
        (
            lambda t: t.update({"lm_head.weight": np.zeros((4096, 256), np.float32)}),
            r"lm_head\.weight differs",
        ),
    ],
)
def test_a_tensor_that_is_missing_extra_or_misshapen_is_named(
    change: Callable[[Tensors], object], message: str, scripture_llama: Path, tmp_path: Path
) -> None:
    path = _changed(scripture_llama, tmp_path / "model", change)
    with pytest.raises(ValidationError, match=message):
        load_model(path)


def test_a_head_that_repeats_the_tied_embeddings_is_accepted(scripture_llama: Path, tmp_path: Path) -> None:
    path = _changed(
        scripture_llama,
        tmp_path / "model",
        lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()}),
    )
    expected = load_model(scripture_llama).generator.forward_full([1, 2, 3])
    np.testing.assert_array_equal(load_model(path).generator.forward_full([1, 2, 3]), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{DOWN}.weight_scale"), r"misses .*weight_scale"),
        (lambda t: t[f"{DOWN}.weight"].__setitem__((0, 0), 0b11), "code at row 0, column 0 is 3"),
        (lambda t: t.update({f"{DOWN}.weight_scale": np.zeros(1, np.float32)}), "a scale is positive"),
        (lambda t: t.update({f"{DOWN}.weight_scale": -np.ones(1, np.float32)}), "a scale is positive"),
        (lambda t: t.update({f"{DOWN}.weight_scale": np.ones(2, np.float32)}), "weight_scale has shape"),
        (lambda t: t.update({f"{DOWN}.weight": t[f"{DOWN}.weight"][:60]}), r"has shape \[60, 768\]"),
    ],
)
def test_a_broken_ternary_layer_is_named(
    change: Callable[[Tensors], object], message: str, scripture_bitnet_bitlinear: Path, tmp_path: Path
) -> None:
    path = _changed(scripture_bitnet_bitlinear, tmp_path / "model", change)
    with pytest.raises(ValidationError, match=message):
        load_model(path)


def test_packed_weights_under_a_config_that_says_online_are_refused(
    scripture_bitnet_bitlinear: Path, tmp_path: Path
) -> None:
    online = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    path = _changed(scripture_bitnet_bitlinear, tmp_path / "model", lambda t: t, quantization_config=online)
    with pytest.raises(ValidationError, match="weight_scale"):
        load_model(path)


def test_ternary_weights_without_their_quantization_config_are_refused(
    scripture_bitnet_bitlinear: Path, tmp_path: Path
) -> None:
    path = _changed(scripture_bitnet_bitlinear, tmp_path / "model", lambda t: t, quantization_config=None)
    with pytest.raises(ValidationError, match="does not explain"):
        load_model(path)


def test_the_bytes_of_a_scale_are_kept_as_they_are(scripture_bitnet_bitlinear: Path) -> None:
    with open_checkpoint(scripture_bitnet_bitlinear) as checkpoint:
        weights = CheckpointWeights(checkpoint, parse_config(checkpoint.config))
        layer = weights.ternary(DOWN)
        assert layer.scale.dtype == np.uint16
        assert layer.scale.tobytes() == checkpoint.read(f"{DOWN}.weight_scale").tobytes()
        assert layer.divides


def test_the_three_conventions_hold_the_same_trits(
    scripture_bitnet_bitlinear: Path, scripture_bitnet_offline: Path, scripture_bitnet_online: Path
) -> None:
    layers = []
    for path in (scripture_bitnet_bitlinear, scripture_bitnet_offline, scripture_bitnet_online):
        with open_checkpoint(path) as checkpoint:
            weights = CheckpointWeights(checkpoint, parse_config(checkpoint.config))
            layers.append({name: weights.ternary(name).trits for name in weights.architecture.linears})
    for name, trits in layers[0].items():
        np.testing.assert_array_equal(trits, layers[1][name])
        np.testing.assert_array_equal(trits, layers[2][name])


def test_values_beyond_float32_on_the_way_are_an_error_not_a_guess(
    scripture_bitnet_offline: Path, tmp_path: Path
) -> None:
    def blow_up(tensors: Tensors) -> None:
        for name in ("gate_proj", "up_proj"):
            tensors[f"model.layers.0.mlp.{name}.weight_scale"] = np.full(1, 1e20, np.float32)

    path = _changed(scripture_bitnet_offline, tmp_path / "model", blow_up)
    with pytest.raises(ProcessingError, match="NaN or infinite"):
        load_model(path).generator.forward_full([1, 2, 3])
