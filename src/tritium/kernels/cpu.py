"""The kernels on this machine's processor that work row by row: products, tables and elementwise functions.

Every function has a numpy twin of the same name in `tritium.kernels.reference` (`reference_coded` for coded
matrices), takes C-contiguous arrays, releases the GIL, and raises ValidationError for a wrong dtype, shape or
index. A row's result never depends on its neighbours, on the size of the batch, on the threads or on the
instruction set. So it is with `tritium.kernels.attention` and `tritium.kernels.sampling`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from tritium.kernels import _native
from tritium.kernels.checks import refuses_bad_arrays
from tritium.kernels.coded import CodedWeight
from tritium.kernels.device import use_detected_isa
from tritium.kernels.weight import TernaryWeight

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "CachePools",
    "CodedMatrix",
    "CodedWeight",
    "Plan",
    "PreparedWeight",
    "TernaryWeight",
    "bound",
    "coded_lookup",
    "coded_matmul",
    "dense_matmul",
    "embedding_lookup",
    "gelu",
    "gelu_tanh_multiply",
    "layer_norm",
    "prepare",
    "prepare_coded",
    "prepare_packed",
    "quantize_activations",
    "relative_error",
    "relu2_multiply",
    "rms_norm",
    "rope_inplace",
    "round_rows_to_codes",
    "round_to_codes",
    "silu_multiply",
    "softmax",
    "ternary_accumulate",
    "ternary_lookup",
    "ternary_matmul",
]

CachePools: TypeAlias = _native.CachePools
Plan: TypeAlias = _native.Plan
PreparedWeight: TypeAlias = _native.PreparedWeight
CodedMatrix: TypeAlias = _native.CodedMatrix  # a coded matrix in memory of its own, ready to run

use_detected_isa()


@refuses_bad_arrays
def quantize_activations(
    x: NDArray[np.float32], *, threads: int = 1
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantizes each row of x float32 [M, K] to int8 [M, Kp] with its scale [M], 127 / max(absmax, 1e-5).

    Kp is K rounded up to 128; the padding is 0. A NaN becomes 0; an infinity makes its whole row 0.
    """
    return _native.quantize_activations(x, threads)


@refuses_bad_arrays
def prepare(weight: TernaryWeight, *, threads: int = 1) -> PreparedWeight:
    """Lays a ternary weight out for the instruction set in use; the weight itself is not needed afterwards.

    Raises:
        ValidationError: a code of the weight is no trit.
    """
    return _native.prepare(
        weight.planes, weight.scales, weight.in_features, weight.group_size, weight.divides, threads
    )


@refuses_bad_arrays
def prepare_packed(
    packed: NDArray[np.uint8],
    scales: NDArray[np.float32],
    *,
    out_features: int,
    in_features: int,
    group_size: int,
    divides: bool = False,
    threads: int = 1,
) -> PreparedWeight:
    """Lays a ternary weight out as `prepare` does, straight from trits as a file holds them.

    Args:
        packed: uint8 [P, ceil(N K / 5)], five trits to a byte, row after row without a gap; plane 0 is the
            most significant.
        scales: float32 [1 or N, G].
        out_features: N.
        in_features: K.
        group_size: weights per group: K where G is 1, else a multiple of 32.
        divides: the scale divides instead of multiplying (needs G = 1).
        threads: threads to use.

    Raises:
        ValidationError: a byte above 242, or a shape that does not fit.
    """
    return _native.prepare_packed(packed, scales, out_features, in_features, group_size, divides, threads)


@refuses_bad_arrays
def ternary_matmul(
    weight: PreparedWeight, q: NDArray[np.int8], scale: NDArray[np.float32], *, threads: int = 1
) -> NDArray[np.float32]:
    """Multiplies quantized activations int8 [M, Kp] with scales [M] by a ternary weight: float32 [M, N].

    Groups are added in rising order, each one's exact integer sum times its scale; then one division by the
    activation's scale. Where the weight divides: sum / (weight scale x activation scale).
    """
    return _native.ternary_matmul(weight, q, scale, threads)


@refuses_bad_arrays
def ternary_accumulate(weight: PreparedWeight, q: NDArray[np.int8]) -> NDArray[np.int32]:
    """Computes the exact integer sums behind `ternary_matmul`: int32 [M, N, G]."""
    return _native.ternary_accumulate(weight, q)


@refuses_bad_arrays
def ternary_lookup(weight: PreparedWeight, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Reads rows `ids` int32 [T] of a ternary weight as floats, levels with their scales: float32 [T, K]."""
    return _native.ternary_lookup(weight, ids)


@refuses_bad_arrays
def dense_matmul(
    x: NDArray[np.float32], weight: NDArray[np.float32 | np.uint16], *, threads: int = 1
) -> NDArray[np.float32]:
    """Multiplies x float32 [M, K] by weight [N, K], float32 or bfloat16 bits in uint16: float32 [M, N]."""
    return _native.dense_matmul(x, weight, threads)


@refuses_bad_arrays
def embedding_lookup(weight: NDArray[np.float32 | np.uint16], ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Reads rows `ids` int32 [T] of a table [V, D], float32 or bfloat16 bits: float32 [T, D]."""
    return _native.embedding_lookup(weight, ids)


@refuses_bad_arrays
def round_to_codes(
    weight: NDArray[np.float32 | np.uint16], *, bits: int, threads: int = 1
) -> tuple[CodedWeight, float]:
    """Rounds a matrix [N, K], float32 or bfloat16 bits, to codes of 6 or 8 bits with a scale per 32 inputs.

    Each group takes the bfloat16 scale near absmax / (2^(bits - 1) - 1) that makes its squared error
    smallest. Returns the codes and the relative root-mean-square error.

    Raises:
        ValidationError: bits that are neither 6 nor 8, or a weight that is not finite or beyond 10^15.
    """
    coded, errors = round_rows_to_codes(weight, bits=bits, threads=threads)
    return coded, relative_error(errors)


@refuses_bad_arrays
def round_rows_to_codes(
    weight: NDArray[np.float32 | np.uint16], *, bits: int, threads: int = 1
) -> tuple[CodedWeight, NDArray[np.float64]]:
    """Rounds as `round_to_codes` does, for rows of a larger matrix: the first of them a multiple of 16.

    Returns the codes, and the squared error and the squared weights of every 16 rows: float64 [N / 16, 2].
    """
    tiles, errors = _native.round_to_codes(weight, bits, threads)
    coded = CodedWeight(tiles=tiles, bits=bits, in_features=weight.shape[1], out_features=weight.shape[0])
    return coded, errors


def relative_error(errors: NDArray[np.float64]) -> float:
    """Return the relative root-mean-square error of what `round_rows_to_codes` measured, [N / 16, 2]."""
    error, total = errors.sum(axis=0)
    return float(error / total) ** 0.5 if total else 0.0


@refuses_bad_arrays
def prepare_coded(weight: CodedWeight, *, threads: int = 1) -> CodedMatrix:
    """Copies a coded matrix to memory that the kernels read fastest, and checks every code and scale.

    Raises:
        ValidationError: a code or a scale that rounding never makes: the weight is damaged.
    """
    return _native.prepare_coded(weight.tiles, weight.out_features, weight.in_features, weight.bits, threads)


@refuses_bad_arrays
def coded_matmul(
    weight: CodedMatrix, q: NDArray[np.int8], scale: NDArray[np.float32], *, threads: int = 1
) -> NDArray[np.float32]:
    """Multiplies quantized activations int8 [M, Kp] with scales [M] by a coded matrix: float32 [M, N].

    Groups are added in rising order, each one's exact integer sum times its scale; then one division by the
    activation's scale.
    """
    return _native.coded_matmul(weight, q, scale, threads)


@refuses_bad_arrays
def coded_lookup(weight: CodedMatrix, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Reads rows `ids` int32 [T] of a coded matrix as floats: float32 [T, K]."""
    return _native.coded_lookup(weight, ids)


@refuses_bad_arrays
def rms_norm(x: NDArray[np.float32], weight: NDArray[np.float32], *, eps: float) -> NDArray[np.float32]:
    """Divides each row of x [M, D] by its root mean square and multiplies by weight [D]."""
    return _native.rms_norm(x, weight, eps)


@refuses_bad_arrays
def layer_norm(
    x: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32], *, eps: float
) -> NDArray[np.float32]:
    """Normalises each row of x [M, D] to mean 0 and variance 1, then applies weight and bias [D]."""
    return _native.layer_norm(x, weight, bias, eps)


@refuses_bad_arrays
def silu_multiply(gate: NDArray[np.float32], up: NDArray[np.float32]) -> NDArray[np.float32]:
    """SwiGLU: gate x sigmoid(gate) x up, elementwise on [M, D]."""
    return _native.silu_multiply(gate, up)


@refuses_bad_arrays
def relu2_multiply(gate: NDArray[np.float32], up: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared ReLU of gate times up, elementwise on [M, D]."""
    return _native.relu2_multiply(gate, up)


@refuses_bad_arrays
def gelu_tanh_multiply(gate: NDArray[np.float32], up: NDArray[np.float32]) -> NDArray[np.float32]:
    """GELU of gate, approximated with a hyperbolic tangent, times up, elementwise on [M, D]."""
    return _native.gelu_tanh_multiply(gate, up)


@refuses_bad_arrays
def gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The erf GELU, elementwise on [M, D]; absolute error of erf below 3e-7."""
    return _native.gelu(x)


@refuses_bad_arrays
def bound(x: NDArray[np.float32], *, cap: float) -> NDArray[np.float32]:
    """Bounds each element of x [M, D] smoothly, cap x tanh(x / cap); NaN where it is not finite."""
    return _native.bound(x, cap)


@refuses_bad_arrays
def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over each row of x [M, D]."""
    return _native.softmax(x)


@refuses_bad_arrays
def rope_inplace(
    x: NDArray[np.float32],
    positions: NDArray[np.int32],
    inv_freq: NDArray[np.float32],
    *,
    scaling: float = 1.0,
) -> None:
    """Rotates x [T, H, D] in place by positions int32 [T] times inv_freq [D/2]; pairs are (i, i + D/2)."""
    _native.rope_inplace(x, positions, inv_freq, scaling)
