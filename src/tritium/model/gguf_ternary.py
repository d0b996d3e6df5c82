"""A ternary layer as tensors of a GGUF file: one for each trit-plane, or one whole tensor in I2_S.

All planes of a layer carry its scales unchanged; the layer is 3 x (3 x first + second) + third, as long as
there are that many (docs/decisions/0009).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from tritium.errors import ValidationError
from tritium.formats.gguf import BLOCKS, GGUFTensor, TensorType
from tritium.formats.gguf_blocks import BLOCK, encode_i2_s, encode_tq1_0, encode_tq2_0
from tritium.kernels import packing
from tritium.model.gguf_names import plane_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tritium.kernels.weight import TernaryWeight

SMALLEST_HALF: Final = 2.0**-14  # of those with all bits
LARGEST_HALF: Final = 65504.0


@dataclass(frozen=True)
class TernaryLayer:
    """A ternary layer to be written.

    Attributes:
        name: the layer in the source, for messages.
        target: the layer in the file ("blk.0.ffn_up").
        weight: reads it anew each time: a plan that kept all layers would be the model.
        order: which of our rows stands where.
    """

    name: str
    target: str
    weight: Callable[[], TernaryWeight]
    order: npt.NDArray[np.int64]

    def tensors(self, kind: TensorType) -> tuple[list[GGUFTensor], float]:
        """Return its tensors, the most significant plane first, and the largest rounding of a scale.

        Raises:
            ValidationError: it does not fit that type without loss.
        """
        weight = self.weight()
        if kind is TensorType.I2_S:
            scale, rounding = _single_scale(self.name, weight)
            return [self._whole(weight, scale)], rounding
        _require_blocks(self.name, weight)
        scales, rounding = _half_scales(self.name, weight)
        return [self._plane(kind, index, scales) for index in range(len(weight.planes))], rounding

    def _plane(self, kind: TensorType, index: int, scales: npt.NDArray[np.float16]) -> GGUFTensor:
        encode = encode_tq1_0 if kind is TensorType.TQ1_0 else encode_tq2_0
        order = self.order

        def pieces() -> Iterator[memoryview]:
            yield encode(self._trits(index), scales[order]).data

        shape = (len(order), scales.shape[1] * BLOCK)
        return GGUFTensor(plane_name(self.target, index), shape, kind, pieces)

    def _whole(self, weight: TernaryWeight, scale: np.float32) -> GGUFTensor:
        def pieces() -> Iterator[memoryview]:
            yield encode_i2_s(self._trits(0), scale).data

        shape = (weight.out_features, weight.in_features)
        return GGUFTensor(f"{self.target}.weight", shape, TensorType.I2_S, pieces)

    def _trits(self, plane: int) -> npt.NDArray[np.int8]:
        weight = self.weight()
        return packing.from_compute_layout(weight.planes[plane], count=weight.in_features)[self.order]


def _half_scales(name: str, weight: TernaryWeight) -> tuple[npt.NDArray[np.float16], float]:
    """Return an fp16 scale for each row and block of 256, [N, K / 256], and what rounding changed."""
    exact = _multiplying(weight)
    if not SMALLEST_HALF <= float(np.abs(exact).max(initial=0)) <= LARGEST_HALF:
        raise ValidationError(
            f"The scales of {name} are outside what fp16 holds: TQ1_0 and TQ2_0 cannot hold them. "
            "`--to huggingface` keeps them as they are.",
            layer=name,
        )
    rounded: npt.NDArray[np.float16] = exact.astype(np.float16)
    off = np.abs(rounded - exact) / np.where(exact == 0, 1, np.abs(exact))
    blocks = np.arange(weight.in_features // BLOCK) * BLOCK // weight.group_size
    spread = np.broadcast_to(rounded[:, blocks], (weight.out_features, len(blocks)))
    return np.ascontiguousarray(spread), float(off.max())


def _single_scale(name: str, weight: TernaryWeight) -> tuple[np.float32, float]:
    problem = ""
    if weight.planes.shape[0] != 1:
        problem = f"it has {weight.planes.shape[0]} planes: quantize with max_planes 1, or choose tq2_0"
    elif weight.scales.size != 1:
        problem = (
            "I2_S has one scale for the whole tensor, this layer has "
            f"{weight.scales.size}: quantize with the strategy absmean and max_planes 1, or choose tq2_0"
        )
    elif weight.in_features % BLOCKS[TensorType.I2_S][0]:
        problem = (
            f"its rows of {weight.in_features} weights are no multiple of {BLOCKS[TensorType.I2_S][0]}: "
            "no GGUF type holds them, `--to huggingface` does"
        )
    if problem:
        raise ValidationError(f"The layer {name} cannot be written as I2_S: {problem}.", layer=name)
    exact = float(_multiplying(weight)[0, 0])
    scale = np.float32(exact)
    return scale, abs(float(scale) - exact) / exact


def _multiplying(weight: TernaryWeight) -> npt.NDArray[np.float64]:
    exact = weight.scales.astype(np.float64)
    return 1 / exact if weight.divides else exact


def _require_blocks(name: str, weight: TernaryWeight) -> None:
    problem = ""
    if weight.in_features % BLOCK:
        problem = (
            f"its rows of {weight.in_features} weights are no multiple of {BLOCK}, the block of TQ1_0 and "
            "TQ2_0: a tensor with one scale fits I2_S (a multiple of 128) or `--to huggingface`"
        )
    elif weight.groups > 1 and weight.group_size % BLOCK:
        problem = (
            f"a scale for each {weight.group_size} weights changes inside a block of {BLOCK}: quantize "
            f"again with group_size {BLOCK} (or 0: one scale a row)"
        )
    if problem:
        raise ValidationError(
            f"The layer {name} cannot be written to GGUF without loss: {problem}.", layer=name
        )
