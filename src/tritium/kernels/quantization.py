"""Weights to trits on this machine's processor; the twins are in `tritium.kernels.reference_quantization`.

Weights are read as they lie in a checkpoint: float32, float16, or bfloat16 bits in uint16. Sums are float64
in one fixed order, so that a result depends neither on the threads nor on the instruction set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.kernels import _native
from tritium.kernels.checks import refuses_bad_arrays
from tritium.kernels.device import use_detected_isa

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

use_detected_isa()


@refuses_bad_arrays
def first_not_finite(values: NDArray[Any], *, threads: int = 1) -> int:
    """Finds the first NaN or infinity of floating-point values [n], uint16 being bfloat16 bits; -1: none.

    Raises:
        ValidationError: values that are no floating-point numbers, or are not contiguous.
    """
    return _native.first_not_finite(values, threads)


@refuses_bad_arrays
def absmean(
    weights: NDArray[Any], *, group_size: int | None = None, threads: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Ternarises [N, K] by the mean magnitude of the tensor, of rows or of groups.

    A weight becomes rint(w x (1 / scale)), at most 1, as the training of BitNet b1.58 does it.

    Args:
        weights: float32, float16 or bfloat16 bits [N, K].
        group_size: weights of a row that share a scale: K, or a multiple of 32; None: one for the tensor.
        threads: threads to use.

    Returns:
        The trits in the portable layout uint8 [N, Kp / 4], and the scales, mean magnitudes of at least 1e-5:
        float32 [N, G], or [1, 1] for the tensor.

    Raises:
        ValidationError: another dtype or shape, a group size that is not possible, NaN or infinity.
    """
    return _native.absmean(weights, 0 if group_size is None else group_size, threads)


@refuses_bad_arrays
def least_squares_scales(
    weights: NDArray[Any], *, group_size: int | None, threads: int = 1
) -> NDArray[np.float32]:
    """Finds the scale s of every group for which s x trits has the least squared error, exactly.

    Args:
        weights: float32, float16 or bfloat16 bits [N, K].
        group_size: weights of a row that share a scale, at the end perhaps fewer; None: the whole tensor.
        threads: threads to use.

    Returns:
        float32 [N, G], or [1, 1] for the tensor; of equally good scales the one of the fewest weights.

    Raises:
        ValidationError: another dtype or shape, a group size that is not possible, NaN or infinity.
    """
    return _native.least_squares_scales(weights, 0 if group_size is None else group_size, threads)


@refuses_bad_arrays
def round_levels(
    weights: NDArray[np.float32],
    scales: NDArray[np.float32],
    *,
    group_size: int,
    limit: int,
    threads: int = 1,
) -> NDArray[np.int8]:
    """Rounds float32 [N, K] to multiples of its groups' scales, half to even: int8 [N, K].

    Args:
        weights: float32 [N, K].
        scales: float32 [1 or N, G]; a scale of 0 gives 0.
        group_size: weights of a row that share a scale.
        limit: the largest level, up to 127.
        threads: threads to use.

    Raises:
        ValidationError: a dtype or a shape that does not fit.
    """
    return _native.round_levels(weights, scales, group_size, limit, threads)
