"""Algorithm 1, in steps that survive a crash: plan, one call per layer, assemble.

`quantize_model` walks them in a row. A durable workflow calls them itself, in any process and any order of
the layers: a finished layer lies in the work directory as one file, written atomically, and is not computed
again. A layer's bytes depend on the source, the calibration text and the configuration alone, so the
assembled directory is the same whoever computed it and however often it was interrupted. What depends on the
run (seconds) is in the returned objects and in a file beside the directory, not in it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritium.errors import ValidationError
from tritium.formats.native import is_native
from tritium.kernels.device import select_optimal_device
from tritium.quantize.allocator import return_large_arrays
from tritium.quantize.assemble import assemble
from tritium.quantize.budget import check_budget, shares_of
from tritium.quantize.calibrate import Calibration
from tritium.quantize.config import Profile, QuantizationConfig, QuantizationStrategy
from tritium.quantize.detect import detect_ternary
from tritium.quantize.evaluate import encoder_passages, sha256_of
from tritium.quantize.generate import beginning_token
from tritium.quantize.layer import check_overrides, describe_native, quantize_weights, settings_of
from tritium.quantize.layer_file import read_layer_report, write_layer
from tritium.quantize.plan import QuantizationPlan
from tritium.quantize.report import LayerReport, ModelKind, QuantizationProgress, Stage
from tritium.quantize.selfcheck import check_source
from tritium.quantize.source import Source, open_source
from tritium.quantize.text import read_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritium.model.pretrained import QuantizedModel
    from tritium.quantize.budget import Share
    from tritium.quantize.plan import PlannedLayer

__all__ = ["assemble", "plan_quantization", "quantize_layer", "quantize_model"]


def plan_quantization(source: str | Path, config: QuantizationConfig | None = None) -> QuantizationPlan:
    """Check the source and the configuration and list the layers to quantize; nothing is computed yet.

    Args:
        source: a checkpoint directory, a .safetensors or GGUF file, or a hub name.
        config: what to do; None takes the defaults.

    Raises:
        ValidationError: a broken or unknown checkpoint, or one whose numbers contradict its config; an
            override that matches no layer, a text that cannot be read, or a text for a model without a
            tokenizer.
    """
    config = QuantizationConfig() if config is None else config
    if not isinstance(config, QuantizationConfig):
        raise ValidationError(
            f"config must be a QuantizationConfig, not {type(config).__name__}; "
            "QuantizationConfig.from_dict makes one of plain values.",
            field="config",
        )
    with open_source(source) as opened:
        check_source(opened)
        layers = opened.layers()
        check_overrides(config, [layer.name for layer in layers])
        check_budget(config, layers, is_ternary=all(opened.is_ternary(layer.name) for layer in layers))
        calibration = _checked_text(config.calibration_text, opened)
        _checked_text(config.validation_text, opened)
        if opened.kind is ModelKind.ENCODER and config.validation_text is not None:
            encoder_passages(read_text(config.validation_text))  # too few are refused now, not after the work
        _check_strategies(config, layers)
        _check_profile(config, opened)
        opened.doubts(config)  # what cannot calibrate at all is refused now
        opened.check_finite()
        return QuantizationPlan(
            source=str(opened.path),
            source_sha256=opened.sha256(),
            kind=opened.kind,
            config=config,
            calibration_sha256=calibration,
            layers=layers,
        )


def quantize_layer(
    plan: QuantizationPlan, index: int, workdir: str | Path, *, threads: int | None = None
) -> dict[str, Any]:
    """Quantize one layer of a plan into `workdir` and return its LayerReport as plain values.

    Does nothing but read the report if the layer was finished before. With a calibration text the layers
    before it are finished first, where they are not: its inputs are what they make of the text.

    Args:
        plan: from plan_quantization.
        index: which of plan.layers.
        workdir: the directory of this plan's unfinished work; created if it is missing.
        threads: of the kernels; they do not change the result.

    Raises:
        ValidationError: the index is out of range, or the source changed or cannot be read.
        QuantizationError: names the layer.
        ResourceError: the disk is full.
    """
    if not 0 <= index < len(plan.layers):
        raise ValidationError(f"The plan has {len(plan.layers)} layers; {index} is not one of them.")
    directory = _work_directory(workdir)
    finished = read_layer_report(plan, index, directory)
    if finished is not None:
        return finished.to_dict()
    return_large_arrays()
    with open_source(plan.source) as source:
        shares = shares_of(plan, directory, source, threads=threads)
        calibration = _calibration(plan, directory, source=source, threads=threads)
        finish = partial(
            _quantize_one,
            plan,
            workdir=directory,
            source=source,
            calibration=calibration,
            shares=shares,
            threads=threads,
        )
        first = index if calibration is None else calibration.first_missing(index)
        for earlier in range(first, index):
            # With a calibration text a layer answers to what the layers before it became.
            if read_layer_report(plan, earlier, directory) is None:
                finish(earlier)
        return finish(index).to_dict()


def quantize_model(
    source: str | Path,
    config: QuantizationConfig | None = None,
    *,
    out: str | Path | None = None,
    workdir: str | Path | None = None,
    threads: int | None = None,
    progress: Callable[[QuantizationProgress], None] | None = None,
) -> QuantizedModel:
    """Quantize a model to ternary weights, layer by layer, and report what came of it.

    One layer's weights are in memory at a time. Called again after a crash with the same `out`, it goes on
    where it stopped.

    Args:
        source: a checkpoint directory, a .safetensors or GGUF file, or a hub name.
        config: what to do; None takes the defaults.
        out: a new or empty directory for the model; None takes a temporary one that goes with the result.
            What was timed lies beside it, in a file of its name and `.run.json`.
        workdir: where unfinished layers lie; by default beside `out`.
        threads: of the kernels; None takes what the machine has.
        progress: called after every step.

    Raises:
        ValidationError: the source, the configuration or a text is wrong, or `out` is in use.
        QuantizationError: names the layer that failed.
        ResourceError: the disk is full.
    """
    target, temporary = _target(out)
    plan = plan_quantization(source, config)
    _tell(progress, Stage.PLAN, 1, 1)
    if is_native(target):
        return assemble(plan, target.parent, target, threads=threads, progress=progress)
    directory = _work_directory(workdir or target.with_name(f".{target.name}.quantizing"))
    try:
        seconds = _quantize_layers(plan, directory, threads=threads, progress=progress)
        model = assemble(
            plan,
            directory,
            target,
            threads=threads,
            progress=progress,
            seconds=seconds,
            keeps_timing=True,
        )
    except BaseException:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)
    if temporary is not None:
        weakref.finalize(model, shutil.rmtree, temporary, ignore_errors=True)
    return model


def _quantize_layers(
    plan: QuantizationPlan,
    workdir: Path,
    *,
    threads: int | None,
    progress: Callable[[QuantizationProgress], None] | None,
) -> float | None:
    """Finish all layers; return the seconds this took, None if some were finished before."""
    return_large_arrays()
    total = len(plan.layers)
    is_complete_run = True
    started = time.perf_counter()
    with open_source(plan.source) as source:
        calibration = shares = None
        if any(read_layer_report(plan, index, workdir) is None for index in range(total)):
            shares = shares_of(plan, workdir, source, threads=threads)
            calibration = _calibration(plan, workdir, source=source, threads=threads)
            _tell(progress, Stage.CALIBRATE, 1, 1)
        for index in range(total):
            report = read_layer_report(plan, index, workdir)
            if report is None:
                report = _quantize_one(
                    plan,
                    index,
                    workdir,
                    source=source,
                    calibration=calibration,
                    shares=shares,
                    threads=threads,
                )
            else:
                is_complete_run = False
            _tell(progress, Stage.LAYER, index + 1, total, report=report)
    return time.perf_counter() - started if is_complete_run else None


def _calibration(
    plan: QuantizationPlan, workdir: Path, *, source: Source, threads: int | None
) -> Calibration | None:
    """Return what tells the layers' inputs; None without a text, or where no layer asks for them."""
    if not plan.config.is_calibrated or all(source.is_ternary(name) for name in plan.layer_names):
        return None
    return Calibration(plan, workdir, source=source, threads=threads)


def _quantize_one(
    plan: QuantizationPlan,
    index: int,
    workdir: Path,
    *,
    source: Source,
    calibration: Calibration | None,
    shares: tuple[Share, ...] | None,
    threads: int | None,
) -> LayerReport:
    layer = plan.layers[index]
    share = None if shares is None else shares[index]
    if source.is_ternary(layer.name):
        quantized = source.ternary_weights(layer.name)
        report = describe_native(quantized, layer=layer)
    else:
        quantized, report = quantize_weights(
            source.dense_weights(layer.name),
            layer=layer,
            config=plan.config,
            inputs=None if calibration is None else calibration.inputs(index),
            planes=None if share is None else share.planes,
            threads=threads or select_optimal_device(0).threads,
        )
        if share is not None:
            report = replace(report, sensitivity=share.sensitivity, predicted_loss=share.predicted_loss)
        source.forget(layer.name)  # a large checkpoint is memory-mapped: its pages are let go again
    write_layer(plan, index, workdir, quantized=quantized, report=report)
    return report


def _check_strategies(config: QuantizationConfig, layers: tuple[PlannedLayer, ...]) -> None:
    """Raise ValidationError for a layer that cannot be compensated because there is no calibration text."""
    for layer in () if config.is_calibrated else layers:
        if settings_of(config, layer.name).strategy is QuantizationStrategy.COMPENSATED:
            raise ValidationError(
                f"The strategy compensated, asked for {layer.name}, needs a calibration text.",
                field="calibration_text",
            )


def _check_profile(config: QuantizationConfig, source: Source) -> None:
    """Raise ValidationError for a profile that this source cannot have."""
    if config.writes_its_text:
        beginning_token(source.config)
    if config.profile is Profile.BEST:
        _check_training(source)
    if config.profile is Profile.NATIVE:
        _check_ternary(source)


def _check_ternary(source: Source) -> None:
    """Raise ValidationError for a layer that is not ternary, neither packed nor in dense weights."""
    for layer in source.layers():
        if source.is_ternary(layer.name):
            continue
        if detect_ternary(source.dense_weights(layer.name)) is None:
            raise ValidationError(
                f"The profile native keeps a ternary model as it is, and {layer.name} is dense in this one: "
                "choose fast or balanced.",
                field="profile",
            )
        source.forget(layer.name)


def _check_training(source: Source) -> None:
    """Raise ValidationError where layers cannot learn: no torch here, or an architecture it does not know."""
    try:
        from tritium.quantize.differentiable import check_known  # noqa: PLC0415 - torch is an extra
    except ImportError as error:
        raise ValidationError(
            "The profile best trains with torch, which is not installed: pip install 'tritium[train]', or "
            "choose balanced.",
            field="profile",
        ) from error
    check_known(source.config)


def _checked_text(text: str | Path | None, source: Source) -> str | None:
    """Return the SHA-256 of a text that can be read and tokenised for this model."""
    if text is None:
        return None
    if not source.has_tokenizer:
        raise ValidationError(
            f"{source.path.name} has no tokenizer.json, so no text can be run through it: "
            "add the file or leave the text out.",
            file="tokenizer.json",
        )
    return sha256_of(read_text(text))


def _work_directory(workdir: str | Path) -> Path:
    directory = Path(workdir)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValidationError(f"{directory} cannot be used as a work directory: {error.strerror}.") from error
    return directory


def _target(out: str | Path | None) -> tuple[Path, Path | None]:
    """Return where the model goes, and the temporary directory around it if there is one."""
    if out is None:
        temporary = Path(tempfile.mkdtemp(prefix="tritium-"))
        return temporary / "model", temporary
    target = Path(out).absolute()
    if target.exists() and not is_native(target) and not (target.is_dir() and not any(target.iterdir())):
        raise ValidationError(f"{target} is in use. Remove it or choose another place.", file=target.name)
    return target, None


def _tell(
    progress: Callable[[QuantizationProgress], None] | None,
    stage: Stage,
    completed: int,
    total: int,
    *,
    report: LayerReport | None = None,
) -> None:
    if progress is None:
        return
    if report is None:
        progress(QuantizationProgress(stage=stage, completed=completed, total=total))
        return
    progress(
        QuantizationProgress(
            stage=stage,
            completed=completed,
            total=total,
            layer=report.name,
            planes=report.planes,
            loss=report.loss,
        )
    )
