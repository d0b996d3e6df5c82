"""The standard strategy: for every group the scale and threshold of least squared error, exactly.

For one scale s, the best trits are sign(w) where |w| > s/2, so the best support is always "the k largest".
With the k largest |w| the best scale is their mean and the error falls by (sum of them)^2 / k: sorting and
trying every k finds the optimum, with no search and no parameter. The kernel leaves out every k that cannot
be the best.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.kernels.quantization import least_squares_scales
from tritium.quantize.weights import QuantizedWeights, with_scales

if TYPE_CHECKING:
    from numpy.typing import NDArray


def quantize_standard(weights: NDArray[np.float32], *, group_size: int, threads: int = 1) -> QuantizedWeights:
    """Quantize float32 [N, K] to one trit-plane with the least-squares scale of every group.

    The threads do not change the result.
    """
    weights = np.ascontiguousarray(weights)
    scales = least_squares_scales(weights, group_size=group_size, threads=threads)
    return with_scales(weights, scales, planes=1, group_size=group_size, threads=threads)
