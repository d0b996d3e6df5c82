"""Embeddings and heads become coded matrices: 6 or 8 bits a weight and a scale per 32 weights of a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tritium.errors import ValidationError
from tritium.formats.storage import write_file_atomically
from tritium.kernels import cpu
from tritium.kernels.coded import CODE_BITS, CODE_GROUP, CODE_ROWS, tiles_shape
from tritium.kernels.device import select_optimal_device

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tritium.quantize.source import Source

CHUNK_WEIGHTS = 1 << 24  # rounded at a time


def code_tables(
    source: Source, tensors: dict[str, NDArray[Any]], *, bits: int, workdir: Path, threads: int | None
) -> dict[str, dict[str, Any]]:
    """Put codes of 6 or 8 bits in the place of embedding and head in `tensors`; other bits change nothing.

    A table is read, rounded and written to the work directory piece by piece; its codes are memory-mapped.

    Returns:
        The entries of the manifest by matrix, with what rounding cost.

    Raises:
        ValidationError: a matrix holds a value that codes cannot.
        ResourceError: the disk is full.
    """
    if bits not in CODE_BITS:
        return {}
    entries = {}
    count = threads or select_optimal_device(0).threads
    for name in source.tables():
        rows, columns = tensors.pop(name).shape
        stem = name.removesuffix(".weight")
        file, shape = workdir / f"{stem}.codes", tiles_shape(rows, columns, bits=bits)
        errors: list[NDArray[np.float64]] = []
        write_file_atomically(file, _rounded(source, name, bits=bits, threads=count, errors=errors))
        codes = np.memmap(file, np.uint8, mode="r", shape=shape)
        tensors[f"{stem}.codes"] = codes
        entries[stem] = {
            "bits": bits,
            "group_size": CODE_GROUP,
            "out_features": rows,
            "in_features": columns,
            "parameters": rows * columns,
            "stored_bytes": codes.nbytes,
            "bits_per_weight": 8 * codes.nbytes / (rows * columns),
            "weight_error": cpu.relative_error(np.concatenate(errors)),
        }
    return entries


def _rounded(
    source: Source, name: str, *, bits: int, threads: int, errors: list[NDArray[np.float64]]
) -> Iterator[memoryview]:
    """Yield the codes of a table in the order of its rows, and put the errors of every piece on a list."""
    rows, columns = source.checkpoint.tensors[name].shape
    step = max(1, CHUNK_WEIGHTS // (columns * CODE_ROWS)) * CODE_ROWS
    for start in range(0, rows, step):
        weight = source.dense_rows(name, range(start, min(start + step, rows)))
        try:
            coded, found = cpu.round_rows_to_codes(weight, bits=bits, threads=threads)
        except ValidationError as refused:
            raise ValidationError(
                f"{name} cannot become codes of {bits} bits: {refused}", tensor=name
            ) from refused
        errors.append(found)
        yield coded.tiles.data
