"""Writes a ternary llama as a GGUF file that llama.cpp loads, without changing a trit."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.floats import bfloat16_to_float32
from tritium.formats.gguf import BLOCKS, GGUFTensor, TensorType, write_gguf
from tritium.formats.gguf_blocks import BLOCK, encode_q6_k, encode_q8_0, encode_tq1_0, encode_tq2_0
from tritium.formats.native import is_native, open_native
from tritium.kernels import packing
from tritium.model.config import ModelConfig, parse_config
from tritium.model.gguf_metadata import gguf_metadata, rope_factors
from tritium.model.gguf_names import ROTATED, gguf_name
from tritium.model.weights import CheckpointWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tritium.formats.checkpoint import Checkpoint
    from tritium.kernels.weight import TernaryWeight
    from tritium.model.layers import DenseWeight

ROWS_AT_ONCE = 4096  # of an embedding table: bounds what is in memory


class TernaryType(StrEnum):
    """How ternary layers are written: 1.69 or 2.06 bits per weight."""

    TQ1_0 = "tq1_0"
    TQ2_0 = "tq2_0"


class EmbeddingType(StrEnum):
    """How embeddings and head are written."""

    Q6_K = "q6_k"
    Q8_0 = "q8_0"
    F16 = "f16"
    F32 = "f32"


@dataclass
class ExportReport:
    """What came of an export; the rounding of scales to fp16 is relative, 0 where every scale was exact."""

    path: Path
    bytes: int = 0
    ternary_tensors: int = 0
    dense_tensors: int = 0
    largest_scale_rounding: float = 0.0
    tensor_types: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "path": str(self.path)}


def export_gguf(
    source: str | Path,
    out: str | Path,
    *,
    ternary_type: str = TernaryType.TQ2_0,
    embedding_type: str = EmbeddingType.Q6_K,
) -> ExportReport:
    """Write a ternary model of the llama architecture as one GGUF file.

    Args:
        source: a directory that Tritium saved, or a native ternary checkpoint.
        out: the file; one that is there is replaced when the new one is whole.
        ternary_type: "tq2_0" or "tq1_0".
        embedding_type: "q6_k", "q8_0", "f16" or "f32". Linear layers that are dense keep the precision they
            are stored in.

    Raises:
        ValidationError: another architecture, or a layer that does not fit: several planes, a scale that
            changes inside a block of 256, or rows that are no multiple of 256.
        ResourceError: the disk is full.
    """
    types = (
        TernaryType(_known(ternary_type, TernaryType)),
        EmbeddingType(_known(embedding_type, EmbeddingType)),
    )
    with ExitStack() as stack:
        manifest = None
        if is_native(source):
            native = stack.enter_context(open_native(source))
            checkpoint, manifest = native.checkpoint, native.manifest
        else:
            checkpoint = stack.enter_context(open_checkpoint(source))
        config = parse_config(checkpoint.config or (manifest or {}).get("config", {}))
        _require_llama(config)
        weights = CheckpointWeights(checkpoint, config, manifest=manifest)
        return _Export(checkpoint, weights, Path(out), types).run()


class _Export:
    """One export: the plan of its tensors is checked before the first byte is written."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        weights: CheckpointWeights,
        out: Path,
        types: tuple[TernaryType, EmbeddingType],
    ) -> None:
        self.checkpoint, self.weights, self.config = checkpoint, weights, weights.config
        self.ternary = TensorType[types[0].upper()]
        self.embedding = TensorType[types[1].upper()]
        self.report = ExportReport(out)

    def run(self) -> ExportReport:
        tensors = [*self._tensors()]
        if not self.report.ternary_tensors:
            raise ValidationError("This model has no ternary layer: quantize it first, with group_size 256.")
        metadata = gguf_metadata(self.checkpoint.path, self.config, ternary=self.ternary)
        write_gguf(self.report.path, metadata=metadata, tensors=tensors)
        for tensor in tensors:
            kinds = self.report.tensor_types
            kinds[tensor.type.name] = kinds.get(tensor.type.name, 0) + 1
        self.report.bytes = self.report.path.stat().st_size
        return self.report

    def _tensors(self) -> Iterator[GGUFTensor]:
        yield self._table("token_embd.weight", "model.embed_tokens.weight")
        if not self.config.tie_word_embeddings:
            yield self._table("output.weight", "lm_head.weight")
        yield self._vector("output_norm.weight", "model.norm.weight")
        factors = rope_factors(self.config)
        if factors is not None:
            yield _float32("rope_freqs.weight", factors)
        for name in self.weights.architecture.linears:
            yield from self._linear(name)
        for index in range(self.config.num_layers):
            for norm in ("input_layernorm", "post_attention_layernorm"):
                full = f"model.layers.{index}.{norm}"
                yield self._vector(f"{gguf_name(full)}.weight", f"{full}.weight")

    def _vector(self, name: str, source: str) -> GGUFTensor:
        return _float32(name, self.weights.array(source))

    def _linear(self, name: str) -> Iterator[GGUFTensor]:
        target, shape = gguf_name(name), self.weights.architecture.linears[name]
        order = self._row_order(target, shape.out_features)
        bias = self.weights.bias(name)
        if bias is not None:
            yield _float32(f"{target}.bias", bias[order])
        weight = self.weights.ternary_weight(name)
        if weight is None:
            self.report.dense_tensors += 1
            yield self._dense(f"{target}.weight", f"{name}.weight", order)
            return
        self.report.ternary_tensors += 1
        _require_fit(name, weight)
        scales = self._half_scales(name, weight)[order]
        encode = encode_tq1_0 if self.ternary is TensorType.TQ1_0 else encode_tq2_0

        def pieces() -> Iterator[memoryview]:
            again = self.weights.ternary_weight(name)  # not kept: a plan of all layers would be the model
            assert again is not None  # noqa: S101 - it was one above
            trits = packing.from_compute_layout(again.planes[0], count=again.in_features)
            yield encode(trits[order], scales).data

        sizes = (shape.out_features, shape.in_features)
        yield GGUFTensor(f"{target}.weight", sizes, self.ternary, pieces)

    def _half_scales(self, name: str, weight: TernaryWeight) -> npt.NDArray[np.float16]:
        """Return one fp16 scale for each block of 256, [N, K / 256], and note what rounding changed."""
        exact = weight.scales.astype(np.float64)
        exact = 1 / exact if weight.divides else exact
        if not 2**-14 <= float(np.abs(exact).max(initial=0)) <= 65504:  # noqa: PLR2004 - the range of fp16
            raise ValidationError(
                f"The scales of {name} are outside what fp16 holds; GGUF cannot hold them.", layer=name
            )
        rounded: npt.NDArray[np.float16] = exact.astype(np.float16)
        off = np.abs(rounded - exact) / np.where(exact == 0, 1, np.abs(exact))
        self.report.largest_scale_rounding = max(self.report.largest_scale_rounding, float(off.max()))
        blocks = weight.in_features // BLOCK
        repeated = np.repeat(rounded, blocks // weight.groups, axis=1)
        return np.ascontiguousarray(np.broadcast_to(repeated, (weight.out_features, blocks)))

    def _dense(self, name: str, source: str, order: npt.NDArray[np.int64]) -> GGUFTensor:
        stored = self.weights.dense(source)
        kind = TensorType.BF16 if stored.dtype == np.uint16 else TensorType.F32
        return GGUFTensor(name, stored.shape, kind, lambda: [np.ascontiguousarray(stored[order]).data])

    def _table(self, name: str, source: str) -> GGUFTensor:
        table = self.weights.dense(source)
        if table.shape[1] % BLOCKS[self.embedding][0]:
            raise ValidationError(
                f"{source} has rows of {table.shape[1]}, which are no whole blocks of "
                f"{self.embedding.name}: choose q8_0, f16 or f32 for embeddings.",
                tensor=source,
            )

        def pieces() -> Iterator[memoryview]:
            for start in range(0, table.shape[0], ROWS_AT_ONCE):
                rows = table[start : start + ROWS_AT_ONCE]
                yield _ENCODERS[self.embedding](_widened(rows)).data

        return GGUFTensor(name, table.shape, self.embedding, pieces)

    def _row_order(self, target: str, rows: int) -> npt.NDArray[np.int64]:
        """Return which of our rows stands where: ggml rotates neighbours, we rotate the halves of a head."""
        order = np.arange(rows)
        if not target.endswith(ROTATED):
            return order
        return order.reshape(-1, 2, self.config.head_dim // 2).swapaxes(1, 2).reshape(-1)


def _widened(stored: DenseWeight) -> npt.NDArray[np.float32]:
    wide = bfloat16_to_float32(stored.view(np.uint16)) if stored.dtype == np.uint16 else stored
    return wide.astype(np.float32, copy=False)


def _to_half(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half: npt.NDArray[np.float16] = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValidationError("An embedding is beyond the range of f16: choose f32.")
    return half


def _unchanged(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(values)


_ENCODERS: Final[Mapping[TensorType, Callable[[npt.NDArray[np.float32]], npt.NDArray[np.generic]]]] = {
    TensorType.Q6_K: encode_q6_k,
    TensorType.Q8_0: encode_q8_0,
    TensorType.F16: _to_half,
    TensorType.F32: _unchanged,
}


def _float32(name: str, values: npt.NDArray[np.float32]) -> GGUFTensor:
    held = np.ascontiguousarray(values, dtype="<f4")
    return GGUFTensor(name, held.shape, TensorType.F32, lambda: [held.data])


def _require_llama(config: ModelConfig) -> None:
    if config.model_type != "llama" or config.activation != "silu":
        raise ValidationError(
            f"GGUF export knows the architecture llama with SiLU, not {config.model_type} with "
            f"{config.activation}: llama.cpp would run another formula and give wrong text.",
            field="model_type",
        )


def _require_fit(name: str, weight: TernaryWeight) -> None:
    problem = ""
    if weight.planes.shape[0] != 1:
        problem = (
            f"it has {weight.planes.shape[0]} planes and a GGUF block has one: quantize with max_planes 1"
        )
    elif weight.in_features % BLOCK:
        problem = f"its rows of {weight.in_features} weights are no multiple of {BLOCK}"
    elif weight.groups > 1 and weight.group_size % BLOCK:
        problem = (
            f"a scale for each {weight.group_size} weights changes inside a block of {BLOCK}: "
            f"quantize with group_size {BLOCK}"
        )
    if problem:
        raise ValidationError(
            f"The layer {name} cannot be written to GGUF without loss: {problem}.", layer=name
        )


def _known(value: str, kinds: type[StrEnum]) -> str:
    if value not in {kind.value for kind in kinds}:
        raise ValidationError(f"{value!r} is not one of {', '.join(kind.value for kind in kinds)}.")
    return value
