"""The absmean strategy: one scale, the mean absolute weight, for the whole tensor.

It is right for models that were trained with it (BitNet b1.58), where it reproduces the trits of the training
run; on other models it is the control that the other strategies are measured against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.formats.bitnet_hf import ternarise_online
from tritium.quantize.weights import QuantizedWeights

if TYPE_CHECKING:
    from numpy.typing import NDArray


def quantize_absmean(weights: NDArray[np.float32]) -> QuantizedWeights:
    """Quantize float32 [N, K] as BitNet's training does; the scale is 1 / mean|W| and divides."""
    trits, scale = ternarise_online(weights)
    return QuantizedWeights(
        levels=trits,
        scales=np.array([[scale]], dtype=np.float32),
        planes=1,
        group_size=weights.shape[1],
        divides=True,
    )
