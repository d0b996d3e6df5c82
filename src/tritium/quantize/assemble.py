"""Finished layers and the rest of the source become one model directory, measured and validated."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritium.errors import ValidationError
from tritium.formats.native import is_native, open_native, save_native
from tritium.model.architecture import largest_product
from tritium.model.pretrained import QuantizedModel
from tritium.quantize.config import Profile
from tritium.quantize.evaluate import sha256_of
from tritium.quantize.figures import (
    layer_times,
    quantization_figures,
    run_speeds,
    validation_figures,
    without_run_figures,
)
from tritium.quantize.four_bit import four_bit_bytes
from tritium.quantize.layer_file import read_layer
from tritium.quantize.record import MEASURED, RECORD, RunRecord
from tritium.quantize.report import QuantizationMetrics, QuantizationProgress, Stage, ValidationReport
from tritium.quantize.source import Source, open_source
from tritium.quantize.tables import rounded_tables
from tritium.quantize.text import read_text
from tritium.quantize.timing import Timing, write_timing
from tritium.quantize.validate import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from tritium.quantize.plan import QuantizationPlan

OUTLIER_KURTOSIS = 50  # 3 for a Gaussian, 6 for a Laplace distribution


def assemble(
    plan: QuantizationPlan,
    workdir: str | Path,
    out: str | Path,
    *,
    threads: int | None = None,
    progress: Callable[[QuantizationProgress], None] | None = None,
    seconds: float | None = None,
    keeps_timing: bool = False,
) -> QuantizedModel:
    """Write the finished layers of a plan as a model directory, after running it against its source.

    The directory appears whole or not at all. If it is there already from this plan and was validated as the
    plan asks, it is returned as it is.

    Args:
        plan: from plan_quantization.
        workdir: where quantize_layer left all layers.
        out: a new or empty directory.
        threads: of the kernels while both models run over the validation text.
        progress: called after every step.
        seconds: wall time of the layers' quantization, for the metrics.
        keeps_timing: write what was timed, and on which machine, to a file beside `out`.

    Raises:
        ValidationError: a layer is missing, the source changed since it was planned, or `out` is in use.
        ResourceError: the disk is full.
    """
    target = Path(out)
    if is_native(target):
        return _finished(plan, target)
    staged = Path(workdir) / "assembled"
    shutil.rmtree(staged, ignore_errors=True)
    with open_source(plan.source) as source:
        if source.sha256() != plan.source_sha256:
            raise ValidationError(f"{source.path} changed since the quantization was planned; plan it again.")
        layers = _learned(plan, Path(workdir), source, progress=progress)
        product = largest_product(source.weights.architecture)
        tensors, linears = _collect(plan, layers, source)
        coded = rounded_tables(
            plan.config,
            source,
            tensors,
            is_exact=all(entry["is_lossless"] for entry in linears.values()),
            workdir=Path(workdir),
            threads=threads,
        )
        record = _record(plan, source, linears=linears, coded=coded)
        sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
        metrics = quantization_figures(record, linears=linears, coded=coded, tensor_bytes=sizes)
        manifest = _manifest(plan, source, linears=linears, coded=coded, metrics=metrics)
        if plan.config.validation_text is not None:
            # What is judged is what was saved and loaded again, not what lies in memory.
            save_native(staged, tensors=tensors, manifest=manifest, files=source.companions())
        found = validate(plan, staged, threads=threads, progress=progress)
        record = replace(record, text=found.text)
        report = validation_figures(record.kind, record.text)
        manifest["validation_report"] = without_run_figures(report.to_dict())
        files = {**source.companions(), RECORD: record.to_bytes()}
        save_native(target, tensors=tensors, manifest=manifest, files=files)
    shutil.rmtree(staged, ignore_errors=True)
    timing = Timing.here(threads=threads, product=product, layer_seconds=seconds, speeds=found.speeds)
    if keeps_timing:
        write_timing(timing, target)
    if progress is not None:
        progress(QuantizationProgress(stage=Stage.ASSEMBLE, completed=1, total=1))
    return _with_run_figures(target, metrics=metrics, report=report, timing=timing, threads=threads)


def _learned(
    plan: QuantizationPlan,
    workdir: Path,
    source: Source,
    *,
    progress: Callable[[QuantizationProgress], None] | None,
) -> Path:
    """Return where the finished layers lie; with the profile best they learn first."""
    if plan.config.profile is not Profile.BEST:
        return workdir
    from tritium.quantize.distill import distill  # noqa: PLC0415 - torch is an extra

    def tell(completed: int, total: int) -> None:
        if progress is not None:
            progress(QuantizationProgress(stage=Stage.LEARN, completed=completed, total=total))

    return distill(plan, workdir, source=source, progress=tell)


def _collect(
    plan: QuantizationPlan, workdir: Path, source: Source
) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, Any]]]:
    """Return all tensors (memory-mapped where they come from layer files) and the manifest's linears."""
    tensors = source.other_tensors()
    linears = {}
    for index, layer in enumerate(plan.layers):
        trits, scales, linears[layer.name] = read_layer(plan, index, workdir)
        tensors[f"{layer.name}.trits"] = trits
        tensors[f"{layer.name}.scales"] = scales
    return tensors, linears


def _record(
    plan: QuantizationPlan,
    source: Source,
    *,
    linears: Mapping[str, Mapping[str, Any]],
    coded: Mapping[str, Mapping[str, Any]],
) -> RunRecord:
    return RunRecord(
        kind=plan.kind,
        source_sha256=plan.source_sha256,
        source_parameters=source.parameters(),
        source_bytes=source.checkpoint.total_bytes,
        four_bit_bytes=four_bit_bytes(source.weights),
        layers={name: {key: entry[key] for key in MEASURED} for name, entry in linears.items()},
        coded_errors={name: entry["weight_error"] for name, entry in coded.items()},
    )


def _manifest(
    plan: QuantizationPlan,
    source: Source,
    *,
    linears: Mapping[str, Mapping[str, Any]],
    coded: Mapping[str, Mapping[str, Any]],
    metrics: QuantizationMetrics,
) -> dict[str, Any]:
    config = plan.config.to_dict()
    warnings = [*source.doubts(plan.config), *_outliers(plan, linears)]
    for name in ("calibration_text", "validation_text"):
        del config[name]  # the texts themselves and where they lie stay with the user
    return {
        **({"coded": coded} if coded else {}),
        "config": source.config_without_convention(),
        "linears": linears,
        "metrics": without_run_figures(metrics.to_dict()),
        "quantization": {
            "plan": plan.digest,
            "config": config,
            "source_sha256": plan.source_sha256,
            "source_convention": source.config.ternary.convention.value,
            "source_format": source.checkpoint.format,
            "source_rounded_tensors": source.rounded_tensors,
            "calibration_sha256": plan.calibration_sha256,
            **({"warnings": warnings} if warnings else {}),
        },
    }


def _outliers(plan: QuantizationPlan, linears: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tell of layers whose error is that of a few weights, where no text judged what became of the rest."""
    found = [
        (entry["kurtosis"], name)
        for name, entry in linears.items()
        if entry["output_error"] is None and (entry["kurtosis"] or 0) > OUTLIER_KURTOSIS
    ]
    if not found or plan.config.validation_text is not None:
        return []
    worst, name = max(found)
    warning = (
        f"In {len(found)} of {len(linears)} layers a few weights are far larger than the others (most so in "
        f"{name}: kurtosis {worst:.0f}), and their weight error says little of the others. Give a text."
    )
    return [warning]


def _finished(plan: QuantizationPlan, target: Path) -> QuantizedModel:
    """Return the model at `target` if it is the one asked for, with the report asked for."""
    model = QuantizedModel.from_pretrained(target)
    made = model.manifest.get("quantization", {})
    if made.get("plan") != plan.digest:
        raise ValidationError(
            f"{target} holds another quantized model: its source, its calibration text or its configuration "
            "is not the one asked for now. Remove it or choose another directory.",
            file=target.name,
        )
    text, tokens = plan.config.validation_text, plan.config.validation_tokens
    asked = None if text is None else (sha256_of(read_text(text)), tokens)
    judged_on = model.validation_report.get("text_sha256")
    if asked != (judged_on and (judged_on, made.get("config", {}).get("validation_tokens"))):
        raise ValidationError(
            f"{target} holds this quantized model already, but its report was made on another "
            "validation text or number of tokens. Ask for the same, remove it, or choose another "
            "directory; `tritium eval` measures a model on any text.",
            file=target.name,
        )
    return model


def _with_run_figures(
    target: Path,
    *,
    metrics: QuantizationMetrics,
    report: ValidationReport,
    timing: Timing,
    threads: int | None,
) -> QuantizedModel:
    times = layer_times(metrics.quantized_parameters, timing.layer_seconds)
    with open_native(target, verify=False) as native:
        manifest = {
            **native.manifest,
            "metrics": metrics.to_dict() | times,
            "validation_report": report.to_dict() | run_speeds(timing.speeds),
        }
    return QuantizedModel(target, manifest, threads=threads)
