"""Every family of decoders is quantized, saved and loaded; what is no linear layer stays, to the byte."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.native import open_native
from tritium.model.pretrained import load_model
from tritium.quantize import QuantizationConfig, quantize_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZES = {
    "hidden_size": 40,
    "intermediate_size": 72,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
    "vocab_size": 4096,
}
# A coded embedding is scaled where the model scales it, and serves the tied head without.
EMBEDDING_BITS = {"gemma3_text": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 32},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 32, "dtype": "bfloat16"},
    "gemma3_text": {"head_dim": 16, "sliding_window": 32, "dtype": "float32"},
}


@pytest.fixture(scope="module", params=FAMILIES)
def source(
    request: pytest.FixtureRequest,
    random_checkpoint: Callable[..., Path],
    scripture_llama: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    config = {"model_type": request.param, **SIZES, **FAMILIES[request.param]}
    directory = random_checkpoint(tmp_path_factory.mktemp(request.param) / "model", config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(scripture_llama / name, directory / name)
    return directory


def test_a_family_is_quantized_behind_its_own_layers(
    source: Path, calibration_text: str, held_out_text: str, tmp_path: Path
) -> None:
    before = load_model(source)
    bits = EMBEDDING_BITS.get(before.config.model_type, 16)
    config = QuantizationConfig(
        min_planes=3,
        embedding_bits=bits,
        group_size=32,
        calibration_text=calibration_text[:2000],
        calibration_tokens=96,
        validation_text=held_out_text[:800],
        window=64,
    )
    quantized = quantize_model(source, config, out=tmp_path / "quantized")
    assert quantized.validation_report["perplexity_ratio"]["value"] == pytest.approx(1, abs=0.05)
    after = load_model(tmp_path / "quantized")
    assert len(quantized.manifest["linears"]) == 14
    assert after.config == before.config
    ids = np.arange(30)
    expected, actual = (loaded.generator.forward_full(ids) for loaded in (before, after))
    assert np.corrcoef(expected.ravel(), actual.ravel())[0, 1] > 0.95
    with open_checkpoint(source) as dense, open_native(tmp_path / "quantized") as native:
        kept = dense.tensors.keys() & native.checkpoint.tensors.keys()
        lost = dense.tensors.keys() - kept
        coded = {"model.embed_tokens.weight"} if bits < 16 else set()
        assert lost == {f"{name}.weight" for name in quantized.manifest["linears"]} | coded
        for name in kept:
            assert native.checkpoint.read(name).tobytes() == dense.read(name).tobytes()
