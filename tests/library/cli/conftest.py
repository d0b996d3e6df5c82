"""The program as a user runs it: a process of its own, on a real trained model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
import tokenizers

from tritium.formats.safetensors import write_safetensors

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = [sys.executable, "-c", "from tritium.cli import main; main()"]


class RunTritium(Protocol):
    """How a test runs the program."""

    def __call__(
        self, *arguments: str | Path, stdin: str | bytes = "", cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]: ...


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRITIUM_")}
    return kept | {"COLUMNS": "100", "NO_COLOR": "1"}


@pytest.fixture(scope="session")
def tritium_program() -> list[str]:
    """The words that start the program."""
    return PROGRAM


@pytest.fixture(scope="session")
def run_tritium() -> RunTritium:
    """Run the program to its end and return what it wrote."""

    def run(
        *arguments: str | Path, stdin: str | bytes = "", cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*PROGRAM, *map(str, arguments)],
            input=stdin if isinstance(stdin, bytes) else stdin.encode(),
            capture_output=True,
            env=environment(),
            cwd=cwd,
            timeout=120,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return run


@pytest.fixture(scope="session")
def quantized_by_the_program(
    run_tritium: RunTritium, scripture_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The trained Llama, quantized by `tritium quantize`, and the JSON it wrote."""
    folder = tmp_path_factory.mktemp("quantized")
    text = folder / "text.txt"
    text.write_text(
        "In the beginning God created the heaven and the earth.\n\nAnd the earth was void.\n" * 20
    )
    out = folder / "model"
    done = run_tritium("quantize", scripture_llama, "--out", out, "--validation", text, "--format", "json")
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


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
