"""One step's work: rows of many sequences side by side, and the paged cache they attend to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tritium.errors import ValidationError
from tritium.kernels import cpu
from tritium.kernels.pages import BLOCK_SIZE, KvDtype, Pool, block_bytes, new_pool, release_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ForwardBatch:
    """T new tokens of B sequences, prefill and decode mixed; S rows whose logits are wanted.

    Sequence b owns rows `sequence_starts[b]` to `sequence_starts[b + 1]`; its context (new tokens included)
    is `context_lengths[b]` long and lies in the blocks `block_tables[b]`; row t writes its key and value to
    `slots[t]` = block * BLOCK_SIZE + offset.
    """

    token_ids: Int32  # [T]
    positions: Int32  # [T]
    sequence_starts: Int32  # [B + 1]
    block_tables: Int32  # [B, longest]
    context_lengths: Int32  # [B]
    slots: Int64  # [T]
    logit_rows: Int32  # [S]

    @classmethod
    def of_sequences(cls, sequences: Sequence[npt.ArrayLike]) -> ForwardBatch:
        """Lay whole sequences out from block 0 on, with logits of every row."""
        arrays = [np.asarray(sequence, dtype=np.int32) for sequence in sequences]
        lengths = np.array([len(array) for array in arrays], dtype=np.int32)
        if not arrays or lengths.min() < 1:
            raise ValidationError("A batch needs at least one sequence, and none may be empty.")
        blocks = -(-lengths // BLOCK_SIZE)
        firsts = np.concatenate([[0], np.cumsum(blocks)[:-1]])
        tables = np.zeros((len(arrays), int(blocks.max())), dtype=np.int32)
        for row, (first, count) in enumerate(zip(firsts, blocks, strict=True)):
            tables[row, :count] = np.arange(first, first + count)
        positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        return cls(
            token_ids=np.concatenate(arrays),
            positions=positions,
            sequence_starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
            block_tables=tables,
            context_lengths=lengths,
            slots=(np.repeat(firsts * BLOCK_SIZE, lengths) + positions).astype(np.int64),
            logit_rows=np.arange(len(positions), dtype=np.int32),
        )

    @property
    def num_blocks(self) -> int:
        """One more than the highest block of the batch."""
        return int(self.block_tables.max()) + 1


@dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer: one pool each, in blocks of BLOCK_SIZE positions.

    Raises:
        ValidationError: heads too large for int8.
    """

    num_layers: int
    num_blocks: int
    kv_heads: int
    head_dim: int
    dtype: KvDtype = "fp32"
    layers: tuple[Pool, ...] = field(init=False, repr=False)
    pools: cpu.CachePools = field(init=False, repr=False, compare=False)  # the same, as plans take them

    def __post_init__(self) -> None:
        sizes = {"num_blocks": self.num_blocks, "heads": self.kv_heads, "head_dim": self.head_dim}
        layers = tuple(new_pool(self.dtype, **sizes) for _ in range(self.num_layers))
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "pools", cpu.CachePools(list(layers), self.head_dim))

    @property
    def block_bytes(self) -> int:
        """Bytes of one block in all layers together."""
        return self.num_layers * block_bytes(self.dtype, heads=self.kv_heads, head_dim=self.head_dim)

    @property
    def nbytes(self) -> int:
        """Bytes of all pools together."""
        return self.num_blocks * self.block_bytes

    def release(self, blocks: Sequence[int]) -> None:
        """Give the memory of blocks that nobody holds back to the system, in all layers.

        Args:
            blocks: in ascending order.
        """
        for first, count in _runs(blocks):
            for pool in self.layers:
                release_blocks(pool, first=first, count=count)


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the length of each run of consecutive numbers."""
    start = 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
            yield numbers[start], end - start
            start = end
