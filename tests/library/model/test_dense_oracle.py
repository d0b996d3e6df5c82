"""Dense models against transformers in float32: every logit, every coordinate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tritium.model.pretrained import load_model

pytestmark = pytest.mark.oracle

LLAMA = {
    "hidden_size": 60,
    "intermediate_size": 77,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 10,
    "vocab_size": 131,
    "max_position_embeddings": 96,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
VARIANTS = {
    "grouped queries": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 16},
    "one key head": {"num_key_value_heads": 1},
    "linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    "llama3 rope": {"rope_parameters": LLAMA3},
    "other theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 123.0}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_logit_of_a_tiny_llama_is_that_of_transformers(
    variant: str, oracle: Any, tiny_models: Any, tmp_path: Any
) -> None:
    path = tiny_models.dense(tmp_path / "model", "llama", **(LLAMA | VARIANTS[variant]))
    token_ids = np.random.default_rng(0).integers(0, 131, 90)
    expected = oracle.logits(oracle.load(path), token_ids)[0]
    actual = load_model(path).generator.forward_full(token_ids)
    assert np.abs(actual - expected).max() < 1e-4
    assert np.abs(expected).max() > 1  # or the tolerance would say nothing


def test_every_logit_of_a_dense_bitnet_is_that_of_transformers(
    oracle: Any, tiny_models: Any, tmp_path: Any
) -> None:
    fields = {key: value for key, value in LLAMA.items() if key != "head_dim"}
    path = tiny_models.dense(tmp_path / "model", "bitnet", **fields, attention_bias=True)
    token_ids = np.random.default_rng(1).integers(0, 131, 40)
    expected = oracle.logits(oracle.load(path), token_ids)[0]
    assert np.abs(load_model(path).generator.forward_full(token_ids) - expected).max() < 1e-4


def test_every_logit_of_a_trained_llama_is_that_of_transformers(
    oracle: Any, scripture_llama: Any, held_out_text: str
) -> None:
    loaded = load_model(scripture_llama)
    token_ids = np.array(loaded.tokenizer.encode(held_out_text[:1500])[:256])
    expected = oracle.logits(oracle.load(scripture_llama), token_ids)[0]
    assert np.abs(loaded.generator.forward_full(token_ids) - expected).max() < 1e-4


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_every_coordinate_of_a_tiny_bert_is_that_of_transformers(
    prefix: str, oracle: Any, tiny_models: Any, tmp_path: Any
) -> None:
    fields = {"hidden_size": 60, "intermediate_size": 77, "num_hidden_layers": 2, "num_attention_heads": 6}
    path = tiny_models.dense(tmp_path / "model", "bert", **fields, vocab_size=131, max_position_embeddings=40)
    if prefix:
        tiny_models.rename(path, lambda name: prefix + name)
    texts = [np.random.default_rng(seed).integers(0, 131, length) for seed, length in enumerate((7, 1, 40))]
    model = oracle.transformers.BertModel.from_pretrained(path, attn_implementation="eager").eval()
    actual = load_model(path).encoder.encode(texts)
    for row, text in zip(actual, texts, strict=True):
        with oracle.torch.no_grad():
            states = model(oracle.torch.tensor(text[None])).last_hidden_state[0].numpy()
        mean = states.mean(0)
        assert np.abs(row - mean / np.linalg.norm(mean)).max() < 1e-5
