"""From the tensors of a checkpoint, dense or ternary, to the layers of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tritium.errors import ValidationError
from tritium.formats.bitnet_hf import TernaryConvention, ternarise_online, unpack_bitnet
from tritium.formats.native import TRITS_PER_BYTE
from tritium.formats.scale_codes import decode_scales
from tritium.kernels import cpu, packing
from tritium.kernels.coded import CodedWeight
from tritium.kernels.cpu import TernaryWeight, prepare, prepare_packed
from tritium.kernels.quantization import absmean
from tritium.model.architecture import Architecture, LinearShape, architecture_for
from tritium.model.expected_tensors import ExpectedTensors, stem
from tritium.model.layers import DenseLinear, DenseWeight, Embedding, Float32, Linear, Table, TernaryLinear

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tritium.formats.checkpoint import Checkpoint
    from tritium.kernels.cpu import PreparedWeight
    from tritium.model.config import ModelConfig

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class TernaryTensors:
    """A ternary linear layer as stored; `scale` keeps the dtype of the source (uint16: bfloat16)."""

    trits: npt.NDArray[np.int8]  # [out, in]
    scale: npt.NDArray[Any]  # [1, 1]
    divides: bool


class CheckpointWeights:
    """The checked tensors of one model: every needed tensor is there, in shape, and no unknown one."""

    def __init__(
        self, checkpoint: Checkpoint, config: ModelConfig, *, manifest: Mapping[str, Any] | None = None
    ) -> None:
        self.config = config
        self.architecture = architecture_for(config)
        self._checkpoint = checkpoint
        self._native: Mapping[str, Any] = checkpoint.linears or (manifest or {}).get("linears", {})
        self._coded: Mapping[str, Any] = (manifest or {}).get("coded", {})
        self.prefix = _prefix(self.architecture, checkpoint)
        self._expected = ExpectedTensors(
            config=config,
            architecture=self.architecture,
            checkpoint=checkpoint,
            prefix=self.prefix,
            native=self._native,
            coded=self._coded,
        )
        self._expected.check()

    def needed(self) -> list[str]:
        """Return the names of the tensors that the model reads, as the checkpoint has them."""
        return list(self._expected.shapes())

    def array(self, name: str) -> Float32:
        """Return a tensor as float32."""
        return self._checkpoint.read_float32(self.prefix + name)

    def dense(self, name: str) -> DenseWeight:
        """Return a matrix as the kernels take it: bfloat16 stays in its bits, the rest becomes float32."""
        full = self.prefix + name
        if self.prefix + stem(name) in self._coded:
            table = self.table(name, threads=1)
            return Embedding(table)(np.arange(self.architecture.tensors[name][0], dtype=np.int32))
        if self._checkpoint.tensors[full].dtype == "BF16":
            bits: DenseWeight = np.ascontiguousarray(self._checkpoint.read(full))
            return bits
        return np.ascontiguousarray(self._checkpoint.read_float32(full))

    def float32_rows(self, name: str) -> Iterator[Float32]:
        """Yield an embedding or a head in pieces of rows, decoded; no more of it comes into memory."""
        rows = self.architecture.tensors[name][0]
        table = None if self.table_form(name) is None else Embedding(self.table(name, threads=1))
        for start in range(0, rows, _ROWS_AT_ONCE):
            piece = range(start, min(start + _ROWS_AT_ONCE, rows))
            if table is None:
                yield self._checkpoint.read_rows_float32(self.prefix + name, piece)
            else:
                yield table(np.arange(piece.start, piece.stop, dtype=np.int32))

    def forget(self, name: str) -> None:
        """Let the system take back the pages of a linear layer; it can be read again."""
        for part in ("weight", "trits"):
            stored = f"{self.prefix}{name}.{part}"
            if stored in self._checkpoint.tensors:
                self._checkpoint.forget(stored)

    def table(self, name: str, *, threads: int) -> Table:
        """Return an embedding or a head as it is stored: dense, or coded or ternary and ready to run."""
        if "planes" in self._coded.get(self.prefix + stem(name), {}):
            return self._prepared(stem(name), self._coded, threads=threads)
        coded = self.coded_weight(name)
        if coded is None:
            return self.dense(name)
        try:
            return cpu.prepare_coded(coded, threads=threads)
        except ValidationError as error:
            stored = f"{self.prefix}{stem(name)}.codes"
            raise ValidationError(f"The tensor {stored}: {error}", tensor=stored) from error

    def coded_weight(self, name: str) -> CodedWeight | None:
        """Read a coded matrix by the name that the dense one has ("lm_head.weight"); None if it is none."""
        full = self.prefix + stem(name)
        entry = self._coded.get(full)
        if entry is None or "planes" in entry:
            return None
        return CodedWeight(
            tiles=np.ascontiguousarray(self._checkpoint.read(f"{full}.codes")),
            bits=entry["bits"],
            in_features=entry["in_features"],
            out_features=entry["out_features"],
        )

    def table_form(self, name: str) -> str | None:
        """Return in words what an embedding or a head became; None where it is dense."""
        entry = self._coded.get(self.prefix + stem(name))
        if entry is None:
            return None
        planes = entry.get("planes")
        if planes is None:
            return f"codes of {entry['bits']} bits"
        return "1 trit-plane" if planes == 1 else f"{planes} trit-planes"

    def linear(self, name: str, *, threads: int) -> Linear:
        """Build the linear layer of this name, dense or ternary as it is stored."""
        if self.prefix + name in self._native:
            return TernaryLinear(
                self._prepared(name, self._native, threads=threads), self.bias(name), threads
            )
        weight = self.ternary_weight(name)
        if weight is None:
            return DenseLinear(self.dense(f"{name}.weight"), self.bias(name), threads)
        return TernaryLinear(prepare(weight, threads=threads), self.bias(name), threads)

    def is_ternary(self, name: str) -> bool:
        """Tell whether the linear layer of this name runs as a ternary one."""
        return self.prefix + name in self._native or self.config.ternary.converts(name)

    def ternary_weight(self, name: str) -> TernaryWeight | None:
        """Read the linear layer of this name in its portable form; None if it is dense."""
        if self.prefix + name in self._native:
            return self._native_weight(name)
        if not self.config.ternary.converts(name):
            return None
        if self.config.ternary.convention is TernaryConvention.AUTOBITLINEAR_ONLINE:
            return self._online_weight(name)
        tensors, shape = self.ternary(name), self.architecture.linears[name]
        return TernaryWeight(
            planes=packing.to_compute_layout(tensors.trits)[None],
            scales=np.ascontiguousarray(_as_float32(tensors.scale)),
            group_size=shape.in_features,
            in_features=shape.in_features,
            out_features=shape.out_features,
            divides=tensors.divides,
        )

    def bias(self, name: str) -> Float32 | None:
        """Return what the linear layer of this name adds last, float32 [out], or None."""
        if not self.architecture.linears[name].has_bias:
            return None
        bias = self.array(f"{name}.bias")
        if self.adds_bias_before_scale(name):
            scale: Float32 = _as_float32(self.ternary(name).scale)
            bias = bias * scale[0, 0]
        return bias

    def adds_bias_before_scale(self, name: str) -> bool:
        """Tell whether a layer's bias, as it is stored, is added before the scale multiplies."""
        is_packed = self.prefix + name not in self._native and self.config.ternary.converts(name)
        return is_packed and self.config.ternary.convention is TernaryConvention.AUTOBITLINEAR_OFFLINE

    def stored_scales(self, name: str) -> npt.NDArray[Any]:
        """Return the scales of a ternary layer, [1 or out, groups], as they are stored; codes as float32."""
        full = self.prefix + name
        if full in self._native:
            is_coded = self._native[full].get("scale_unit") is not None
            return self._scales(full, self._native) if is_coded else self._checkpoint.read(f"{full}.scales")
        return self.ternary(name).scale

    def ternary(self, name: str) -> TernaryTensors:
        """Read a layer of a native ternary checkpoint without loss, in whichever convention it is stored."""
        shape = self.architecture.linears[name]
        full = self.prefix + name
        convention = self.config.ternary.convention
        if convention is TernaryConvention.AUTOBITLINEAR_ONLINE:
            trits, inverse = ternarise_online(self.dense(f"{name}.weight"))
            return TernaryTensors(
                trits, np.array([[np.float32(1) / inverse]], dtype=np.float32), divides=False
            )
        packed = self._checkpoint.read(f"{full}.weight")
        trits = unpack_bitnet(packed, out_features=shape.out_features, name=f"{full}.weight")
        scale = self._checkpoint.read(f"{full}.weight_scale").reshape(1, 1)
        value = float(_as_float32(scale)[0, 0])
        if not value > 0:
            raise ValidationError(
                f"{full}.weight_scale is {value}: a scale is positive.", tensor=f"{full}.weight_scale"
            )
        return TernaryTensors(trits, scale, divides=convention is TernaryConvention.BITLINEAR)

    def _prepared(self, name: str, entries: Mapping[str, Any], *, threads: int) -> PreparedWeight:
        """Lay a layer or a table of ours out as it runs; of its bytes in the file nothing stays in memory."""
        full = self.prefix + name
        entry = entries[full]
        weight = prepare_packed(
            self._checkpoint.read(f"{full}.trits"),
            self._scales(full, entries),
            out_features=int(entry["out_features"]),
            in_features=int(entry["in_features"]),
            group_size=int(entry["group_size"]),
            divides=bool(entry["divides"]),
            threads=threads,
        )
        self._checkpoint.forget(f"{full}.trits")
        return weight

    def _scales(self, full: str, entries: Mapping[str, Any]) -> Float32:
        """Read the scales of a layer of ours, numbers or codes of numbers: float32 [1 or out, groups]."""
        unit = entries[full].get("scale_unit")
        if unit is None:
            return np.ascontiguousarray(self._checkpoint.read_float32(f"{full}.scales"))
        return decode_scales(self._checkpoint.read(f"{full}.scales"), unit)

    def _online_weight(self, name: str) -> TernaryWeight:
        """Ternarise a master where it lies in the file, without a copy in float32."""
        shape = self.architecture.linears[name]
        planes, mean = absmean(self.dense(f"{name}.weight"))
        return TernaryWeight(
            planes=planes[None],
            scales=np.float32(1) / (np.float32(1) / mean),  # as it is stored where the inverse is kept
            group_size=shape.in_features,
            in_features=shape.in_features,
            out_features=shape.out_features,
        )

    def _native_weight(self, name: str) -> TernaryWeight:
        shape, full = self.architecture.linears[name], self.prefix + name
        entry = self._native[full]
        packed = self._checkpoint.read(f"{full}.trits")
        planes = [_compute_plane(plane, shape) for plane in packed]
        return TernaryWeight(
            planes=np.ascontiguousarray(np.stack(planes)),
            scales=self._scales(full, self._native),
            group_size=int(entry["group_size"]),
            in_features=shape.in_features,
            out_features=shape.out_features,
            divides=bool(entry["divides"]),
        )


def _compute_plane(packed: npt.NDArray[np.uint8], shape: LinearShape) -> npt.NDArray[np.uint8]:
    """Turn a plane packed five trits to a byte, row after row, into the compute layout."""
    rows, columns = shape.out_features, shape.in_features
    if columns % TRITS_PER_BYTE == 0:  # every row begins with a byte
        return packing.packed5_to_compute(packed.reshape(rows, -1), count=columns)
    return packing.to_compute_layout(
        packing.unpack_trits(packed, count=rows * columns).reshape(rows, columns)
    )


def _prefix(architecture: Architecture, checkpoint: Checkpoint) -> str:
    first = next(iter(architecture.tensors))
    for prefix in architecture.prefixes:
        if {prefix + first, f"{prefix}{stem(first)}.codes"} & checkpoint.tensors.keys():
            return prefix
    return architecture.prefixes[0]


def _as_float32(values: npt.NDArray[Any]) -> Float32:
    if values.dtype == np.uint16:  # bfloat16 bits
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
