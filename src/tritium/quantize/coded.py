"""Embeddings and heads become coded matrices: 6 or 8 bits a weight and a scale per 32 weights of a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritium.errors import ValidationError
from tritium.kernels import cpu
from tritium.kernels.coded import CODE_BITS, CODE_GROUP
from tritium.kernels.device import select_optimal_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tritium.quantize.source import Source


def code_tables(
    source: Source, tensors: dict[str, NDArray[Any]], *, bits: int, threads: int | None
) -> dict[str, dict[str, Any]]:
    """Put codes of 6 or 8 bits in the place of embedding and head in `tensors`; other bits change nothing.

    Returns:
        The entries of the manifest by matrix, with what rounding cost.

    Raises:
        ValidationError: a matrix holds a value that codes cannot.
    """
    if bits not in CODE_BITS:
        return {}
    entries = {}
    for name in source.tables():
        stem = name.removesuffix(".weight")
        weight = source.weights.dense(name.removeprefix(source.weights.prefix))
        count = threads or select_optimal_device(0).threads
        try:
            coded, error = cpu.round_to_codes(weight, bits=bits, threads=count)
        except ValidationError as refused:
            raise ValidationError(
                f"{name} cannot become codes of {bits} bits: {refused}", tensor=name
            ) from refused
        del tensors[name]
        tensors[f"{stem}.codes"] = coded.tiles
        entries[stem] = {
            "bits": bits,
            "group_size": CODE_GROUP,
            "out_features": coded.out_features,
            "in_features": coded.in_features,
            "parameters": weight.size,
            "stored_bytes": coded.nbytes,
            "bits_per_weight": 8 * coded.nbytes / weight.size,
            "weight_error": error,
        }
    return entries
