"""One layer of Algorithm 1: analyse, choose, quantize, measure, escalate, record."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING

from tritium.errors import QuantizationError, ValidationError
from tritium.formats.native import TRITS_PER_BYTE
from tritium.quantize.absmean import quantize_absmean
from tritium.quantize.adaptive import choose_strategy, quantize_adaptive
from tritium.quantize.compensate import quantize_compensated
from tritium.quantize.config import LayerOverride, QuantizationConfig, QuantizationStrategy
from tritium.quantize.detect import DETECTED, detect_ternary, shares_scale
from tritium.quantize.planes import quantize_planes
from tritium.quantize.quality import output_error, output_errors, weight_error
from tritium.quantize.report import LayerReport
from tritium.quantize.standard import quantize_standard
from tritium.quantize.stats import WeightDistribution, analyze_weight_distribution
from tritium.quantize.weights import QuantizedWeights, is_lossless

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tritium.quantize.inputs import LayerInputs
    from tritium.quantize.plan import PlannedLayer


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSettings:
    """What is asked of one layer once overrides are applied; as in QuantizationConfig."""

    strategy: QuantizationStrategy
    group_size: int
    min_planes: int
    max_planes: int
    max_acceptable_loss: float


def check_overrides(config: QuantizationConfig, names: Sequence[str]) -> None:
    """Raise ValidationError for an override whose pattern matches none of the layers."""
    for pattern in config.layers:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValidationError(
                f"The override {pattern!r} matches no linear layer of this model.", layer=pattern
            )


def settings_of(config: QuantizationConfig, name: str) -> LayerSettings:
    """Return what is asked of a layer: its exact override wins, else the first pattern that matches."""
    override = config.layers.get(name) or next(
        (found for pattern, found in config.layers.items() if fnmatchcase(name, pattern)), LayerOverride()
    )
    planes = override.planes
    return LayerSettings(
        strategy=override.strategy or config.strategy,
        group_size=config.group_size if override.group_size is None else override.group_size,
        min_planes=config.min_planes if planes is None else planes,
        max_planes=config.max_planes if planes is None else planes,
        max_acceptable_loss=config.max_acceptable_loss,
    )


def quantize_weights(
    weights: NDArray[np.float32],
    *,
    layer: PlannedLayer,
    config: QuantizationConfig,
    inputs: LayerInputs | None,
    planes: int | None = None,
    threads: int = 1,
) -> tuple[QuantizedWeights, LayerReport]:
    """Quantize one dense layer; one that is ternary already is kept as it is, whatever is asked for.

    Args:
        weights: float32 [N, K].
        layer: which layer it is.
        config: what is asked for.
        inputs: real inputs of the layer; None judges the layer by its weights.
        planes: exactly so many trit-planes, as a budget of the whole model gives them; None escalates.
        threads: of the kernels; they do not change the result.

    Raises:
        QuantizationError: names the layer and what went wrong.
    """
    try:
        settings = settings_of(config, layer.name)
        if planes is not None:
            settings = _with_share(settings, planes=planes, is_data_free=inputs is None)
        return _quantize(weights, layer=layer, settings=settings, inputs=inputs, threads=threads)
    except (FloatingPointError, MemoryError, ValueError) as error:
        raise QuantizationError(
            f"The layer {layer.name} cannot be quantized: {error}", layer=layer.name
        ) from error


def _with_share(settings: LayerSettings, *, planes: int, is_data_free: bool) -> LayerSettings:
    strategy = settings.strategy
    if strategy is QuantizationStrategy.AUTO and is_data_free:
        strategy = QuantizationStrategy.STANDARD  # `adaptive` may take finer groups, which nobody counted
    return replace(settings, strategy=strategy, min_planes=planes, max_planes=planes)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Candidate:
    """Weights as one strategy quantizes them."""

    strategy: str
    quantized: QuantizedWeights


def _quantize(
    weights: NDArray[np.float32],
    *,
    layer: PlannedLayer,
    settings: LayerSettings,
    inputs: LayerInputs | None,
    threads: int,
) -> tuple[QuantizedWeights, LayerReport]:
    distribution = analyze_weight_distribution(weights, threads=threads)
    measure = partial(
        _report, weights, layer=layer, distribution=distribution, inputs=inputs, threads=threads
    )
    ternary = detect_ternary(weights)
    if ternary is not None:
        report = measure(_Candidate(strategy=DETECTED, quantized=ternary))
        return ternary, replace(report, source_scales=shares_scale(ternary))
    simple = settings.strategy
    if simple is QuantizationStrategy.AUTO:
        simple = choose_strategy(distribution, kind=layer.kind)
    group_size = settings.group_size or weights.shape[1]
    fit = partial(
        _fitted,
        weights,
        settings=settings,
        simple=simple,
        group_size=group_size,
        inputs=inputs,
        threads=threads,
    )
    found = fit(planes=settings.min_planes)
    report = measure(found)
    while report.loss > settings.max_acceptable_loss and report.planes < settings.max_planes:
        found = fit(planes=report.planes + 1)
        report = measure(found)
    if not math.isfinite(report.loss):
        raise QuantizationError(
            f"The layer {layer.name} has no finite error: its weights or inputs overflow.", layer=layer.name
        )
    return found.quantized, report


def _fitted(
    weights: NDArray[np.float32],
    *,
    settings: LayerSettings,
    simple: QuantizationStrategy,
    group_size: int,
    inputs: LayerInputs | None,
    threads: int,
    planes: int,
) -> _Candidate:
    """Quantize to so many planes; `auto` keeps the compensated weights where they give the better output."""
    compensate = partial(
        _compensated, weights, inputs=inputs, planes=planes, group_size=group_size, threads=threads
    )
    if simple is QuantizationStrategy.COMPENSATED:
        return compensate()
    activations = None if inputs is None else inputs.judged.actual
    quantized = apply_strategy(
        weights, strategy=simple, group_size=group_size, activations=activations, threads=threads
    )
    if planes > 1:
        quantized = _with_planes(weights, quantized, planes=planes, group_size=group_size, threads=threads)
        simple = QuantizationStrategy.STANDARD  # further planes are fitted by least squares
    plain = _Candidate(strategy=simple, quantized=quantized)
    if (
        settings.strategy is not QuantizationStrategy.AUTO
        or inputs is None
        or is_lossless(weights, quantized)
    ):
        return plain
    compensated = compensate()
    errors = output_errors(
        weights,
        [plain.quantized, compensated.quantized],
        activations=inputs.judged.actual,
        source_activations=inputs.judged.source,
        threads=threads,
    )
    return compensated if errors[1] < errors[0] else plain


def _compensated(
    weights: NDArray[np.float32], *, inputs: LayerInputs | None, planes: int, group_size: int, threads: int
) -> _Candidate:
    if inputs is None:
        raise ValueError("compensation needs a calibration text")
    quantized = quantize_compensated(
        weights, inputs=inputs, planes=planes, group_size=group_size, threads=threads
    )
    return _Candidate(strategy=QuantizationStrategy.COMPENSATED, quantized=quantized)


def apply_strategy(
    weights: NDArray[np.float32],
    *,
    strategy: QuantizationStrategy,
    group_size: int,
    activations: NDArray[np.float32] | None,
    threads: int = 1,
) -> QuantizedWeights:
    """Quantize float32 [N, K] to one trit-plane by a data-free strategy or `adaptive`."""
    if strategy is QuantizationStrategy.ABSMEAN:
        return quantize_absmean(weights)
    if strategy is QuantizationStrategy.ADAPTIVE:
        return quantize_adaptive(weights, group_size=group_size, activations=activations, threads=threads)
    return quantize_standard(weights, group_size=group_size, threads=threads)


def describe_native(quantized: QuantizedWeights, *, layer: PlannedLayer) -> LayerReport:
    """Return the report of a layer that was ternary already and is kept as it is."""
    measured = _measured(quantized, layer=layer, strategy=QuantizationStrategy.ABSMEAN, is_exact=True)
    return replace(measured, source_scales=shares_scale(quantized))


def stored_bytes(quantized: QuantizedWeights) -> int:
    """Return the bytes of a layer's trits, five to a byte, and of its scales."""
    return quantized.planes * -(-quantized.levels.size // TRITS_PER_BYTE) + quantized.scales.nbytes


def _with_planes(
    weights: NDArray[np.float32],
    quantized: QuantizedWeights,
    *,
    planes: int,
    group_size: int,
    threads: int,
) -> QuantizedWeights:
    # A per-tensor scale cannot be refined; groups that the strategy made finer stay as fine.
    size = group_size if quantized.divides else quantized.group_size
    return quantize_planes(weights, planes=planes, group_size=size, threads=threads)


def _report(
    weights: NDArray[np.float32],
    found: _Candidate,
    *,
    layer: PlannedLayer,
    distribution: WeightDistribution,
    inputs: LayerInputs | None,
    threads: int,
) -> LayerReport:
    quantized = found.quantized
    measured = _measured(
        quantized, layer=layer, strategy=found.strategy, is_exact=is_lossless(weights, quantized)
    )
    return replace(
        measured,
        weight_error=weight_error(weights, quantized, threads=threads),
        output_error=None
        if inputs is None
        else output_error(weights, quantized, activations=inputs.judged.actual, threads=threads),
        kurtosis=distribution.kurtosis,
        row_scale_dispersion=distribution.row_scale_dispersion,
    )


def _measured(
    quantized: QuantizedWeights, *, layer: PlannedLayer, strategy: str, is_exact: bool
) -> LayerReport:
    parameters, stored = quantized.levels.size, stored_bytes(quantized)
    return LayerReport(
        name=layer.name,
        kind=layer.kind,
        strategy=str(strategy),
        planes=quantized.planes,
        group_size=quantized.group_size,
        parameters=parameters,
        stored_bytes=stored,
        bits_per_weight=8 * stored / parameters,
        weight_error=0.0,
        output_error=None,
        is_lossless=is_exact,
    )
