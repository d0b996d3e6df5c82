"""Writes a ternary decoder as a GGUF file for llama.cpp or bitnet.cpp, without changing a trit."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from tritium.errors import ValidationError
from tritium.formats.gguf import BLOCKS, GGUFTensor, TensorType, write_gguf
from tritium.formats.gguf_blocks import encode_q6_k, encode_q8_0
from tritium.model.export import ExportReport
from tritium.model.gguf_architecture import ARCHITECTURES, BITNET_B158
from tritium.model.gguf_graph import gguf_architecture, reader_scales_embeddings_by
from tritium.model.gguf_metadata import gguf_metadata, rope_factors
from tritium.model.gguf_names import PLANES_SUFFIX, ROTATED, gguf_name
from tritium.model.gguf_ternary import TernaryLayer
from tritium.model.opened import OpenedModel, opened_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tritium.kernels.weight import TernaryWeight


class TernaryType(StrEnum):
    """How ternary layers are written: 1.69, 2.06 or 2 bits per weight."""

    TQ1_0 = "tq1_0"
    TQ2_0 = "tq2_0"
    I2_S = "i2_s"


class EmbeddingType(StrEnum):
    """How embeddings and head are written."""

    Q6_K = "q6_k"
    Q8_0 = "q8_0"
    F16 = "f16"
    F32 = "f32"


def export_gguf(
    source: str | Path,
    out: str | Path,
    *,
    ternary_type: str = TernaryType.TQ2_0,
    embedding_type: str = EmbeddingType.Q6_K,
) -> ExportReport:
    """Write a ternary decoder as one GGUF file, if a reader's graph computes what it does.

    A layer of several trit-planes becomes as many sibling tensors; llama.cpp refuses such a file, and the
    report says so.

    Args:
        source: a directory that Tritium saved, a native ternary checkpoint, or a GGUF file.
        out: the file; one that is there is replaced when the new one is whole.
        ternary_type: "tq2_0" or "tq1_0" for llama.cpp, "i2_s" for bitnet.cpp.
        embedding_type: "q6_k", "q8_0", "f16" or "f32". Linear layers that are dense keep the precision they
            are stored in.

    Raises:
        ValidationError: no reader computes this model's formula, or a layer does not fit: a scale that
            changes inside a block of 256, rows that are no whole blocks, for I2_S several planes or scales.
        ResourceError: the disk is full.
    """
    types = (
        TernaryType(_known(ternary_type, TernaryType)),
        EmbeddingType(_known(embedding_type, EmbeddingType)),
    )
    with opened_model(source) as model:
        return _Export(model, Path(out), types).run()


class _Export:
    """One export: the plan of its tensors is checked before the first byte is written."""

    def __init__(self, model: OpenedModel, out: Path, types: tuple[TernaryType, EmbeddingType]) -> None:
        self.checkpoint, self.weights, self.config = model.checkpoint, model.weights, model.weights.config
        self.ternary = TensorType[types[0].upper()]
        self.embedding = TensorType[types[1].upper()]
        self.architecture = gguf_architecture(self.config, ternary=self.ternary)
        self.means = ARCHITECTURES[self.architecture]
        self.planes = 1
        self.report = ExportReport(out)

    def run(self) -> ExportReport:
        tensors = [*self._tensors()]
        if not self.report.ternary_tensors:
            raise ValidationError("This model has no ternary layer: quantize it first, with group_size 256.")
        metadata = gguf_metadata(
            self.checkpoint,
            self.config,
            architecture=self.architecture,
            ternary=self.ternary,
            planes=self.planes,
        )
        write_gguf(self.report.path, metadata=metadata, tensors=tensors)
        for tensor in tensors:
            self.report.count(tensor.type.name)
        self.report.bytes = self.report.path.stat().st_size
        self.report.notes += self._notes()
        return self.report

    def _notes(self) -> Iterator[str]:
        if self.planes > 1:
            yield (
                f"llama.cpp refuses this file: layers have up to {self.planes} trit-planes, as sibling "
                f"tensors (plane1.weight) under the architecture {self.architecture}{PLANES_SUFFIX}. For a "
                "file that it loads, quantize with max_planes 1."
            )
        if self.ternary is TensorType.I2_S:
            yield (
                "llama.cpp refuses I2_S. bitnet.cpp reads this layout (blocks of 128) where it is built for "
                "x86 with ACT_PARALLEL; its other builds read another one under the same number, without "
                "noticing."
            )
        theirs = reader_scales_embeddings_by(self.config)
        if theirs is not None:
            yield (
                f"Readers of {self.architecture} multiply embeddings by {theirs:.6g}, this model by "
                f"{self.config.scaling.embedding:.6g}, which is the same in bfloat16: logits differ a little."
            )
        if self.architecture == BITNET_B158:
            yield "The architecture bitnet-b1.58 stands for relu2; a reader that runs SiLU gives wrong text."

    def _tensors(self) -> Iterator[GGUFTensor]:
        yield self._table("token_embd.weight", "model.embed_tokens.weight")
        if not self.config.tie_word_embeddings:
            yield self._table("output.weight", "lm_head.weight")
        yield self._norm("output_norm.weight", "model.norm.weight")
        factors = rope_factors(self.config)
        if factors is not None:
            yield _float32("rope_freqs.weight", factors)
        for name in self.weights.architecture.linears:
            yield from self._linear(name)
        for name in self.weights.architecture.tensors:
            if name.startswith("model.layers."):
                target = gguf_name(name.removesuffix(".weight"), self.means.roles)
                yield self._norm(f"{target}.weight", name)

    def _norm(self, name: str, source: str) -> GGUFTensor:
        weights, offset = self.weights.array(source), self.means.norm_offset
        return _float32(name, weights + np.float32(offset) if offset else weights)

    def _linear(self, name: str) -> Iterator[GGUFTensor]:
        target, shape = gguf_name(name, self.means.roles), self.weights.architecture.linears[name]
        order = self._row_order(target, shape.out_features)
        bias = self.weights.bias(name)
        if bias is not None:
            yield _float32(f"{target}.bias", bias[order])
        if not self.weights.is_ternary(name):
            self.report.dense_tensors += 1
            yield self._dense(f"{target}.weight", f"{name}.weight", order)
            return
        self.report.ternary_tensors += 1

        def weight() -> TernaryWeight:
            again = self.weights.ternary_weight(name)
            assert again is not None  # noqa: S101 - it was one above
            self.weights.forget(name)
            return again

        tensors, rounding = TernaryLayer(name, target, weight, order).tensors(self.ternary)
        self.report.note_rounding(rounding)
        self.planes = max(self.planes, len(tensors))
        yield from tensors

    def _dense(self, name: str, source: str, order: npt.NDArray[np.int64]) -> GGUFTensor:
        info = self.checkpoint.tensors[self.weights.prefix + source]

        def pieces() -> Iterator[memoryview]:
            yield np.ascontiguousarray(self.weights.dense(source)[order]).data
            self.weights.forget(source.removesuffix(".weight"))

        kind = TensorType.BF16 if info.dtype == "BF16" else TensorType.F32
        return GGUFTensor(name, info.shape, kind, pieces)

    def _table(self, name: str, source: str) -> GGUFTensor:
        shape = self.weights.architecture.tensors[source]
        if shape[1] % BLOCKS[self.embedding][0]:
            raise ValidationError(
                f"{source} has rows of {shape[1]}, which are no whole blocks of "
                f"{self.embedding.name}: choose q8_0, f16 or f32 for embeddings.",
                tensor=source,
            )

        def pieces() -> Iterator[memoryview]:
            for rows in self.weights.float32_rows(source):
                yield _ENCODERS[self.embedding](rows).data

        return GGUFTensor(name, shape, self.embedding, pieces)

    def _row_order(self, target: str, rows: int) -> npt.NDArray[np.int64]:
        """Return which of our rows stands where: we rotate the halves of a head, some graphs neighbours."""
        order = np.arange(rows)
        if not (self.means.is_interleaved and target.endswith(ROTATED)):
            return order
        return order.reshape(-1, 2, self.config.head_dim // 2).swapaxes(1, 2).reshape(-1)


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


def _known(value: str, kinds: type[StrEnum]) -> str:
    if value not in {kind.value for kind in kinds}:
        raise ValidationError(f"{value!r} is not one of {', '.join(kind.value for kind in kinds)}.")
    return value
