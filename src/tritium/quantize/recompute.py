"""The report computed again, from the run record and the tensors alone, and held against what is stored."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritium.errors import ValidationError
from tritium.formats.native import MANIFEST, open_native
from tritium.formats.refusal import quoted, refusal
from tritium.model.companions import TOKENIZER_FILE
from tritium.quantize.figures import BITS, quantization_figures, validation_figures, without_run_figures
from tritium.quantize.record import RECORD, read_record
from tritium.quantize.report import ModelKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tritium.quantize.record import RunRecord

TOLERANCE = 1e-9  # relative: sums of another numpy may end in another last bit


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A figure that is not what the record gives.

    Attributes:
        figure: which one, by its place in the manifest ("validation_report.perplexity_ratio.low").
        stored: as the report has it.
        recomputed: as it follows from the record.
    """

    figure: str
    stored: Any
    recomputed: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Recomputation:
    """What came of computing a report again.

    Attributes:
        figures: all that were computed, by their place in the manifest.
        differences: those that the report has otherwise.
    """

    figures: Mapping[str, Any]
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def recompute_report(path: str | Path) -> Recomputation:
    """Compute every figure of a quantized model's report again and compare.

    Args:
        path: a directory that quantize_model wrote; every file is checked against the manifest first.

    Raises:
        ValidationError: it is none, a file was altered, or it holds no run record.
    """
    directory = Path(path)
    with open_native(directory) as native:
        record = read_record(directory)
        if record is None:
            raise ValidationError(
                f"{directory} holds no {RECORD}, so its report cannot be computed again: it was saved by an "
                "earlier version or not by a quantization. Measure it on a text.",
                file=RECORD,
            )
        sizes = {name: info.nbytes for name, info in native.checkpoint.tensors.items()}
        try:
            found = dict(_figures(native.manifest, record, sizes))
            stored = dict(_stored(native.manifest))
        except (AttributeError, KeyError, TypeError, ZeroDivisionError) as error:
            raise refusal(
                f"the report and {RECORD} do not fit together: {quoted(error)}", file=MANIFEST
            ) from error
    differences = tuple(
        Difference(figure=name, stored=stored.get(name), recomputed=found.get(name))
        for name in sorted(found.keys() | stored.keys())
        if not (name in found and name in stored and _equal(stored[name], found[name]))
    )
    return Recomputation(figures=found, differences=differences)


def _figures(
    manifest: Mapping[str, Any], record: RunRecord, sizes: Mapping[str, int]
) -> Iterator[tuple[str, Any]]:
    """Yield every figure as it follows from the record and the tensors' sizes."""
    linears, coded = manifest.get("linears", {}), manifest.get("coded", {})
    metrics = quantization_figures(record, linears=linears, coded=coded, tensor_bytes=sizes)
    report = validation_figures(record.kind, record.text)
    yield from _flat("metrics", without_run_figures(metrics.to_dict()))
    yield from _flat("validation_report", without_run_figures(report.to_dict()))
    for name, entry in linears.items():
        weights = entry["out_features"] * entry["in_features"]
        stored = sizes[f"{name}.trits"] + sizes[f"{name}.scales"]
        counted = {"parameters": weights, "stored_bytes": stored, "bits_per_weight": BITS * stored / weights}
        yield from _flat(f"linears.{name}", {**record.layers[name], **counted})
    yield "quantization.source_sha256", record.source_sha256
    text = record.text
    if text is not None:
        yield f"files.{TOKENIZER_FILE}.sha256", text.tokenizer_sha256
    if text is not None and record.kind is ModelKind.GENERATOR:
        yield "quantization.config.window", text.window
        yield "quantization.config.validation_tokens", text.token_limit


def _stored(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the same figures as the manifest has them."""
    yield from _flat("metrics", manifest["metrics"])
    yield from _flat("validation_report", manifest["validation_report"])
    not_figures = {
        "out_features",
        "in_features",
        "divides",
        "kind",
        "planes",
        "group_size",
        "scale_unit",
    }  # checked when it is opened
    for name, entry in manifest.get("linears", {}).items():
        figures = {key: value for key, value in entry.items() if key not in not_figures}
        yield from _flat(f"linears.{name}", figures)
    yield "quantization.source_sha256", manifest["quantization"]["source_sha256"]
    report, config = manifest["validation_report"], manifest["quantization"]["config"]
    if report.get("text_sha256") is not None:
        yield f"files.{TOKENIZER_FILE}.sha256", manifest["files"][TOKENIZER_FILE]["sha256"]
    if report.get("source_perplexity") is not None:
        yield "quantization.config.window", config["window"]
        yield "quantization.config.validation_tokens", config["validation_tokens"]


def _flat(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list) and value:
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(f"{place}.{name}", inner)
    else:
        yield place, value


def _equal(stored: Any, found: Any) -> bool:
    if type(stored) in {int, float} and type(found) in {int, float}:
        return math.isclose(stored, found, rel_tol=TOLERANCE)
    return bool(stored == found)
