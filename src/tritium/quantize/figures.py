"""From the run record to the figures of the report: pure functions, the same when they are computed again."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tritium.quantize.estimate import mean_by_window, mean_of_samples, perplexity, rank_correlation
from tritium.quantize.readings import read_otherwise
from tritium.quantize.record import Side
from tritium.quantize.report import Comparison, Estimate, ModelKind, QuantizationMetrics, ValidationReport
from tritium.quantize.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tritium.quantize.record import RunRecord, TextRecord
    from tritium.quantize.timing import Speed

BITS = 8  # of a byte
FLOAT32_BYTES = 4
FLOAT16_BYTES = 2
NO_TEXT = "No validation text was given, so the two models were not run side by side."
# Figures that differ from run to run; they are returned, and kept out of the model's directory.
RUN_FIGURES = frozenset(
    {
        "seconds",
        "parameters_per_second",
        "source_seconds",
        "quantized_seconds",
        "speed_ratio",
        "source_prefill_speed",
        "quantized_prefill_speed",
        "source_decode_speed",
        "quantized_decode_speed",
    }
)


def validation_figures(kind: ModelKind, text: TextRecord | None) -> ValidationReport:
    """Return the report on what the models did with a text; without one it says so and holds no figures."""
    if text is None:
        return ValidationReport(kind=kind, reason=NO_TEXT)
    source, quantized = compared(kind, text, Side.SOURCE), compared(kind, text, Side.QUANTIZED)
    report = ValidationReport(
        kind=kind,
        text_sha256=text.text_sha256,
        tokens=int(sum(text.counts)),
        samples=len(text.counts),
        source_perplexity=source.perplexity,
        quantized_perplexity=quantized.perplexity,
        perplexity_ratio=quantized.perplexity_ratio,
        source_top1_accuracy=source.top1_accuracy,
        quantized_top1_accuracy=quantized.top1_accuracy,
        top1_agreement=quantized.top1_agreement,
        cosine_similarity=quantized.cosine_similarity,
        rank_correlation=quantized.rank_correlation,
        loss=_loss(quantized),
        four_bit=compared(kind, text, Side.FOUR_BIT) if Side.FOUR_BIT in text.results else None,
    )
    return judge(replace(report, **_evidence(kind, text)), text)


def _evidence(kind: ModelKind, text: TextRecord) -> dict[str, Any]:
    """Return what a verdict is found from and no comparison of the two models shows."""
    if kind is ModelKind.ENCODER:
        return {"cosine_to_others": mean_of_samples(np.array(text.cosines_to_others, dtype=np.float64))}
    counts, losses = np.array(text.counts, dtype=np.int64), _array(text, Side.SOURCE, "losses")
    chosen = read_otherwise(len(counts))
    readings = {
        name: perplexity(np.array(found, dtype=np.float64) - losses[chosen], counts[chosen])
        for name, found in text.other_readings.items()
    }
    return {
        "unigram_perplexity": perplexity(np.array(text.unigram_losses, dtype=np.float64), counts),
        "other_readings": readings or None,
    }


def compared(kind: ModelKind, text: TextRecord, side: Side) -> Comparison:
    """Return how one side does; what compares it with the source is None for the source itself."""
    is_source = side is Side.SOURCE
    if kind is ModelKind.ENCODER:
        if is_source:
            return Comparison()
        return Comparison(
            cosine_similarity=mean_of_samples(_array(text, side, "cosines")),
            rank_correlation=rank_correlation(
                _array(text, Side.SOURCE, "similarities"), _array(text, side, "similarities")
            ),
        )
    counts, losses = np.array(text.counts, dtype=np.int64), _array(text, side, "losses")
    ratio = None if is_source else perplexity(losses - _array(text, Side.SOURCE, "losses"), counts)
    return Comparison(
        perplexity=perplexity(losses, counts),
        perplexity_ratio=ratio,
        top1_accuracy=mean_by_window(_array(text, side, "hits"), counts),
        top1_agreement=None if is_source else mean_by_window(_array(text, side, "agreements"), counts),
    )


def _loss(found: Comparison) -> Estimate | None:
    """Return what a model lost against the source, in the unit of `target_loss`."""
    ratio, cosine = found.perplexity_ratio, found.cosine_similarity
    if ratio is not None:
        ends = [None if end is None else math.log(end) for end in (ratio.low, ratio.high)]
        return Estimate(value=math.log(ratio.value), low=ends[0], high=ends[1])
    if cosine is not None:
        ends = [None if end is None else 1 - end for end in (cosine.high, cosine.low)]
        return Estimate(value=1 - cosine.value, low=ends[0], high=ends[1])
    return None


def quantization_figures(
    record: RunRecord,
    *,
    linears: Mapping[str, Mapping[str, Any]],
    coded: Mapping[str, Mapping[str, Any]],
    tensor_bytes: Mapping[str, int],
) -> QuantizationMetrics:
    """Count the sizes of a quantized model against its source's.

    Args:
        record: of the quantization.
        linears: the manifest's entries of ternary layers.
        coded: the manifest's entries of coded and ternary tables.
        tensor_bytes: bytes of every tensor of the model, by name.
    """
    parameters = record.source_parameters
    weights = sum(_weights(entry) for entry in linears.values())
    trits = sum(tensor_bytes[f"{name}.trits"] for name in linears)
    stored = trits + sum(tensor_bytes[f"{name}.scales"] for name in linears)
    size = sum(tensor_bytes.values())
    four_bit = sum(record.four_bit_bytes.values())
    error = sum(record.layers[name]["weight_error"] * _weights(entry) for name, entry in linears.items())
    return QuantizationMetrics(
        parameters=parameters,
        quantized_parameters=weights,
        layers=len(linears),
        planes=_counted(linears, "planes"),
        strategies=_counted(linears, "strategy"),
        bits_per_weight=BITS * stored / weights,
        trit_bits_per_weight=BITS * trits / weights,
        model_bits_per_parameter=BITS * size / parameters,
        quantized_bytes=size,
        source_bytes=record.source_bytes,
        float32_bytes=FLOAT32_BYTES * parameters,
        float16_bytes=FLOAT16_BYTES * parameters,
        reduction_to_float32=1 - size / (FLOAT32_BYTES * parameters),
        reduction_to_float16=1 - size / (FLOAT16_BYTES * parameters),
        four_bit_bytes=four_bit,
        reduction_to_four_bit=1 - size / four_bit,
        mean_weight_error=error / weights,
        coded={name: _coded(name, entry, record, tensor_bytes) for name, entry in coded.items()},
        predicted_loss=_predicted_loss(record),
    )


def _predicted_loss(record: RunRecord) -> float | None:
    losses = [layer.get("predicted_loss") for layer in record.layers.values()]
    known = [loss for loss in losses if loss is not None]
    return math.fsum(known) if known and len(known) == len(losses) else None


def layer_times(quantized_parameters: int, seconds: float | None) -> dict[str, float | None]:
    """Return the figures of QuantizationMetrics on time; None where it was not measured."""
    speed = quantized_parameters / seconds if seconds else None
    return {"seconds": seconds, "parameters_per_second": speed}


def run_speeds(speeds: Mapping[str, Speed]) -> dict[str, Any]:
    """Return the figures of ValidationReport on speed; none where both models were not timed."""
    source, quantized = speeds.get(Side.SOURCE), speeds.get(Side.QUANTIZED)
    if source is None or quantized is None:
        return {}
    return {
        "source_seconds": source.prefill_seconds,
        "quantized_seconds": quantized.prefill_seconds,
        "speed_ratio": _per_second(source.prefill_seconds, quantized.prefill_seconds),
        "source_prefill_speed": _per_second(source.prefill_tokens, source.prefill_seconds),
        "quantized_prefill_speed": _per_second(quantized.prefill_tokens, quantized.prefill_seconds),
        "source_decode_speed": _per_second(source.decode_tokens, source.decode_seconds),
        "quantized_decode_speed": _per_second(quantized.decode_tokens, quantized.decode_seconds),
    }


def without_run_figures(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures as plain values without those that differ from run to run."""
    return {name: value for name, value in values.items() if name not in RUN_FIGURES}


def neighbours(text: TextRecord, *, side: Side, passage: int, count: int) -> list[int]:
    """Return the passages that an encoder finds nearest to one, the nearest first."""
    passages = len(text.counts)
    similarities = np.full((passages, passages), -np.inf)
    similarities[np.triu_indices(passages, k=1)] = _array(text, side, "similarities")
    row = np.maximum(similarities, similarities.T)[passage]
    nearest: list[int] = np.argsort(-row, kind="stable")[: min(count, passages - 1)].tolist()
    return nearest


def _array(text: TextRecord, side: Side, name: str) -> NDArray[np.float64]:
    return np.array(text.results[side][name], dtype=np.float64)


def _per_second(amount: float, seconds: float) -> float | None:
    return amount / seconds if amount and seconds else None


def _weights(entry: Mapping[str, Any]) -> int:
    return int(entry["out_features"]) * int(entry["in_features"])


def _coded(
    name: str, entry: Mapping[str, Any], record: RunRecord, tensor_bytes: Mapping[str, int]
) -> dict[str, Any]:
    form, parts = ("planes", ["trits", "scales"]) if "planes" in entry else ("bits", ["codes"])
    stored = sum(tensor_bytes[f"{name}.{part}"] for part in parts)
    return {
        form: entry[form],
        "parameters": _weights(entry),
        "stored_bytes": stored,
        "bits_per_weight": BITS * stored / _weights(entry),
        "weight_error": record.coded_errors[name],
    }


def _counted(linears: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, int]:
    counts = Counter(str(entry[key]) for entry in linears.values())
    return dict(sorted(counts.items()))
