"""What the library's tests need beyond the library: without it they are skipped, by name."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tokenizers

from tritium.formats.safetensors import write_safetensors
from tritium.model.architecture import architecture_for
from tritium.model.config import parse_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# The bare wheel has no HTTP server and no oracle; the full environment has both and skips nothing.
NEEDS = {
    "gguf": ("gguf",),
    "oracle": ("torch", "transformers"),
    "serve": ("fastapi", "llguidance", "msgspec", "uvicorn"),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gguf: compares with the package gguf")
    config.addinivalue_line("markers", "oracle: compares with transformers and torch")
    config.addinivalue_line("markers", "serve: needs tritium[serve]")
    config.addinivalue_line("markers", "soak: long; run by make soak")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, modules in NEEDS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            skip = pytest.mark.skip(reason=f"{', '.join(missing)} not installed")
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(skip)


@pytest.fixture(scope="session")
def small_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder with random weights: 2 layers, 32 dimensions, ten words."""
    directory = tmp_path_factory.mktemp("encoder")
    hidden, inner, words = 32, 64, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat"]
    random = np.random.default_rng(11)

    def weights(*shape: int) -> np.ndarray:
        return random.normal(scale=0.3, size=shape).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": weights(len(words), hidden),
        "embeddings.position_embeddings.weight": weights(16, hidden),
        "embeddings.token_type_embeddings.weight": weights(2, hidden),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        shapes = {
            "attention.self.query": (hidden, hidden),
            "attention.self.key": (hidden, hidden),
            "attention.self.value": (hidden, hidden),
            "attention.output.dense": (hidden, hidden),
            "intermediate.dense": (inner, hidden),
            "output.dense": (hidden, inner),
        }
        for name, shape in shapes.items():
            tensors[f"{layer}.{name}.weight"] = weights(*shape)
            tensors[f"{layer}.{name}.bias"] = weights(shape[0])
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name in norms:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = np.ones(hidden, np.float32), weights(hidden)
    write_safetensors(directory / "model.safetensors", tensors)
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": len(words),
        "max_position_embeddings": 16,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    }
    (directory / "config.json").write_text(json.dumps(config))
    model = tokenizers.models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="session")
def random_checkpoint() -> Callable[..., Path]:
    """Write a checkpoint of random weights for any config, with every tensor that its architecture names."""

    def write(directory: Path, config: dict[str, Any], *, seed: int = 0) -> Path:
        architecture, draw = architecture_for(parse_config(config)), np.random.default_rng(seed)
        shapes = dict(architecture.tensors)
        for name, linear in architecture.linears.items():
            shapes[f"{name}.weight"] = (linear.out_features, linear.in_features)
            if linear.has_bias:
                shapes[f"{name}.bias"] = (linear.out_features,)
        tensors = {}
        for name, shape in shapes.items():
            deviation = shape[-1] ** -0.5 if len(shape) > 1 else 0.2
            is_norm = "norm" in name and len(shape) == 1
            tensors[name] = (draw.normal(size=shape) * deviation + is_norm).astype(np.float32)
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(config))
        write_safetensors(directory / "model.safetensors", tensors)
        return directory

    return write
