"""Ternary weights that learn: forwards the rounded ones, backwards as if nothing had been rounded.

The gradient passes the rounding unchanged (the straight-through estimator, arXiv 1308.3432) where a weight is
within the grid; the scale of a group learns from what rounding did to its weights (LSQ, arXiv 1902.08153).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tritium.quantize.weights import QuantizedWeights, level_limit, storable

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALLEST_SCALE = 1e-8


class TernaryParameter(nn.Module):
    """Latent weights [N, K] and scales [N, G] that stand for levels x scales.

    Args:
        quantized: where learning starts from; its levels are the rounding of the latent weights.
        source: the source's weights, float32 [N, K]: within its level a latent weight leans towards them.
    """

    def __init__(self, quantized: QuantizedWeights, source: NDArray[np.float32]) -> None:
        super().__init__()
        self._group_size, self._planes = quantized.group_size, quantized.planes
        self._limit = level_limit(quantized.planes)
        scales = np.repeat(quantized.scales_float32, len(source) // len(quantized.scales), axis=0)
        if quantized.divides:
            scales = np.reciprocal(scales)
        dequantized = quantized.dequantized()
        room = 0.45 * np.repeat(scales, self._group_size, axis=1)[:, : source.shape[1]]
        lean = np.clip(source - dequantized, -room, room)
        self.latent = nn.Parameter(torch.from_numpy(dequantized + np.float32(0.5) * lean.astype(np.float32)))
        self.scales = nn.Parameter(torch.from_numpy(scales))

    def forward(self) -> torch.Tensor:
        """Return the weights as they are rounded, [N, K]."""
        in_levels, scales = self._in_levels()
        rounded = in_levels.detach().round().clamp(-self._limit, self._limit)
        is_inside = in_levels.detach().abs() <= self._limit + 0.5
        moved = torch.where(is_inside, in_levels - in_levels.detach(), torch.zeros_like(in_levels))
        weights = scales * (rounded + moved)
        return weights.reshape(len(self.latent), -1)[:, : self.latent.shape[1]]

    @torch.no_grad()
    def quantized(self) -> QuantizedWeights:
        """Return the levels and the scales as they are stored."""
        in_levels, _ = self._in_levels()
        levels = in_levels.round().clamp(-self._limit, self._limit).reshape(len(self.latent), -1)
        scales = self.scales.abs().clamp_min(SMALLEST_SCALE).numpy()
        stored, unit = storable(scales)
        return QuantizedWeights(
            levels=np.ascontiguousarray(levels[:, : self.latent.shape[1]].to(torch.int8).numpy()),
            scales=stored,
            planes=self._planes,
            group_size=self._group_size,
            scale_unit=unit,
        )

    def _in_levels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latent weights in units of their scales, [N, G, group], and the scales, [N, G, 1]."""
        rows, columns = self.latent.shape
        missing = self.scales.shape[1] * self._group_size - columns
        latent = functional.pad(self.latent, (0, missing)).view(rows, -1, self._group_size)
        scales = self.scales.abs().clamp_min(SMALLEST_SCALE)[:, :, None]
        return latent / scales, scales
