"""H = M D M' for a Hessian, and what is solved with it, with the same bits for every number of BLAS threads.

A BLAS may split one large product among threads, and where it splits decides how sums are rounded. Here
every product is one of small tiles, which OpenBLAS (what numpy's wheels carry) gives to one thread: it starts
threads above 64 x 64 x 64 multiplications. All between the tiles is elementwise, in a fixed order. Another
processor may round the products of tiles differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE = 48
# Columns beside a tile: TILE x TILE x WIDTH stays below what a BLAS gives to several threads.
WIDTH = 96


@dataclass(frozen=True, eq=False)
class Factor:
    """A positive definite matrix H = M D M'.

    Attributes:
        lower: M as tiles [n, n, TILE, TILE], lower triangular with ones on the diagonal; the tiles above
            the diagonal hold something else.
        pivots: D, float64 [n, TILE].
    """

    lower: NDArray[np.float64]
    pivots: NDArray[np.float64]

    @classmethod
    def of(cls, matrix: NDArray[np.float64]) -> Factor:
        """Factorise a matrix [K, K]; raises ValueError if it is not positive definite."""
        tiles = square_tiles(matrix)
        padding = np.arange(len(matrix) - (len(tiles) - 1) * TILE, TILE)
        tiles[-1, -1, padding, padding] = 1.0
        pivots = np.empty((len(tiles), TILE))
        for column in range(len(tiles)):
            below = tiles[column:, column].copy()
            for done in range(column):
                below -= np.matmul(tiles[column:, done], tiles[column, done].T)
            diagonal = _cholesky(below[0])
            tiles[column, column] = diagonal
            tiles[column + 1 :, column] = np.matmul(below[1:], _lower_inverse(diagonal).T)
            pivots[column] = diagonal.diagonal()
        for column in range(len(tiles)):
            tiles[column:, column] /= pivots[column]
        return cls(tiles, np.square(pivots))

    def solve(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return H^-1 B for B and the result as tiles [n, m, TILE, WIDTH]."""
        count, solved = len(self.lower), columns.copy()
        inverses = [_lower_inverse(self.lower[index, index]) for index in range(count)]
        for index in range(count):
            for done in range(index):
                solved[index] -= np.matmul(self.lower[index, done], solved[done])
            solved[index] = np.matmul(inverses[index], solved[index])
        solved /= self.pivots[:, None, :, None]
        for index in reversed(range(count)):
            for done in range(index + 1, count):
                solved[index] -= np.matmul(self.lower[done, index].T, solved[done])
            solved[index] = np.matmul(inverses[index].T, solved[index])
        return solved


def square_tiles(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a square matrix [K, K] as tiles [n, n, TILE, TILE], filled up with zeros."""
    size = len(matrix)
    count = -(-size // TILE)
    tiles = np.zeros((count, count, TILE, TILE))
    for index in range(count):
        band = np.zeros((TILE, count * TILE))
        rows = matrix[index * TILE : (index + 1) * TILE]
        band[: len(rows), :size] = rows
        tiles[index] = band.reshape(TILE, count, TILE).swapaxes(0, 1)
    return tiles


def column_tiles(columns: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return [K, N] as tiles [K / TILE, N / WIDTH, TILE, WIDTH], filled up with zeros."""
    size, width = columns.shape
    padded = np.zeros((-(-size // TILE) * TILE, -(-width // WIDTH) * WIDTH))
    padded[:size, :width] = columns
    return np.ascontiguousarray(padded.reshape(-1, TILE, padded.shape[1] // WIDTH, WIDTH).swapaxes(1, 2))


def from_column_tiles(tiles: NDArray[np.float64], *, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return what `column_tiles` made tiles of: [K, N]."""
    flat: NDArray[np.float64] = tiles.swapaxes(1, 2).reshape(len(tiles) * TILE, -1)
    return flat[: shape[0], : shape[1]]


def multiply(square: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the product of `square_tiles` and `column_tiles`, as the latter."""
    product = np.zeros_like(columns)
    for row in range(len(square)):
        for inner in range(len(square)):
            product[row] += np.matmul(square[row, inner], columns[inner])
    return product


def _cholesky(tile: NDArray[np.float64]) -> NDArray[np.float64]:
    rest, factor = tile.copy(), np.zeros_like(tile)
    for index in range(TILE):
        pivot = rest[index, index]
        if not 0 < pivot < np.inf:  # NaN too
            raise ValueError("the Hessian of its inputs is not positive definite")
        factor[index:, index] = rest[index:, index] / np.sqrt(pivot)
        column = factor[index + 1 :, index]
        rest[index + 1 :, index + 1 :] -= column[:, None] * column
    return factor


def _lower_inverse(factor: NDArray[np.float64]) -> NDArray[np.float64]:
    inverse = np.eye(TILE)
    for index in range(TILE):
        inverse[index] /= factor[index, index]
        inverse[index + 1 :] -= factor[index + 1 :, index, None] * inverse[index]
    return inverse
