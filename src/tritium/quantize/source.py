"""The model that is quantized: its linear layers, read one at a time, and everything else."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tritium.errors import ValidationError
from tritium.formats.bitnet_hf import TernaryConvention
from tritium.formats.checkpoint import CONFIG, Checkpoint
from tritium.formats.gguf_decode import ROUNDED
from tritium.formats.native import is_native
from tritium.kernels.packing import unpack_trits
from tritium.model.companions import TOKENIZER_FILE, companion_files
from tritium.model.config import ModelConfig, parse_config
from tritium.model.gguf_model import open_model
from tritium.model.tokenizer import Tokenizer
from tritium.model.weights import CheckpointWeights
from tritium.quantize.plan import PlannedLayer
from tritium.quantize.report import ModelKind
from tritium.quantize.suitability import check_calibration
from tritium.quantize.weights import QuantizedWeights

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from tritium.model.layers import DenseWeight
    from tritium.quantize.config import QuantizationConfig

ATTENTION_PARTS = (".self_attn.", ".attention.")
FEED_FORWARD_PARTS = (".mlp.", ".intermediate.", ".output.")
CONVENTION_FIELD = "quantization_config"


@dataclass(frozen=True)
class Source:
    """An open source checkpoint; close it, or use it as a context manager."""

    path: Path
    checkpoint: Checkpoint
    config: ModelConfig
    weights: CheckpointWeights

    @property
    def kind(self) -> ModelKind:
        """Whether the model generates text or encodes it."""
        return ModelKind.ENCODER if self.config.is_encoder else ModelKind.GENERATOR

    @property
    def has_tokenizer(self) -> bool:
        """Whether text can be turned into this model's tokens."""
        return self.checkpoint.has_file(TOKENIZER_FILE)

    @property
    def rounded_tensors(self) -> dict[str, int]:
        """How many tensors were quantized before, by the type that is dequantized; empty if none was."""
        names = {kind.name for kind in ROUNDED}
        counted = Counter(tensor.dtype for tensor in self.checkpoint.tensors.values())
        return {name: count for name, count in sorted(counted.items()) if name in names}

    def layers(self) -> tuple[PlannedLayer, ...]:
        """Return the linear layers to quantize, in the order of the forward pass."""
        is_ternary = self.config.ternary.convention is not TernaryConvention.NONE
        return tuple(
            PlannedLayer(
                name=self.weights.prefix + name,
                kind=layer_kind(name),
                out_features=shape.out_features,
                in_features=shape.in_features,
            )
            for name, shape in self.weights.architecture.linears.items()
            if not is_ternary or self.config.ternary.converts(name)
        )

    def is_ternary(self, name: str) -> bool:
        """Return whether this layer is ternary in the source already."""
        return name in self.checkpoint.linears or self.config.ternary.converts(
            name.removeprefix(self.weights.prefix)
        )

    def dense_weights(self, name: str) -> NDArray[np.float32]:
        """Read the weight of a dense linear layer: float32 [out, in]."""
        return self.checkpoint.read_float32(f"{name}.weight")

    def dense_rows(self, name: str, rows: range) -> DenseWeight:
        """Read rows of a matrix as the kernels take them: bfloat16 in its bits, the rest as float32."""
        if self.checkpoint.tensors[name].dtype == "BF16":
            bits: DenseWeight = self.checkpoint.read_rows(name, rows)
            return bits
        return self.checkpoint.read_rows_float32(name, rows)

    def forget(self, name: str) -> None:
        """Let the system take back the pages of a layer's weight; it can be read again."""
        self.checkpoint.forget(f"{name}.weight")

    def ternary_weights(self, name: str) -> QuantizedWeights:
        """Read a layer of a native ternary checkpoint: the same trits, the same scale bytes."""
        if name in self.checkpoint.linears:
            return self._stored_as_ours(name)
        tensors = self.weights.ternary(name.removeprefix(self.weights.prefix))
        return QuantizedWeights(
            levels=tensors.trits,
            scales=tensors.scale,
            planes=1,
            group_size=tensors.trits.shape[1],
            divides=tensors.divides,
        )

    def tables(self) -> tuple[str, ...]:
        """Return the names of the embedding and the head, which may become coded matrices."""
        return tuple(self.weights.prefix + name for name in self.weights.architecture.tables)

    def other_tensors(self) -> dict[str, NDArray[Any]]:
        """Return the tensors that stay as they are, by name; what the model does not read is left behind."""
        architecture, prefix = self.weights.architecture, self.weights.prefix
        planned = {layer.name for layer in self.layers()}
        names = [prefix + name for name in architecture.tensors]
        tensors = {name: self.checkpoint.read(name) for name in names}
        for plain, shape in architecture.linears.items():
            name = prefix + plain
            if name not in planned:
                tensors[f"{name}.weight"] = self.checkpoint.read(f"{name}.weight")
            if shape.has_bias:
                tensors[f"{name}.bias"] = self._bias(name)
        return tensors

    def check_finite(self) -> None:
        """Read every tensor that is needed, and keep none (ValidationError: names one that holds NaN or Inf).

        Otherwise one in the last layer, or in the embedding, would be found after hours of work.
        """
        for name in self.weights.needed():
            self.checkpoint.read(name)
            self.checkpoint.forget(name)

    def doubts(self, config: QuantizationConfig) -> tuple[str, ...]:
        """Return what should be known of the calibration text; raises as `check_calibration` does."""
        if config.calibration_text is None:
            return ()
        widest = max(layer.in_features for layer in self.layers())
        return check_calibration(
            config, Tokenizer(self.checkpoint.path, files=self.checkpoint.embedded), widest=widest
        )

    def companions(self) -> dict[str, bytes]:
        """Return the files that travel with the weights; config.json without the source's packing."""
        files = companion_files(self.checkpoint)
        if CONVENTION_FIELD in self.checkpoint.config:
            # The trits are stored our way now: another reader must not unpack them as the source's.
            files[CONFIG] = json.dumps(self.config_without_convention(), indent=2).encode() + b"\n"
        return files

    def config_without_convention(self) -> dict[str, Any]:
        """Return config.json without the source's ternary packing, which the manifest replaces."""
        return {key: value for key, value in self.checkpoint.config.items() if key != CONVENTION_FIELD}

    def parameters(self) -> int:
        """Return the number of weights of the whole model, scales not counted."""
        architecture = self.weights.architecture
        others = sum(int(np.prod(shape)) for shape in architecture.tensors.values())
        return others + sum(
            shape.out_features * shape.in_features + (shape.out_features if shape.has_bias else 0)
            for shape in architecture.linears.values()
        )

    def sha256(self) -> str:
        """Return a digest over the weight files, the configuration and the tokenizer."""
        names = [*companion_files(self.checkpoint), CONFIG]
        files = set(self.checkpoint.weight_files)
        files |= {path for name in names if (path := self.checkpoint.file(name)) is not None}
        digest = hashlib.sha256()
        for path in sorted(files):
            with path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{path.name} {content}\n".encode())
        return digest.hexdigest()

    def close(self) -> None:
        """Close the weight files."""
        self.checkpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stored_as_ours(self, name: str) -> QuantizedWeights:
        entry = self.checkpoint.linears[name]
        shape = (entry["out_features"], entry["in_features"])
        levels = np.zeros(shape[0] * shape[1], np.int8)
        for plane in self.checkpoint.read(f"{name}.trits"):  # the most significant first
            levels = np.int8(3) * levels + unpack_trits(plane, count=levels.size)
        return QuantizedWeights(
            levels=levels.reshape(shape),
            scales=self.checkpoint.read(f"{name}.scales"),
            planes=entry["planes"],
            group_size=entry["group_size"],
            divides=entry["divides"],
        )

    def _bias(self, name: str) -> NDArray[Any]:
        bias = self.checkpoint.read(f"{name}.bias")
        if self.config.ternary.convention is TernaryConvention.AUTOBITLINEAR_OFFLINE and self.is_ternary(
            name
        ):
            # This convention multiplies the bias by the scale too; ours adds it afterwards.
            scale = self.ternary_weights(name).scales_float32[0, 0]
            scaled: NDArray[np.float32] = self.checkpoint.read_float32(f"{name}.bias") * scale
            return scaled
        return bias


def open_source(source: str | Path) -> Source:
    """Open and check a checkpoint to quantize: a directory, a .safetensors or GGUF file, or a hub name.

    Raises:
        ValidationError: names what is wrong: file, tensor, field; or the model is Tritium's own already.
    """
    if is_native(source):
        raise ValidationError(f"{source} is a Tritium model already; quantize the model it was made from.")
    checkpoint = open_model(source)
    try:
        config = parse_config(checkpoint.config, tensors=checkpoint.tensors)
        weights = CheckpointWeights(checkpoint, config)
    except BaseException:
        checkpoint.close()
        raise
    path = Path(source)
    return Source(
        path=path.resolve() if path.exists() else checkpoint.path,
        checkpoint=checkpoint,
        config=config,
        weights=weights,
    )


def layer_kind(name: str) -> str:
    """Return `attention`, `feed_forward` or `other` for the name of a linear layer."""
    if any(part in f"{name}." for part in ATTENTION_PARTS):
        return "attention"
    if any(part in f"{name}." for part in FEED_FORWARD_PARTS):
        return "feed_forward"
    return "other"
