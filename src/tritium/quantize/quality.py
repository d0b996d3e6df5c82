"""How far a quantized layer is from its source: on the weights and on real activations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tritium.kernels.cpu import dense_matmul, prepare, quantize_activations, ternary_matmul
from tritium.quantize.weights import map_chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tritium.quantize.weights import QuantizedWeights


def weight_error(weights: NDArray[np.float32], quantized: QuantizedWeights, *, threads: int = 1) -> float:
    """Return |W - W'| / |W| in the Frobenius norm, for W float32 [N, K]; 0 for an all-zero matrix."""

    def measure(rows: slice) -> tuple[float, float]:
        source = weights[rows].astype(np.float64)
        error = float(np.square(source - quantized.dequantized(rows)).sum())
        return error, float(np.square(source).sum())

    measured = map_chunks(measure, *weights.shape, threads=threads)
    return _relative(sum(error for error, _ in measured), sum(energy for _, energy in measured))


def output_error(
    weights: NDArray[np.float32],
    quantized: QuantizedWeights,
    *,
    activations: NDArray[np.float32],
    source_activations: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> float:
    """Return |Y - Y'| / |Y| on activations float32 [M, K], with Y' as the ternary kernel computes it.

    Y' includes the int8 quantization of the activations, so it is the error that the model will really make.
    Y is computed from `source_activations` where they are given. The threads do not change the result.
    """
    found = output_errors(
        weights, [quantized], activations=activations, source_activations=source_activations, threads=threads
    )
    return found[0]


def output_errors(
    weights: NDArray[np.float32],
    candidates: Sequence[QuantizedWeights],
    *,
    activations: NDArray[np.float32],
    source_activations: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> list[float]:
    """Return the `output_error` of each of several quantized weights, whose source is multiplied once."""
    wanted = activations if source_activations is None else source_activations
    source = dense_matmul(wanted, weights, threads=threads)
    energy = float(np.square(source, dtype=np.float64).sum())
    codes, scale = quantize_activations(activations, threads=threads)
    errors = []
    for quantized in candidates:
        weight = prepare(quantized.ternary_weight(), threads=threads)
        output = ternary_matmul(weight, codes, scale, threads=threads)
        missed = np.subtract(source, output, dtype=np.float64)
        errors.append(_relative(float(np.square(missed, out=missed).sum()), energy))
    return errors


def _relative(error: float, energy: float) -> float:
    if energy == 0:
        return 0.0 if error == 0 else 1.0
    return math.sqrt(error / energy)  # NaN stays NaN; the layer is refused by its name
