"""The tensors of a GGUF file under our names, decoded one at a time when they are read.

A ternary layer appears as our own format has it (native.py): `L.trits` packed five to a byte and `L.scales`
with the bytes of the file, one where all are the same, one a row where all of a row are, else one a block.
Tensors that are the planes of one layer become that layer.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tritium.errors import ValidationError
from tritium.formats.gguf import TAILS, TensorType
from tritium.formats.gguf_decode import (
    TERNARY,
    dequantize,
    dequantize_ternary,
    ternary_scales,
    ternary_trits,
)
from tritium.formats.refusal import refusal
from tritium.formats.safetensors import TensorInfo
from tritium.kernels.packing import pack_trits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from tritium.formats.gguf_reader import StoredTensor
    from tritium.formats.gguf_shards import GGUFFiles

WEIGHTS_AT_ONCE = 1 << 20  # bounds the working memory of a decoder
TRITS_PER_BYTE = 5
AS_STORED = {TensorType.F32: "<f4", TensorType.F16: "<f2", TensorType.BF16: "<u2"}


class GGUFWeights:
    """What a Checkpoint reads from; closing it closes the files.

    Attributes:
        tensors: what there is to read, with the types and bytes of the file.
        linears: the ternary layers, as the manifest of a native model describes them.
    """

    def __init__(self, files: GGUFFiles) -> None:
        self.tensors: dict[str, TensorInfo] = {}
        self.linears: dict[str, dict[str, Any]] = {}
        self._files = files
        self._readers: dict[str, Callable[[], NDArray[Any]]] = {}
        self._by_rows: dict[str, StoredTensor] = {}  # whose rows can be decoded by themselves
        self._places: dict[str, Sequence[StoredTensor]] = {}

    def add_dense(self, name: str, stored: StoredTensor, *, interleaved: int = 0, added: float = 0.0) -> None:
        """Take a tensor under our name; F32, F16 and BF16 stay as they are, the rest becomes float32.

        Args:
            name: ours.
            stored: where it lies.
            interleaved: rows of a head whose halves are interleaved, as ggml rotates them; 0 for none.
            added: what the writer of the file added to every number; it is taken off in float32.
        """
        if added:
            read = partial(self._without, stored, np.float32(added))
            self._take(name, [stored], stored.shape, stored.nbytes, read, kind=TensorType.F32)
            return
        self._take(name, [stored], stored.shape, stored.nbytes, partial(self._dense, stored, interleaved))
        if not interleaved and stored.type not in TERNARY:
            self._by_rows[name] = stored

    def add_ternary(
        self,
        layer: str,
        planes: Sequence[StoredTensor],
        *,
        interleaved: int = 0,
        factor: NDArray[np.float32] | None = None,
    ) -> None:
        """Take ternary matrices as the trit-planes of the layer of this name, the most significant first.

        Args:
            layer: our name.
            planes: where they lie; each has the scales of the layer.
            interleaved: as in `add_dense`.
            factor: [1], multiplies trits without a scale.

        Raises:
            ValidationError: one is no matrix, planes differ in shape, type or scales, a scale is not finite,
                or there are scales and a factor.
        """
        stored = planes[0]
        if len(stored.shape) != 2:  # noqa: PLR2004 - a matrix
            raise self._wrong(stored, "a ternary layer is a matrix")
        for plane in planes[1:]:
            self._check_sibling(plane, stored)
        rows, columns = stored.shape
        scales = self._scales(stored, interleaved, factor)
        packed = (len(planes), -(-rows * columns // TRITS_PER_BYTE))
        codes = sum(plane.nbytes for plane in planes) - scales.nbytes
        self._take(f"{layer}.trits", planes, packed, codes, partial(self._trits, planes, interleaved))
        kind = TensorType.F16 if scales.dtype == np.float16 else TensorType.F32
        self._take(f"{layer}.scales", planes, scales.shape, scales.nbytes, lambda: scales, kind=kind)
        self.linears[layer] = {
            "planes": len(planes),
            "out_features": rows,
            "in_features": columns,
            "group_size": columns if scales.shape[1] == 1 else stored.block,
            "divides": False,
        }

    def read(self, tensor: TensorInfo) -> NDArray[Any]:
        """Return a tensor, read-only; bfloat16 comes as its bits in uint16.

        Raises:
            ValidationError: its bytes are none that an encoder writes.
        """
        values = self._readers[tensor.name]()
        values.flags.writeable = False
        return values

    def read_rows(self, tensor: TensorInfo, rows: Sequence[int] | range) -> NDArray[Any]:
        """Return rows of a matrix by number, decoded as `read` does; the pages that were read are let go."""
        stored = self._by_rows.get(tensor.name)
        if stored is None:
            chosen: NDArray[Any] = self.read(tensor)[list(rows)]
            return chosen
        data = self._files.data(stored).reshape(stored.shape[0], -1)[list(rows)].reshape(-1)
        self._files.forget(stored)
        if stored.type in AS_STORED:
            values: NDArray[Any] = data.view(AS_STORED[stored.type])
        else:
            values = self._checked(stored, partial(dequantize, stored.type, data))
        return values.reshape(len(rows), stored.shape[1])

    def forget(self, tensor: TensorInfo) -> None:
        """Let the system take back the pages of a tensor; it can be read again."""
        for stored in self._places[tensor.name]:
            self._files.forget(stored)

    def close(self) -> None:
        """Close the files; arrays read before stay valid."""
        self._files.close()

    def _take(
        self,
        name: str,
        places: Sequence[StoredTensor],
        shape: tuple[int, ...],
        nbytes: int,
        reader: Callable[[], NDArray[Any]],
        *,
        kind: TensorType | None = None,
    ) -> None:
        self.tensors[name] = TensorInfo(
            name=name,
            dtype=(kind or places[0].type).name,
            shape=shape,
            file=places[0].file,
            offset=places[0].offset,
            nbytes=nbytes,
        )
        self._places[name] = places
        self._readers[name] = reader

    def _dense(self, stored: StoredTensor, interleaved: int) -> NDArray[Any]:
        data = self._files.data(stored)
        if stored.type in AS_STORED:
            values: NDArray[Any] = data.view(AS_STORED[stored.type])
            values = values if values.flags.aligned else values.copy()
        elif stored.type in TERNARY:
            values = self._checked(stored, partial(dequantize_ternary, stored.type, data, block=stored.block))
        else:
            values = self._decoded(stored, data, partial(dequantize, stored.type), np.float32)
        return _in_order(values.reshape(stored.shape), interleaved)

    def _without(self, stored: StoredTensor, added: np.float32) -> NDArray[np.float32]:
        return dequantize(stored.type, self._files.data(stored)).reshape(stored.shape) - added

    def _check_sibling(self, plane: StoredTensor, first: StoredTensor) -> None:
        """Check that a plane fits the first one of its layer."""
        if (plane.type, plane.shape, plane.block) != (first.type, first.shape, first.block):
            raise self._wrong(plane, f"it is a plane of {first.name} in another shape or type")
        scales = [
            self._checked(each, partial(ternary_scales, each.type, self._files.data(each), block=each.block))
            for each in (plane, first)
        ]
        self._files.forget(plane)
        if scales[0].tobytes() != scales[1].tobytes():
            raise self._wrong(
                plane, f"its scales are not those of {first.name}: they are not planes of one layer"
            )

    def _trits(self, planes: Sequence[StoredTensor], interleaved: int) -> NDArray[np.uint8]:
        return np.concatenate([self._plane(stored, interleaved) for stored in planes])

    def _plane(self, stored: StoredTensor, interleaved: int) -> NDArray[np.uint8]:
        data = self._files.data(stored)
        if stored.type is TensorType.I2_S:
            data = data[: -TAILS[stored.type]]
        trits = self._decoded(stored, data, partial(ternary_trits, stored.type, block=stored.block), np.int8)
        return pack_trits(_in_order(trits.reshape(stored.shape), interleaved).reshape(1, -1))

    def _decoded(
        self,
        stored: StoredTensor,
        data: NDArray[np.uint8],
        decode: Callable[[NDArray[np.uint8]], NDArray[Any]],
        dtype: type[np.generic],
    ) -> NDArray[Any]:
        """Decode piece after piece into one array; the pages that were read are let go."""
        values, position = np.empty(prod(stored.shape), dtype), 0
        for rows in _row_pieces(stored, data):
            piece = self._checked(stored, partial(decode, rows))
            values[position : position + piece.size] = piece
            position += piece.size
        self._files.forget(stored)
        return values

    def _scales(
        self, stored: StoredTensor, interleaved: int, factor: NDArray[np.float32] | None
    ) -> NDArray[Any]:
        data = self._files.data(stored)
        scales = self._checked(stored, partial(ternary_scales, stored.type, data, block=stored.block))
        self._files.forget(stored)
        if factor is None or (factor == 1).all():
            if scales.size == 1:
                return scales.reshape(1, 1)
            return _without_repetition(_in_order(scales.reshape(stored.shape[0], -1), interleaved))
        if not (scales == 1).all():
            raise self._wrong(stored, "it has scales of its own and a factor beside it")
        return factor.reshape(1, 1)

    def _checked(self, stored: StoredTensor, decode: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        try:
            return decode()
        except ValidationError as error:
            raise self._wrong(stored, str(error)) from None

    def _wrong(self, stored: StoredTensor, reason: str) -> ValidationError:
        return refusal(f"{stored.type.name}: {reason}", file=stored.file, tensor=stored.name)


def _row_pieces(stored: StoredTensor, data: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Cut the data into pieces of whole rows."""
    columns = stored.shape[-1]
    rows = data.reshape(prod(stored.shape[:-1]), -1)
    step = max(1, WEIGHTS_AT_ONCE // columns)
    for start in range(0, rows.shape[0], step):
        yield rows[start : start + step].reshape(-1)


def _in_order(values: NDArray[Any], interleaved: int) -> NDArray[Any]:
    """Put the rows of each head in our order: ggml rotates neighbours, we rotate the halves of a head."""
    if not interleaved:
        return values
    order = np.arange(len(values)).reshape(-1, interleaved // 2, 2).swapaxes(1, 2).reshape(-1)
    return values[order]


def _without_repetition(scales: NDArray[Any]) -> NDArray[Any]:
    """Keep one scale [1, 1] or one a row [N, 1] of [N, blocks] where the others are the same bits."""
    bits = scales.view(np.uint16)
    if (bits == bits[0, 0]).all():
        return scales[:1, :1].copy()
    if (bits == bits[:, :1]).all():
        return scales[:, :1].copy()
    return scales
