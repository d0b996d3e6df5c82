"""The layers models are made of: each maps float32 rows to float32 rows, one row never touching another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tritium.errors import ProcessingError
from tritium.kernels import cpu
from tritium.kernels.cpu import CodedMatrix, PreparedWeight

Float32 = npt.NDArray[np.float32]
DenseWeight = npt.NDArray[np.float32] | npt.NDArray[np.uint16]  # uint16: the bits of bfloat16
NOT_FINITE = "An activation is NaN or infinite: the weights or the input overflow float32."
Observer = Callable[[str, Float32], None]  # (name of the linear layer, its input [M, K])


class Linear(Protocol):
    """A linear layer: rows [M, in_features] to rows [M, out_features]."""

    @property
    def in_features(self) -> int:
        """K, the length of an input row."""
        ...

    @property
    def out_features(self) -> int:
        """N, the length of an output row."""
        ...

    def __call__(self, x: Float32) -> Float32:
        """Map rows [M, K] to rows [M, N]."""
        ...


class RowSource(Linear, Protocol):
    """A table [V, K] that is not in memory: its rows are looked up where it lies; it is a head as well."""

    def rows(self, ids: npt.NDArray[np.int32]) -> Float32:
        """Return the rows of these ids as float32 [T, K]."""
        ...


Table = DenseWeight | CodedMatrix | PreparedWeight | RowSource  # rows to look up; it may be the head as well


class WeightSource(Protocol):
    """Where a model takes its tensors from."""

    def array(self, name: str) -> Float32:
        """Return a tensor as float32."""
        ...

    def dense(self, name: str) -> DenseWeight:
        """Return a matrix as the kernels take it."""
        ...

    def table(self, name: str, *, threads: int) -> Table:
        """Return an embedding or a head as it is stored: dense, coded or ternary."""
        ...

    def linear(self, name: str, *, threads: int) -> Linear:
        """Build a linear layer."""
        ...


@dataclass(frozen=True)
class DenseLinear:
    """y = x @ weight.T + bias; weight float32 or bfloat16 bits [N, K], bias float32 [N]."""

    weight: DenseWeight
    bias: Float32 | None = None
    threads: int = 1

    @property
    def in_features(self) -> int:
        """K, the length of an input row."""
        return int(self.weight.shape[1])

    @property
    def out_features(self) -> int:
        """N, the length of an output row."""
        return int(self.weight.shape[0])

    def __call__(self, x: Float32) -> Float32:
        """Map rows [M, K] to rows [M, N]."""
        y = cpu.dense_matmul(x, self.weight, threads=self.threads)
        return y if self.bias is None else np.add(y, self.bias, out=y)


@dataclass(frozen=True)
class RMSNorm:
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis."""

    weight: Float32
    eps: float

    def __call__(self, x: Float32) -> Float32:
        """Normalise rows [M, K]."""
        return cpu.rms_norm(x, self.weight, eps=self.eps)


@dataclass(frozen=True)
class LayerNorm:
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last axis."""

    weight: Float32
    bias: Float32
    eps: float

    def __call__(self, x: Float32) -> Float32:
        """Normalise rows [M, K]."""
        return cpu.layer_norm(x, self.weight, self.bias, eps=self.eps)


@dataclass(frozen=True)
class TernaryLinear:
    """Ternary weights times activations rounded to eight bits per token; integers in between are exact."""

    weight: PreparedWeight
    bias: Float32 | None = None
    threads: int = 1

    @property
    def in_features(self) -> int:
        """K, the length of an input row."""
        return self.weight.in_features

    @property
    def out_features(self) -> int:
        """N, the length of an output row."""
        return self.weight.out_features

    def __call__(self, x: Float32) -> Float32:
        """Map rows [M, K] to rows [M, N]."""
        return self.multiply(*quantize_rows(x))

    def multiply(self, q: npt.NDArray[np.int8], scale: Float32) -> Float32:
        """Map rows that are already rounded to int8 [M, Kp] with their scales [M] to rows [M, N]."""
        y = cpu.ternary_matmul(self.weight, q, scale, threads=self.threads)
        return y if self.bias is None else np.add(y, self.bias, out=y)


@dataclass(frozen=True)
class CodedLinear:
    """Codes of 6 or 8 bits times activations rounded to eight bits per token; exact within a group."""

    weight: CodedMatrix
    threads: int = 1

    @property
    def in_features(self) -> int:
        """K, the length of an input row."""
        return self.weight.in_features

    @property
    def out_features(self) -> int:
        """N, the length of an output row."""
        return self.weight.out_features

    def __call__(self, x: Float32) -> Float32:
        """Map rows [M, K] to rows [M, N]."""
        return cpu.coded_matmul(self.weight, *quantize_rows(x), threads=self.threads)


@dataclass(frozen=True)
class Embedding:
    """A table of rows [V, K], and what they are multiplied by."""

    weight: Table
    scale: float = 1.0

    def __call__(self, ids: npt.NDArray[np.int32]) -> Float32:
        """Return the rows of these ids as float32 [T, K]."""
        if isinstance(self.weight, CodedMatrix):
            rows = cpu.coded_lookup(self.weight, ids)
        elif isinstance(self.weight, PreparedWeight):
            rows = cpu.ternary_lookup(self.weight, ids)
        elif isinstance(self.weight, np.ndarray):
            rows = cpu.embedding_lookup(self.weight, ids)
        else:
            rows = self.weight.rows(ids)
        return rows if self.scale == 1 else np.multiply(rows, np.float32(self.scale), out=rows)


def head_of(table: Table, *, threads: int) -> DenseLinear | CodedLinear | TernaryLinear | RowSource:
    """Return the linear layer that multiplies by a table; it shares the table's memory."""
    if isinstance(table, CodedMatrix):
        return CodedLinear(table, threads)
    if isinstance(table, PreparedWeight):
        return TernaryLinear(table, threads=threads)
    return DenseLinear(table, threads=threads) if isinstance(table, np.ndarray) else table


def quantize_rows(x: Float32) -> tuple[npt.NDArray[np.int8], Float32]:
    """Round rows [M, K] to int8 with one scale per row.

    Raises:
        ProcessingError: a value is NaN or infinite; rounding would hide it.
    """
    require_finite(x)
    return cpu.quantize_activations(x)


def require_finite(x: Float32) -> None:
    """Check activations (ProcessingError: one is NaN or infinite)."""
    if not np.isfinite(x).all():
        raise ProcessingError(NOT_FINITE)


def apply_linears(linears: Sequence[Linear], x: Float32) -> list[Float32]:
    """Run several layers on the same rows [M, K], rounding the rows once for all ternary ones."""
    shared: tuple[npt.NDArray[np.int8], Float32] | None = None
    outputs = []
    for linear in linears:
        if isinstance(linear, TernaryLinear):
            shared = shared or quantize_rows(x)
            outputs.append(linear.multiply(*shared))
        else:
            outputs.append(linear(x))
    return outputs
