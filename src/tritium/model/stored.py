"""Layers that stay in the checkpoint: read when they run, and let go again.

A model of any size runs so, block by block, in the memory of one layer; calibration does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tritium.model.layers import DenseLinear

if TYPE_CHECKING:
    import numpy.typing as npt

    from tritium.formats.checkpoint import Checkpoint
    from tritium.model.layers import DenseWeight, Float32
    from tritium.model.weights import CheckpointWeights


@dataclass(frozen=True)
class StoredLinear:
    """A linear layer, dense or ternary as it is stored."""

    weights: CheckpointWeights
    name: str
    threads: int = 1

    @property
    def in_features(self) -> int:
        """K, the length of an input row."""
        return self.weights.architecture.linears[self.name].in_features

    @property
    def out_features(self) -> int:
        """N, the length of an output row."""
        return self.weights.architecture.linears[self.name].out_features

    def __call__(self, x: Float32) -> Float32:
        """Map rows [M, K] to rows [M, N]."""
        y = self.weights.linear(self.name, threads=self.threads)(x)
        self.weights.forget(self.name)
        return y


@dataclass(frozen=True)
class StoredTable:
    """An embedding or a head [V, K]; looking rows up reads those rows alone."""

    weights: CheckpointWeights
    checkpoint: Checkpoint
    name: str
    threads: int = 1

    @property
    def in_features(self) -> int:
        """K, the length of a row."""
        return self.weights.architecture.tensors[self.name][1]

    @property
    def out_features(self) -> int:
        """V, the number of rows."""
        return self.weights.architecture.tensors[self.name][0]

    def rows(self, ids: npt.NDArray[np.int32]) -> Float32:
        """Return the rows of these ids as float32 [T, K]."""
        used, places = np.unique(ids, return_inverse=True)
        rows = self.checkpoint.read_rows_float32(self.weights.prefix + self.name, used.tolist())
        return rows[places]

    def __call__(self, x: Float32) -> Float32:
        """Multiply rows [M, K] by the whole table: [M, V]."""
        y = DenseLinear(self.weights.dense(self.name), threads=self.threads)(x)
        self.checkpoint.forget(self.weights.prefix + self.name)
        return y


class StoredWeights:
    """A WeightSource of layers that read what they need when they run; of a checkpoint that is not ours."""

    def __init__(self, checkpoint: Checkpoint, weights: CheckpointWeights) -> None:
        self._checkpoint = checkpoint
        self._weights = weights

    def array(self, name: str) -> Float32:
        """Return a tensor as float32."""
        return self._weights.array(name)

    def dense(self, name: str) -> DenseWeight:
        """Return a matrix as the kernels take it."""
        return self._weights.dense(name)

    def table(self, name: str, *, threads: int) -> StoredTable:
        """Return an embedding or a head."""
        return StoredTable(self._weights, self._checkpoint, name, threads)

    def linear(self, name: str, *, threads: int) -> StoredLinear:
        """Return a linear layer."""
        return StoredLinear(self._weights, name, threads)
