"""Loads models: dense and native ternary checkpoints, and the directories Tritium itself saves."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritium.errors import ValidationError
from tritium.formats.native import NativeModel, is_native, open_native, save_native, verified_meanwhile
from tritium.kernels.device import select_optimal_device
from tritium.model.architecture import largest_product
from tritium.model.bert import BertModel
from tritium.model.bitnet import BitNetModel
from tritium.model.bitnet_latent import BitNetLatentModel
from tritium.model.companions import TOKENIZER_FILE
from tritium.model.config import ModelConfig, parse_config
from tritium.model.encoder import EncoderModel
from tritium.model.gemma2 import Gemma2Model
from tritium.model.gemma3_text import Gemma3TextModel
from tritium.model.gguf_model import open_model
from tritium.model.layers import TernaryLinear
from tritium.model.llama import LlamaModel
from tritium.model.mistral import MistralModel
from tritium.model.pooling import POOLING_FILE, Pooling, read_pooling
from tritium.model.qwen2 import Qwen2Model
from tritium.model.qwen3 import Qwen3Model
from tritium.model.qwen3_embedding import Qwen3EmbeddingModel
from tritium.model.tokenizer import Tokenizer
from tritium.model.weights import CheckpointWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tritium.formats.checkpoint import Checkpoint
    from tritium.kernels.device import Device
    from tritium.model.decoder import DecoderModel
    from tritium.model.layers import WeightSource

_MOST_THREADS = 1024  # of the kernels
_MODELS: Mapping[str, type[DecoderModel]] = {
    "llama": LlamaModel,
    "mistral": MistralModel,
    "qwen2": Qwen2Model,
    "qwen3": Qwen3Model,
    "gemma2": Gemma2Model,
    "gemma3_text": Gemma3TextModel,
    "bitnet": BitNetModel,
    "bitnet_latent": BitNetLatentModel,
}


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory with what belongs to it.

    `device` is what it runs on. `manifest` is None unless Tritium saved it; `files` is None unless its one
    file holds the tokenizer too.
    """

    path: Path
    config: ModelConfig
    model: DecoderModel | EncoderModel
    device: Device
    manifest: Mapping[str, Any] | None = None
    files: Mapping[str, bytes] | None = None
    _tokenizers: dict[str, Tokenizer] = field(default_factory=dict, repr=False)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, checked (ValidationError: it is missing or another model's)."""
        if not self._tokenizers:
            tokenizer = Tokenizer(self.path, files=self.files)
            tokenizer.validate_against(self.config)
            self._tokenizers["own"] = tokenizer
        return self._tokenizers["own"]

    @property
    def ternary_layers(self) -> frozenset[str]:
        """The names of the linear layers that run as ternary ones."""
        layers = self.model.linears()
        return frozenset(name for name, linear in layers.items() if isinstance(linear, TernaryLinear))

    @property
    def generator(self) -> DecoderModel:
        """The model as one that continues text (ValidationError: it is an encoder)."""
        if isinstance(self.model, EncoderModel):
            raise ValidationError("This model turns text into vectors; it cannot generate text.")
        return self.model

    @property
    def encoder(self) -> EncoderModel:
        """The model as one that turns text into vectors (ValidationError: it generates text)."""
        if not isinstance(self.model, EncoderModel):
            raise ValidationError("This model generates text; it does not turn text into vectors.")
        return self.model


def load_model(
    source: str | Path,
    *,
    threads: int | None = None,
    verify: bool = True,
    reading: Callable[[ModelConfig], ModelConfig] | None = None,
) -> LoadedModel:
    """Load a model to run it.

    Args:
        source: a directory that Tritium saved, a checkpoint directory, a GGUF file, or a name on the hub.
        threads: of the kernels; None takes what measurement finds the fastest.
        verify: hash every file of a directory that Tritium saved.
        reading: reads the config another way, to see whether the model fits that better.

    Raises:
        ValidationError: the checkpoint is broken, not known, or its tensors do not fit its config; or an
            argument is not possible.
    """
    _check_arguments(source, threads)
    if is_native(source):
        with (
            open_native(source, verify=False) as native,
            verified_meanwhile(native) if verify else contextlib.nullcontext(),
        ):
            return _build(native.checkpoint, threads=threads, manifest=native.manifest, reading=reading)
    with open_model(source) as checkpoint:
        return _build(checkpoint, threads=threads, manifest=None, reading=reading)


class QuantizedModel:
    """A quantized model on disk: its report at once, its weights when they are asked for."""

    def __init__(self, path: str | Path, manifest: Mapping[str, Any], *, threads: int | None = None) -> None:
        self.path = Path(path)
        self.manifest = manifest
        self._threads = threads

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, threads: int | None = None, verify: bool = True
    ) -> QuantizedModel:
        """Open a directory that `save_pretrained` or `quantize_model` wrote.

        Raises:
            ValidationError: it is not one, its version is unknown, or a file was changed, lost or added.
        """
        _check_arguments(path, threads)
        with open_native(path, verify=verify) as native:
            return cls(path, native.manifest, threads=threads)

    def save_pretrained(self, path: str | Path) -> None:
        """Write the same model to another directory, byte for byte (ValidationError: it is not empty)."""
        reserved = {"format", "format_version", "files", "manifest_sha256"}
        with open_native(self.path) as native:
            names = set(native.manifest["files"]) - {"model.safetensors"}
            save_native(
                path,
                tensors={name: native.checkpoint.read(name) for name in native.checkpoint.tensors},
                manifest={key: value for key, value in native.manifest.items() if key not in reserved},
                files={name: _required_file(native, name).read_bytes() for name in sorted(names)},
            )

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model in memory, loaded at the first use."""
        return load_model(self.path, threads=self._threads, verify=False)

    @property
    def config(self) -> ModelConfig:
        """The model's shape and mathematics."""
        return self.loaded.config

    @property
    def model(self) -> DecoderModel | EncoderModel:
        """The model, ready to run."""
        return self.loaded.model

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.loaded.tokenizer

    @property
    def metrics(self) -> Mapping[str, Any]:
        """QuantizationMetrics as plain values: what was measured while quantizing."""
        return _mapping(self.manifest, "metrics")

    @property
    def validation_report(self) -> Mapping[str, Any]:
        """ValidationReport as plain values: both models on held-out text; empty if none was made."""
        return _mapping(self.manifest, "validation_report")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What should be known of how the model was made: of its calibration text, of outliers."""
        return tuple(_mapping(self.manifest, "quantization").get("warnings", ()))

    @property
    def bits_per_weight(self) -> float:
        """Bits on disk per weight of the ternary layers, scales and padding included."""
        linears = _mapping(self.manifest, "linears")
        with open_native(self.path, verify=False) as native:
            tensors = native.checkpoint.tensors
            stored = sum(tensors[f"{name}.{part}"].nbytes for name in linears for part in ("trits", "scales"))
        weights = sum(entry["in_features"] * entry["out_features"] for entry in linears.values())
        return 8 * stored / weights if weights else 0.0


def _check_arguments(source: object, threads: object) -> None:
    if not isinstance(source, str | Path) or not str(source):
        raise ValidationError(
            "A model is named by its path or its hub name (organisation/model), as text or a pathlib.Path.",
            param="source",
        )
    is_count = isinstance(threads, int) and not isinstance(threads, bool) and 1 <= threads <= _MOST_THREADS
    if threads is not None and not is_count:
        raise ValidationError(
            f"threads must be a whole number from 1 to {_MOST_THREADS}, or None for all.", param="threads"
        )


def _build(
    checkpoint: Checkpoint,
    *,
    threads: int | None,
    manifest: Mapping[str, Any] | None,
    reading: Callable[[ModelConfig], ModelConfig] | None,
) -> LoadedModel:
    declared = checkpoint.config or (manifest or {}).get("config")
    if not declared:
        raise ValidationError(
            f"{checkpoint.path} has no config.json: copy it there from where the model comes from.",
            file="config.json",
        )
    config = parse_config(declared, tensors=checkpoint.tensors)
    config = config if reading is None else reading(config)
    weights = CheckpointWeights(checkpoint, config, manifest=manifest)
    device = select_optimal_device(
        checkpoint.total_bytes, threads=threads, product=largest_product(weights.architecture)
    )
    device.use()
    model = build_model(config, weights, pooling=checkpoint.file(POOLING_FILE), threads=device.threads)
    loaded = LoadedModel(checkpoint.path, config, model, device, manifest, checkpoint.embedded)
    if not config.is_encoder and checkpoint.has_file(TOKENIZER_FILE):
        loaded.tokenizer.validate_against(config)  # a wrong tokenizer is found now, not at the first request
    return loaded


def build_model(
    config: ModelConfig, weights: WeightSource, *, pooling: Path | None, threads: int
) -> DecoderModel | EncoderModel:
    """Build the model that a config describes out of these weights.

    Args:
        config: the model's.
        weights: its tensors by name.
        pooling: the file that says how an encoder pools, if there is one.
        threads: of the kernels.

    Raises:
        ValidationError: a tensor is broken, or the pooling is not known here.
    """
    if not config.is_encoder:
        return _MODELS[config.model_type](config, weights, threads=threads)
    if config.model_type == "bert":
        mean = read_pooling(pooling, known=(Pooling.MEAN,), default=Pooling.MEAN)
        return BertModel(config, weights, pooling=mean, threads=threads)
    asked = read_pooling(pooling, known=(Pooling.LAST, Pooling.MEAN), default=None)
    return Qwen3EmbeddingModel(config, weights, pooling=asked, threads=threads)


def _required_file(native: NativeModel, name: str) -> Path:
    path = native.checkpoint.file(name)
    if path is None:
        raise ValidationError(f"The file {name} is missing.", file=name)
    return path


def _mapping(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = manifest.get(name)
    return value if isinstance(value, dict) else {}
