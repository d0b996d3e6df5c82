"""Ternary weights that learn: forwards the rounded ones, backwards as if nothing had been rounded.

The gradient passes the rounding unchanged (the straight-through estimator, arXiv 1308.3432) where a weight is
within the grid; the scale of a group learns from what rounding did to its weights (LSQ, arXiv 1902.08153).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
        latent, scales = self._grouped()
        weights: torch.Tensor = _Rounding.apply(latent, scales, self._limit)  # type: ignore[no-untyped-call]
        return weights.reshape(len(self.latent), -1)[:, : self.latent.shape[1]]

    @torch.no_grad()
    def quantized(self) -> QuantizedWeights:
        """Return the levels and the scales as they are stored."""
        latent, grouped_scales = self._grouped()
        levels = _levels(latent / grouped_scales, self._limit).reshape(len(self.latent), -1)
        scales = self.scales.abs().clamp_min(SMALLEST_SCALE).numpy()
        stored, unit = storable(scales)
        return QuantizedWeights(
            levels=np.ascontiguousarray(levels[:, : self.latent.shape[1]].to(torch.int8).numpy()),
            scales=stored,
            planes=self._planes,
            group_size=self._group_size,
            scale_unit=unit,
        )

    def _grouped(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latent weights, [N, G, group], and the scales, [N, G, 1]."""
        rows, columns = self.latent.shape
        missing = self.scales.shape[1] * self._group_size - columns
        latent = functional.pad(self.latent, (0, missing)).view(rows, -1, self._group_size)
        return latent, self.scales.abs().clamp_min(SMALLEST_SCALE)[:, :, None]


class _Rounding(torch.autograd.Function):
    """Levels times scales; backwards, a weight within the grid moves as if it had not been rounded."""

    @staticmethod
    def forward(ctx: Any, latent: torch.Tensor, scales: torch.Tensor, limit: int) -> torch.Tensor:
        in_levels = latent / scales
        levels = _levels(in_levels, limit)
        ctx.save_for_backward(in_levels, levels)
        ctx.limit = limit
        return scales * levels

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        in_levels, levels = ctx.saved_tensors
        is_inside = in_levels.abs() <= ctx.limit + 0.5
        of_scales = (gradient * (levels - in_levels * is_inside)).sum(dim=-1, keepdim=True)
        return gradient * is_inside, of_scales, None


def _levels(in_levels: torch.Tensor, limit: int) -> torch.Tensor:
    return in_levels.round().clamp_(-limit, limit)
