"""The model that four bits would have made of the source: what it takes, and how well it does.

Linear layers in Q4_0, embedding and head in Q6_K, everything else in fp32, as a Q4_0 file of llama.cpp has
them; where a row does not divide into blocks, Q8_0 or fp16 takes over. Activations are not rounded, so its
quality is an upper bound of what llama.cpp shows, which rounds them to eight bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tritium.formats.gguf import BLOCKS, TensorType
from tritium.formats.gguf_blocks import LARGEST_HALF, encode_q4_0, encode_q6_k, encode_q8_0
from tritium.formats.gguf_decode import dequantize
from tritium.kernels import cpu
from tritium.kernels.device import select_optimal_device
from tritium.model.pooling import POOLING_FILE
from tritium.model.pretrained import LoadedModel, build_model
from tritium.quantize.source import open_source

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tritium.model.layers import Linear
    from tritium.model.weights import CheckpointWeights

BLOCK, BLOCK_BYTES = BLOCKS[TensorType.Q4_0]
SIX_BIT_BLOCK = BLOCKS[TensorType.Q6_K][0]
# Bytes per weight of each layout, scales included.
LAYOUTS = {
    name: BLOCKS[TensorType[name]][1] / BLOCKS[TensorType[name]][0]
    for name in ("Q4_0", "Q6_K", "Q8_0", "F16", "F32")
}
ROWS_AT_ONCE = 4096


def is_dense(loaded: LoadedModel) -> bool:
    """Return whether a model has weights that four bits could round; ternary ones are smaller already."""
    return not loaded.ternary_layers


def four_bit_bytes(weights: CheckpointWeights) -> dict[str, int]:
    """Return what a model's tensors take in the 4-bit alternative, by layout."""
    architecture = weights.architecture
    sizes = dict.fromkeys(LAYOUTS, 0.0)
    for shape in architecture.linears.values():
        layout = "Q4_0" if shape.in_features % BLOCK == 0 else "F16"
        sizes[layout] += LAYOUTS[layout] * shape.out_features * shape.in_features
        sizes["F32"] += LAYOUTS["F32"] * shape.out_features if shape.has_bias else 0
    for name, dimensions in architecture.tensors.items():
        layout = table_layout(dimensions[-1]) if name in architecture.tables else "F32"
        sizes[layout] += LAYOUTS[layout] * int(np.prod(dimensions))
    return {layout: round(size) for layout, size in sizes.items() if size}


def table_layout(columns: int) -> str:
    """Return how an embedding or head with rows of this length is stored."""
    if columns % SIX_BIT_BLOCK == 0:
        return "Q6_K"
    return "Q8_0" if columns % BLOCK == 0 else "F16"


@dataclass(frozen=True)
class FourBitLinear:
    """y = x @ W.T + bias in fp32, with W kept in Q4_0 blocks [N, K / 32 x 18] and read out for each call."""

    blocks: NDArray[np.uint8]
    bias: NDArray[np.float32] | None
    threads: int

    @property
    def in_features(self) -> int:
        """K, the length of an input row."""
        return int(self.blocks.shape[1]) // BLOCK_BYTES * BLOCK

    @property
    def out_features(self) -> int:
        """N, the length of an output row."""
        return int(self.blocks.shape[0])

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map rows [M, K] to rows [M, N]."""
        y = cpu.dense_matmul(x, _decoded(TensorType.Q4_0, self.blocks), threads=self.threads)
        return y if self.bias is None else np.add(y, self.bias, out=y)


def load_four_bit(source: str | Path, *, threads: int | None = None) -> LoadedModel:
    """Build a dense checkpoint's model out of weights that went through four bits; linears stay in blocks."""
    with open_source(source) as opened:
        device = select_optimal_device(0, threads=threads)
        pooling = opened.checkpoint.file(POOLING_FILE)
        built = build_model(
            opened.config, FourBitWeights(opened.weights), pooling=pooling, threads=device.threads
        )
        files = opened.checkpoint.embedded
        return LoadedModel(opened.checkpoint.path, opened.config, built, device, files=files)


class FourBitWeights:
    """The tensors of a dense model as the 4-bit alternative has them: a WeightSource to build it from."""

    def __init__(self, weights: CheckpointWeights) -> None:
        self._weights = weights

    def array(self, name: str) -> NDArray[np.float32]:
        """Return a tensor that stays as it is, as float32."""
        return self._weights.array(name)

    def dense(self, name: str) -> NDArray[np.float32]:
        """Return a matrix after its rounding, as float32."""
        return self.table(name, threads=1)

    def table(self, name: str, *, threads: int) -> NDArray[np.float32]:
        """Return an embedding or a head after its rounding, as float32."""
        del threads
        return rounded_table(self._weights.array(name))

    def linear(self, name: str, *, threads: int) -> Linear:
        """Build a linear layer out of its rounded weights."""
        weight, bias = self._weights.array(f"{name}.weight"), self._weights.bias(name)
        if weight.shape[1] % BLOCK == 0:
            return FourBitLinear(encode_q4_0(weight), bias, threads)
        return self._weights.linear(name, threads=threads)  # fp16 holds weights better than four bits matter


def rounded_table(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a table [V, K] after a round trip through the layout that its width allows."""
    rounded = np.empty(table.shape, np.float32)
    layout = table_layout(table.shape[1])
    for first in range(0, len(table), ROWS_AT_ONCE):
        rows = np.clip(table[first : first + ROWS_AT_ONCE], -LARGEST_HALF, LARGEST_HALF)
        if layout == "Q6_K":
            rounded[first : first + ROWS_AT_ONCE] = _decoded(TensorType.Q6_K, encode_q6_k(rows))
        elif layout == "Q8_0":
            rounded[first : first + ROWS_AT_ONCE] = _decoded(TensorType.Q8_0, encode_q8_0(rows))
        else:
            rounded[first : first + ROWS_AT_ONCE] = rows.astype(np.float16)
    return rounded


def _decoded(kind: TensorType, encoded: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the weights float32 [N, K] that encoded rows, uint8 [N, bytes], stand for."""
    return dequantize(kind, encoded.reshape(-1)).reshape(len(encoded), -1)
