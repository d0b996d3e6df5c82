"""Writes a ternary decoder as a Hugging Face checkpoint (`quant_method: bitnet`) that transformers loads."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tritium.errors import ValidationError
from tritium.formats.bitnet_hf import CODES_PER_BYTE, pack_bitnet
from tritium.formats.checkpoint import CONFIG, SINGLE
from tritium.formats.floats import float32_to_bfloat16
from tritium.formats.safetensors import PlannedTensor, serialize_planned
from tritium.formats.storage import staged_directory, write_synced
from tritium.kernels import packing
from tritium.model.companions import companion_files
from tritium.model.export import ExportReport
from tritium.model.opened import OpenedModel, opened_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tritium.kernels.weight import TernaryWeight

# Whose linear layers transformers names as we do, and whose mathematics we have compared with it.
MODEL_TYPES: Final = ("llama", "bitnet")


ROWS_AT_ONCE = 4096  # of a matrix that is copied: bounds what is in memory


class LinearClass(StrEnum):
    """What `weight_scale` does to the product of activations and trits."""

    BITLINEAR = "bitlinear"
    """It divides."""
    AUTOBITLINEAR = "autobitlinear"
    """It multiplies (quantization_mode "offline")."""


def export_huggingface(
    source: str | Path, out: str | Path, *, linear_class: str | None = None
) -> ExportReport:
    """Write a ternary model with one scale per tensor as packed safetensors, config and tokenizer.

    Args:
        source: a directory that Tritium saved, a native ternary checkpoint, or a GGUF file.
        out: a new or empty directory.
        linear_class: "bitlinear" or "autobitlinear"; None takes the one that leaves the bytes of the scales
            as they are. The other inverts them, in float32.

    Raises:
        ValidationError: an encoder or another architecture, or a layer that does not fit: several planes, or
            several scales.
        ResourceError: the disk is full.
    """
    if linear_class is not None and linear_class not in {kind.value for kind in LinearClass}:
        raise ValidationError(
            f"{linear_class!r} is not one of {', '.join(LinearClass)}.", field="linear_class"
        )
    with opened_model(source) as model:
        return _Export(model, Path(out), linear_class).run()


class _Export:
    """One export: everything is checked before the directory appears, and packed when its turn comes."""

    def __init__(self, model: OpenedModel, out: Path, linear_class: str | None) -> None:
        self.checkpoint, self.weights, self.declared = model.checkpoint, model.weights, model.declared
        self.linear_class = linear_class
        self.kept_dense: list[str] = []
        self.report = ExportReport(out)
        self.tensors: dict[str, PlannedTensor] = {}

    def run(self) -> ExportReport:
        model_type = self.weights.config.model_type
        if model_type not in MODEL_TYPES:
            raise ValidationError(
                f"Hugging Face export knows {' and '.join(MODEL_TYPES)}, not {model_type}.",
                field="model_type",
            )
        for name in self.weights.architecture.linears:
            self._linear(name)
        if not self.report.ternary_tensors:
            raise ValidationError(
                "This model has no ternary layer: quantize it first, with strategy absmean and max_planes 1."
            )
        for name in self.weights.architecture.tensors:
            self._other(name)
        self._write()
        return self.report

    def _linear(self, name: str) -> None:
        weight, bias = self.weights.ternary_weight(name), self.weights.bias(name)
        self.weights.forget(name)
        if weight is None:
            self.report.dense_tensors += 1
            self.kept_dense.append(name)
            self._as_stored(f"{name}.weight")
            if bias is not None:
                self._as_stored(f"{name}.bias")
            return
        self.report.ternary_tensors += 1
        _require_fit(name, weight)
        if weight.out_features % CODES_PER_BYTE:
            self._note(
                "transformers cannot load layers whose outputs are no multiple of four "
                f"({name} has {weight.out_features}); Tritium can."
            )
        shape = (-(-weight.out_features // CODES_PER_BYTE), weight.in_features)
        self.tensors[f"{name}.weight"] = PlannedTensor(np.dtype(np.uint8), shape, lambda: self._packed(name))
        self.tensors[f"{name}.weight_scale"] = PlannedTensor.of(self._scale(name, weight))
        if bias is not None:
            self.tensors[f"{name}.bias"] = PlannedTensor.of(self._bias(name, weight, bias))

    def _packed(self, name: str) -> Iterator[NDArray[np.uint8]]:
        """Read a layer again and pack it: a plan that kept all of them would be the model."""
        weight = self.weights.ternary_weight(name)
        assert weight is not None  # noqa: S101 - it was one when it was planned
        self.weights.forget(name)
        yield pack_bitnet(packing.from_compute_layout(weight.planes[0], count=weight.in_features))

    def _scale(self, name: str, weight: TernaryWeight) -> NDArray[Any]:
        own = LinearClass.BITLINEAR if weight.divides else LinearClass.AUTOBITLINEAR
        self.linear_class = self.linear_class or own
        stored = self.weights.stored_scales(name).reshape(1)
        if self.linear_class == own:
            return stored
        exact = 1 / weight.scales.astype(np.float64).reshape(1)
        inverted: NDArray[np.float32] = exact.astype(np.float32)
        self.report.note_rounding(float(abs(inverted[0] / exact[0] - 1)))
        self._note(f"weight_scale was inverted for {self.linear_class} and is float32.")
        return inverted

    def _bias(self, name: str, weight: TernaryWeight, bias: NDArray[np.float32]) -> NDArray[Any]:
        """Return the bias as the target adds it: bitlinear last, autobitlinear before the scale."""
        is_before_scale = self.weights.adds_bias_before_scale(name)
        if is_before_scale == (self.linear_class == LinearClass.AUTOBITLINEAR):
            return self.checkpoint.read(f"{name}.bias")
        if not is_before_scale:
            self._note(
                "Biases were divided by their layer's scale, in float32: autobitlinear adds them first."
            )
            scale = weight.scales.reshape(1)
            return bias * scale if weight.divides else bias / scale
        return bias

    def _other(self, name: str) -> None:
        form = self.weights.table_form(name)
        if form is None:
            self._as_stored(name)
            return
        shape = self.weights.architecture.tensors[name]
        self.tensors[name] = PlannedTensor(
            np.dtype(np.uint16), shape, lambda: map(float32_to_bfloat16, self.weights.float32_rows(name))
        )
        self._note(f"{name} has {form}; it was decoded and rounded to bfloat16.")

    def _as_stored(self, name: str) -> None:
        """Plan to copy a tensor; a matrix is read in pieces of rows."""
        shape = self.checkpoint.tensors[name].shape
        if len(shape) == 1:
            self.tensors[name] = PlannedTensor.of(self.checkpoint.read(name))
            return
        pieces = [
            range(start, min(start + ROWS_AT_ONCE, shape[0])) for start in range(0, shape[0], ROWS_AT_ONCE)
        ]
        dtype = self.checkpoint.read_rows(name, range(1)).dtype
        self.tensors[name] = PlannedTensor(
            dtype, shape, lambda: (self.checkpoint.read_rows(name, rows) for rows in pieces)
        )

    def _note(self, text: str) -> None:
        if text not in self.report.notes:
            self.report.notes.append(text)

    def _config(self) -> dict[str, Any]:
        return {
            **self.declared,
            "quantization_config": {
                "quant_method": "bitnet",
                "linear_class": self.linear_class,
                "quantization_mode": "offline",
                "modules_to_not_convert": ["lm_head", *self.kept_dense],
            },
        }

    def _write(self) -> None:
        files = companion_files(self.checkpoint)
        files[CONFIG] = json.dumps(self._config(), indent=2).encode() + b"\n"
        with staged_directory(self.report.path) as staging:
            weights = staging / SINGLE
            write_synced(weights, serialize_planned(self.tensors, file=weights, metadata={"format": "pt"}))
            for name, data in files.items():
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                write_synced(staging / name, [data])
        for tensor in self.tensors.values():
            self.report.bytes += tensor.nbytes
            self.report.count("bfloat16" if tensor.dtype == np.uint16 else str(tensor.dtype))


def _require_fit(name: str, weight: TernaryWeight) -> None:
    planes, scales = weight.planes.shape[0], weight.scales.size
    if planes == 1 and scales == 1:
        return
    problem = f"it has {planes} trit-planes" if planes > 1 else f"it has {scales} scales"
    raise ValidationError(
        f"The layer {name} does not fit quant_method bitnet, which has one plane and one scale per tensor: "
        f"{problem}. Quantize with the strategy absmean and max_planes 1, or export to GGUF.",
        layer=name,
    )
