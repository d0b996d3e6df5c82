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
from tritium.model.bert import BertModel
from tritium.model.bitnet import BitNetModel
from tritium.model.config import ModelConfig, parse_config
from tritium.model.gguf_model import open_model
from tritium.model.llama import LlamaModel
from tritium.model.pooling import POOLING_FILE, require_mean_pooling
from tritium.model.tokenizer import TOKENIZER_FILE, Tokenizer
from tritium.model.weights import CheckpointWeights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium.formats.checkpoint import Checkpoint
    from tritium.model.decoder import DecoderModel

# What travels with the weights when a model is saved.
COMPANION_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
    POOLING_FILE,
)
_LARGEST_COMPANION = 1 << 28  # bytes
_MOST_THREADS = 1024  # of the kernels
_MODELS = {"llama": LlamaModel, "bitnet": BitNetModel}


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory with what belongs to it.

    `manifest` is None unless Tritium saved it; `files` is None unless its one file holds the tokenizer too.
    """

    path: Path
    config: ModelConfig
    model: DecoderModel | BertModel
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
    def generator(self) -> DecoderModel:
        """The model as one that continues text (ValidationError: it is an encoder)."""
        if isinstance(self.model, BertModel):
            raise ValidationError("This model turns text into vectors; it cannot generate text.")
        return self.model

    @property
    def encoder(self) -> BertModel:
        """The model as one that turns text into vectors (ValidationError: it generates text)."""
        if not isinstance(self.model, BertModel):
            raise ValidationError("This model generates text; it does not turn text into vectors.")
        return self.model


def load_model(source: str | Path, *, threads: int | None = None, verify: bool = True) -> LoadedModel:
    """Load a model to run it.

    Args:
        source: a directory that Tritium saved, a checkpoint directory, a GGUF file, or a name on the hub.
        threads: of the kernels; None takes what the machine has.
        verify: hash every file of a directory that Tritium saved.

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
            return _build(native.checkpoint, threads=threads, manifest=native.manifest)
    with open_model(source) as checkpoint:
        return _build(checkpoint, threads=threads, manifest=None)


def companion_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Read the files that travel with the weights of a checkpoint: tokenizer, template, configs."""
    files: dict[str, bytes] = {}
    for name in COMPANION_FILES:
        content = checkpoint.read_file(name, limit=_LARGEST_COMPANION)
        if content is not None:
            files[name] = content
    return files


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
    def model(self) -> DecoderModel | BertModel:
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


def _build(checkpoint: Checkpoint, *, threads: int | None, manifest: Mapping[str, Any] | None) -> LoadedModel:
    declared = checkpoint.config or (manifest or {}).get("config")
    if not declared:
        raise ValidationError(
            f"{checkpoint.path} has no config.json: copy it there from where the model comes from.",
            file="config.json",
        )
    config = parse_config(declared)
    weights = CheckpointWeights(checkpoint, config, manifest=manifest)
    count = threads or select_optimal_device(checkpoint.total_bytes).threads
    if config.is_encoder:
        require_mean_pooling(checkpoint.file(POOLING_FILE))
        return LoadedModel(checkpoint.path, config, BertModel(config, weights, threads=count), manifest)
    model = _MODELS[config.model_type](config, weights, threads=count)
    loaded = LoadedModel(checkpoint.path, config, model, manifest, checkpoint.embedded)
    if checkpoint.has_file(TOKENIZER_FILE):
        loaded.tokenizer.validate_against(config)  # a wrong tokenizer is found now, not at the first request
    return loaded


def _required_file(native: NativeModel, name: str) -> Path:
    path = native.checkpoint.file(name)
    if path is None:
        raise ValidationError(f"The file {name} is missing.", file=name)
    return path


def _mapping(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = manifest.get(name)
    return value if isinstance(value, dict) else {}
