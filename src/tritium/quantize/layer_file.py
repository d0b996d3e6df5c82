"""A finished layer in the work directory: one safetensors file that names the plan it belongs to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import ValidationError
from tritium.formats.safetensors import write_safetensors
from tritium.formats.weight_file import WeightFile
from tritium.kernels.packing import unpack_trits
from tritium.quantize.report import LayerReport
from tritium.quantize.weights import QuantizedWeights

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from tritium.quantize.plan import QuantizationPlan

TRITS = "trits"
SCALES = "scales"


def layer_path(plan: QuantizationPlan, index: int, workdir: Path) -> Path:
    """Return where a layer's file lies."""
    return workdir / f"{plan.layers[index].name}.safetensors"


def write_layer(
    plan: QuantizationPlan, index: int, workdir: Path, *, quantized: QuantizedWeights, report: LayerReport
) -> None:
    """Write a finished layer, whole or not at all; the same layer gives the same bytes."""
    about = {"plan": plan.digest, "divides": quantized.divides, "report": report.to_dict()}
    if quantized.scale_unit is not None:
        about["scale_unit"] = quantized.scale_unit
    write_safetensors(
        layer_path(plan, index, workdir),
        {TRITS: quantized.packed(), SCALES: quantized.scales},
        metadata={"layer": json.dumps(about, sort_keys=True)},
    )


def read_layer_report(plan: QuantizationPlan, index: int, workdir: Path) -> LayerReport | None:
    """Return the report of a layer that is finished; None if it is not, or was made for another plan."""
    path = layer_path(plan, index, workdir)
    if not path.is_file():
        return None
    try:
        with WeightFile(path, memory_map=False) as file:
            about = _about(plan, file)
    except ValidationError:
        return None  # a damaged file is computed again
    return None if about is None else LayerReport.from_dict(about["report"])


def read_layer(
    plan: QuantizationPlan, index: int, workdir: Path
) -> tuple[NDArray[Any], NDArray[Any], dict[str, Any]]:
    """Return a finished layer's packed trits, its scales and its manifest entry; arrays are memory-mapped.

    Raises:
        ValidationError: the layer is not finished.
    """
    layer = plan.layers[index]
    path = layer_path(plan, index, workdir)
    if not path.is_file():
        raise ValidationError(f"The layer {layer.name} is not quantized yet.", layer=layer.name)
    with WeightFile(path, memory_map=True) as file:
        about = _about(plan, file)
        if about is None:
            raise ValidationError(f"The layer {layer.name} was quantized for another plan.", layer=layer.name)
        report = LayerReport.from_dict(
            about["report"]
        ).to_dict()  # a file of an earlier version may lack figures
        del report["name"]
        entry = {
            **report,
            "out_features": layer.out_features,
            "in_features": layer.in_features,
            "divides": about["divides"],
        }
        if "scale_unit" in about:
            entry["scale_unit"] = about["scale_unit"]
        return file.read(file.tensors[TRITS]), file.read(file.tensors[SCALES]), entry


def read_weights(plan: QuantizationPlan, index: int, workdir: Path) -> QuantizedWeights:
    """Return a finished layer's levels and scales (ValidationError: it is not finished)."""
    layer = plan.layers[index]
    packed, scales, entry = read_layer(plan, index, workdir)
    shape = (layer.out_features, layer.in_features)
    levels = np.zeros(shape, dtype=np.int8)
    for digits in packed:
        levels *= 3
        levels += unpack_trits(np.ascontiguousarray(digits), count=levels.size).reshape(shape)
    return QuantizedWeights(
        levels=levels,
        scales=np.array(scales),
        planes=entry["planes"],
        group_size=entry["group_size"],
        divides=entry["divides"],
        scale_unit=entry.get("scale_unit"),
    )


def _about(plan: QuantizationPlan, file: WeightFile) -> dict[str, Any] | None:
    try:
        about = json.loads(file.metadata.get("layer", ""))
    except ValueError:
        return None
    if (
        not isinstance(about, dict)
        or about.get("plan") != plan.digest
        or {TRITS, SCALES} - file.tensors.keys()
    ):
        return None
    return about
