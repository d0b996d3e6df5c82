"""What one ternary linear map is, in the layout that the kernels read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 128  # weights per block of the compute layout; a block is 32 bytes
CHUNK = 32  # a group of weights is a multiple of this
MAX_PLANES = 3
MAX_IN_FEATURES = 1 << 19  # 2^19 x 128 x 26, the sum of the kernels' unsigned codes, stays inside an int32


@dataclass(frozen=True, kw_only=True, eq=False)
class TernaryWeight:
    """The weight of a ternary linear map: y = W x, W[n, k] = scale[n, k's group] x sum_p 3^(P-1-p) T_p[n, k].

    Attributes:
        planes: uint8 [P, N, Kp/4], trits in the compute layout; plane 0 is the most significant.
        scales: float32 [1 or N, G]; G is the number of groups along K (1 = the whole row).
        group_size: weights per group: K where G is 1, else a multiple of 32.
        in_features: K.
        out_features: N.
        divides: the scale divides instead of multiplying (needs G = 1).

    Raises:
        ValidationError: a shape, a dtype or a number does not fit the others.
    """

    planes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    group_size: int
    in_features: int
    out_features: int
    divides: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.in_features <= MAX_IN_FEATURES or self.out_features < 1:
            raise ValidationError(
                f"A ternary weight of {self.out_features} x {self.in_features} is not possible: out_features "
                f"must be at least 1 and in_features between 1 and {MAX_IN_FEATURES}."
            )
        self._check_groups()
        planes = self.planes
        expected = (self.out_features, padded(self.in_features) // 4)
        if planes.dtype != np.uint8 or planes.ndim != 3 or planes.shape[1:] != expected:  # noqa: PLR2004 - P, N, Kp/4
            raise ValidationError(
                f"planes must be uint8 of shape (P, {expected[0]}, {expected[1]}), "
                f"not {planes.dtype} of shape {planes.shape}."
            )
        if not 1 <= planes.shape[0] <= MAX_PLANES:
            raise ValidationError(f"A weight has 1 to {MAX_PLANES} planes, not {planes.shape[0]}.")
        scales = self.scales
        if scales.dtype != np.float32 or scales.shape not in {
            (1, self.groups),
            (self.out_features, self.groups),
        }:
            raise ValidationError(
                f"scales must be float32 of shape (1 or {self.out_features}, {self.groups}), "
                f"not {scales.dtype} of shape {scales.shape}."
            )
        if not (planes.flags.c_contiguous and scales.flags.c_contiguous):
            raise ValidationError(
                "planes and scales must be C-contiguous; pass them through np.ascontiguousarray."
            )

    def _check_groups(self) -> None:
        if self.group_size != self.in_features and (self.group_size < CHUNK or self.group_size % CHUNK):
            raise ValidationError(
                f"group_size must be in_features ({self.in_features}) or a multiple of {CHUNK}, "
                f"not {self.group_size}."
            )
        if self.divides and self.groups != 1:
            raise ValidationError(
                "A weight whose scale divides has one group per row: group_size must be in_features."
            )

    @property
    def groups(self) -> int:
        """The number of groups along K."""
        return -(-self.in_features // self.group_size)

    @property
    def nbytes(self) -> int:
        """The bytes held in memory by planes and scales."""
        return self.planes.nbytes + self.scales.nbytes


def padded(in_features: int) -> int:
    """Rounds K up to whole blocks of the compute layout."""
    return -(-in_features // BLOCK) * BLOCK
