"""Writes a ternary llama with random trits, in the shape of a real one: for measuring speed, not text.

    python benchmarks/random_models.py 2b4t build/peers/models/2b4t

Trits are drawn five to a byte, so that two billion weights take seconds and no dense copy ever exists. Scales
keep activations near 1. The embedding, which is the head too, has 6 bits a weight. The vocabulary is the 256
bytes and numbered words: a text of N ASCII characters is N tokens. The end token's embedding is zero, so that
greedy text never ends by itself.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers

from tritium.formats.native import is_native, save_native
from tritium.kernels import cpu
from tritium.kernels.coded import CODE_GROUP
from tritium.model.architecture import architecture_for
from tritium.model.config import parse_config

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRITS_PER_BYTE = 5
EMBEDDING_BITS = 6
BYTE_VALUES = 3**TRITS_PER_BYTE


@dataclass(frozen=True)
class Shape:
    """The sizes of a llama; group_size None is one scale per tensor."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int = 4096
    group_size: int | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The config.json of a model of this shape."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden // self.heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": self.vocabulary - 1,
        }


SHAPES = {
    "2b4t": Shape(layers=30, hidden=2560, inner=6912, heads=20, kv_heads=5, vocabulary=128256),
    "125m": Shape(layers=12, hidden=768, inner=2048, heads=12, kv_heads=12, vocabulary=32000),
    "tiny": Shape(layers=2, hidden=256, inner=512, heads=4, kv_heads=2, vocabulary=512),
}


def write_random_model(directory: Path, shape: Shape, *, seed: int = 1) -> None:
    """Write a native model; the same shape and seed give the same bytes."""
    random = np.random.default_rng(seed)
    config = parse_config(shape.config)
    architecture = architecture_for(config)
    tensors: dict[str, NDArray[Any]] = {}
    linears = {}
    for name, linear in architecture.linears.items():
        rows, columns = linear.out_features, linear.in_features
        group = shape.group_size or columns
        packed = -(-rows * columns // TRITS_PER_BYTE)
        tensors[f"{name}.trits"] = random.integers(0, BYTE_VALUES, (1, packed), dtype=np.uint8)
        scale = math.sqrt(1.5 / columns)  # uniform trits have variance 2/3
        tensors[f"{name}.scales"] = np.full((1, columns // group), scale, np.float16)
        linears[name] = {
            "planes": 1,
            "out_features": rows,
            "in_features": columns,
            "group_size": group,
            "divides": False,
        }
    for name, sizes in architecture.tensors.items():
        if len(sizes) == 1:
            tensors[name] = np.full(sizes, 0x3F80, np.uint16)  # norms: ones in bfloat16
    table = random_table(random, shape.vocabulary, shape.hidden)
    table[-1] = 0
    coded, _ = cpu.round_to_codes(table, bits=EMBEDDING_BITS, threads=2)
    tensors["model.embed_tokens.codes"] = coded.tiles
    embedding = {
        "bits": EMBEDDING_BITS,
        "group_size": CODE_GROUP,
        "out_features": shape.vocabulary,
        "in_features": shape.hidden,
    }
    save_native(
        directory,
        tensors=tensors,
        manifest={
            "config": shape.config,
            "linears": linears,
            "coded": {"model.embed_tokens": embedding},
        },
        files={
            "config.json": json.dumps(shape.config).encode(),
            "tokenizer.json": numbered_tokenizer(shape.vocabulary),
        },
    )


def random_table(random: np.random.Generator, rows: int, columns: int) -> NDArray[np.uint16]:
    """Random bfloat16 bits: whole numbers of one signed byte, over 8."""
    values = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32) / 8
    bits = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    table: NDArray[np.uint16] = bits[random.integers(0, 256, (rows, columns), dtype=np.uint8)]
    return table


def numbered_tokenizer(vocabulary: int) -> bytes:
    """A byte-level tokenizer without merges: 256 bytes, then words nobody can type."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [f"word{number}" for number in range(len(alphabet), vocabulary)]
    model = tokenizers.models.BPE({token: index for index, token in enumerate(alphabet + words)}, [])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return str(tokenizer.to_str()).encode()


def cached_random_model(directory: Path, shape: Shape) -> Path:
    """Write the model unless it is there, whole."""
    if not is_native(directory):
        shutil.rmtree(directory, ignore_errors=True)
        write_random_model(directory, shape)
    return directory


def main() -> None:
    """Write one model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    write_random_model(options.out, SHAPES[options.shape])


if __name__ == "__main__":
    main()
