"""What one coded matrix is: integer codes of 6 or 8 bits with a scale per row and group of 32 inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import ValidationError
from tritium.kernels.weight import MAX_IN_FEATURES

if TYPE_CHECKING:
    from numpy.typing import NDArray

CODE_BITS = (6, 8)
CODE_GROUP = 32  # inputs that share a scale
CODE_BLOCK = 64  # inputs of a block of the layout
CODE_ROWS = 16  # rows of a tile
_SCALE_BYTES = 64  # of a block


@dataclass(frozen=True, kw_only=True, eq=False)
class CodedWeight:
    """A coded matrix as files hold it: W[n, k] = (code[n, k] - 2^(bits - 1)) x scale[n, k // 32].

    Attributes:
        tiles: uint8 of `tiles_shape`: 16 rows by 64 inputs to a block of whole cache lines, codes first, then
            bfloat16 scales. `csrc/coded.h` draws it; the kernels read the same bytes.
        bits: 6 or 8.
        in_features: K.
        out_features: N.

    Raises:
        ValidationError: a shape, a dtype or a number does not fit the others.
    """

    tiles: NDArray[np.uint8]
    bits: int
    in_features: int
    out_features: int

    def __post_init__(self) -> None:
        expected = tiles_shape(self.out_features, self.in_features, bits=self.bits)
        tiles = self.tiles
        if tiles.dtype != np.uint8 or tiles.shape != expected or not tiles.flags.c_contiguous:
            raise ValidationError(
                f"tiles must be a C-contiguous uint8 array of shape {expected}, "
                f"not {tiles.dtype} of shape {tiles.shape}."
            )

    @property
    def nbytes(self) -> int:
        """The bytes of codes and scales."""
        return self.tiles.nbytes


def tiles_shape(out_features: int, in_features: int, *, bits: int) -> tuple[int, int, int]:
    """Return the shape of a coded matrix's tiles: rows / 16, inputs / 64, bytes of a block.

    Raises:
        ValidationError: bits that are neither 6 nor 8, or sizes that are not possible.
    """
    if bits not in CODE_BITS:
        raise ValidationError(f"A code has 6 or 8 bits, not {bits}.", field="bits")
    if not 1 <= in_features <= MAX_IN_FEATURES or out_features < 1:
        raise ValidationError(
            f"A coded matrix of {out_features} x {in_features} is not possible: out_features must be at "
            f"least 1 and in_features between 1 and {MAX_IN_FEATURES}."
        )
    block = CODE_ROWS * CODE_BLOCK * bits // 8 + _SCALE_BYTES
    return -(-out_features // CODE_ROWS), -(-in_features // CODE_BLOCK), block
