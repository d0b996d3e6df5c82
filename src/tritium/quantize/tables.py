"""What becomes of embedding and head: codes, or trit-planes where that is asked for, or they stay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tritium.formats.native import TRITS_PER_BYTE
from tritium.formats.storage import write_file_atomically
from tritium.kernels import cpu
from tritium.kernels.device import select_optimal_device
from tritium.kernels.packing import pack_trits
from tritium.kernels.quantization import round_levels
from tritium.quantize.coded import CHUNK_WEIGHTS, code_tables
from tritium.quantize.planes import plane_scales
from tritium.quantize.weights import (
    QuantizedWeights,
    fits_exactly,
    level_limit,
    narrowest,
    split_levels,
    storable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tritium.quantize.config import QuantizationConfig
    from tritium.quantize.source import Source

DEFAULT_BITS = 6
UNCHANGED_BITS = 16


def rounded_tables(
    config: QuantizationConfig,
    source: Source,
    tensors: dict[str, NDArray[Any]],
    *,
    is_exact: bool,
    workdir: Path,
    threads: int | None,
) -> dict[str, dict[str, Any]]:
    """Put what embedding and head become in their place in `tensors`.

    Where nothing is asked for they become codes; where all layers are exactly the source's (`is_exact`) they
    stay, so that the whole model is. A table is read, rounded and written to the work directory piece by
    piece, and memory-mapped.

    Returns:
        The entries of the manifest by table, with what rounding cost.

    Raises:
        ValidationError: a table holds a value that codes cannot.
        ResourceError: the disk is full.
    """
    if config.embedding_planes is None:
        bits = config.embedding_bits or (UNCHANGED_BITS if is_exact else DEFAULT_BITS)
        return code_tables(source, tensors, bits=bits, workdir=workdir, threads=threads)
    count = threads or select_optimal_device(0).threads
    entries = {}
    for name in source.tables():
        stem, columns = name.removesuffix(".weight"), tensors.pop(name).shape[1]
        table = _Table(
            source=source,
            name=name,
            planes=config.embedding_planes,
            group_size=min(config.group_size or columns, columns),
            threads=count,
        )
        trits, scales, entries[stem] = table.rounded(workdir / f"{stem}.trits")
        tensors[f"{stem}.trits"], tensors[f"{stem}.scales"] = trits, scales
    return entries


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A table of a source that becomes ternary; it is never in memory as a whole."""

    source: Source
    name: str
    planes: int
    group_size: int
    threads: int

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.source.checkpoint.tensors[self.name].shape
        return rows, columns

    def rounded(self, file: Path) -> tuple[NDArray[np.uint8], NDArray[Any], dict[str, Any]]:
        """Return packed trits, memory-mapped from `file`, scales as they are stored, and the entry."""
        rows, columns = self.shape
        found = [self._least_squares(weights) for _, weights in self._pieces()]
        scales, unit = self._stored(np.concatenate(found))
        errors: list[NDArray[np.float64]] = []
        write_file_atomically(file, self._packed(scales, unit, errors))
        trits = np.memmap(file, np.uint8, mode="r", shape=(self.planes, -(-rows * columns // TRITS_PER_BYTE)))
        size = trits.nbytes + scales.nbytes
        entry = {
            "planes": self.planes,
            "group_size": self.group_size,
            "divides": False,
            "out_features": rows,
            "in_features": columns,
            "parameters": rows * columns,
            "stored_bytes": size,
            "bits_per_weight": 8 * size / (rows * columns),
            "weight_error": cpu.relative_error(np.array(errors[: len(found)])),
        }
        return trits, scales, entry if unit is None else {**entry, "scale_unit": unit}

    def _pieces(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield slices of rows whose trits end with a byte, and their weights."""
        rows, columns = self.shape
        step = max(1, CHUNK_WEIGHTS // (columns * TRITS_PER_BYTE)) * TRITS_PER_BYTE
        for start in range(0, rows, step):
            piece = range(start, min(start + step, rows))
            weights = self.source.checkpoint.read_rows_float32(self.name, piece)
            yield slice(piece.start, piece.stop), np.ascontiguousarray(weights)

    def _least_squares(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        return plane_scales(weights, planes=self.planes, group_size=self.group_size, threads=self.threads)

    def _stored(self, scales: NDArray[np.float32]) -> tuple[NDArray[Any], int | None]:
        """Round scales as those of layers are: not where that would lose a lossless fit."""
        is_exact = all(
            fits_exactly(weights, scales[rows], planes=self.planes, group_size=self.group_size)
            for rows, weights in self._pieces()
        )
        return narrowest(scales) if is_exact else storable(scales)

    def _packed(
        self, scales: NDArray[Any], unit: int | None, errors: list[NDArray[np.float64]]
    ) -> Iterator[memoryview]:
        """Yield the trits of all rows, plane after plane, and put the errors of every piece on a list."""
        for plane in range(self.planes):
            for rows, weights in self._pieces():
                quantized = self._quantized(weights, scales[rows], unit)
                difference = quantized.dequantized().astype(np.float64) - weights
                squares = [np.square(each, dtype=np.float64).sum() for each in (difference, weights)]
                errors.append(np.array(squares))
                digits = list(split_levels(quantized.levels.reshape(-1), planes=self.planes))
                yield pack_trits(digits[plane]).data

    def _quantized(
        self, weights: NDArray[np.float32], scales: NDArray[Any], unit: int | None
    ) -> QuantizedWeights:
        quantized = QuantizedWeights(
            levels=np.empty((0, 0), np.int8),
            scales=scales,
            planes=self.planes,
            group_size=self.group_size,
            scale_unit=unit,
        )
        levels = round_levels(
            weights,
            quantized.scales_float32,
            group_size=self.group_size,
            limit=level_limit(self.planes),
            threads=self.threads,
        )
        return replace(quantized, levels=levels)
