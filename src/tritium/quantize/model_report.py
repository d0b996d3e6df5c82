"""A quantized model's report as it lies on the disk: manifest, run record, and the timing beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritium.formats.native import open_native
from tritium.quantize.figures import layer_times, neighbours, run_speeds
from tritium.quantize.record import RunRecord, Side, read_record
from tritium.quantize.report import ModelKind
from tritium.quantize.samples import NEIGHBOURS, SAMPLES
from tritium.quantize.text import spread
from tritium.quantize.timing import Timing, read_timing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """A passage and those that each encoder finds nearest to it, the nearest first."""

    passage: str
    source: Sequence[str]
    quantized: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """All there is to tell about a quantized model, as plain values.

    Attributes:
        name: of the directory.
        metrics: QuantizationMetrics, with times where they are known.
        validation: ValidationReport, with speeds where they are known.
        layers: LayerReports by layer.
        quantization: configuration and digests.
        samples: `prompt`, `source` and `quantized` of each sample (generators).
        neighbourhoods: of a few passages (encoders).
        timing: where it was timed; None if that file is not beside the directory.
    """

    name: str
    metrics: Mapping[str, Any]
    validation: Mapping[str, Any]
    layers: Mapping[str, Mapping[str, Any]]
    quantization: Mapping[str, Any]
    samples: Sequence[Mapping[str, str]]
    neighbourhoods: Sequence[Neighbourhood]
    timing: Timing | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def open_report(path: str | Path) -> ModelReport:
    """Read the report of a directory that quantize_model wrote; every file of it is checked.

    Raises:
        ValidationError: it is none, or a file was altered.
    """
    directory = Path(path)
    with open_native(directory) as native:
        manifest, record = native.manifest, read_record(directory)
    timing = read_timing(directory)
    metrics, validation = manifest.get("metrics", {}), manifest.get("validation_report", {})
    if timing is not None:
        metrics = metrics | layer_times(metrics.get("quantized_parameters", 0), timing.layer_seconds)
        validation = validation | run_speeds(timing.speeds)
    is_generator = record is not None and record.kind is ModelKind.GENERATOR
    return ModelReport(
        name=directory.absolute().name,
        metrics=metrics,
        validation=validation,
        layers=manifest.get("linears", {}),
        quantization=manifest.get("quantization", {}),
        samples=record.text.samples if is_generator and record and record.text else (),
        neighbourhoods=() if is_generator else _neighbourhoods(record),
        timing=timing,
    )


def _neighbourhoods(record: RunRecord | None) -> list[Neighbourhood]:
    """Return a few passages with what each encoder finds near to them, as far as the record quotes them."""
    if record is None or record.text is None:
        return []
    quotes = {sample["passage"]: sample["text"] for sample in record.text.samples}
    found = []
    for passage in spread(range(len(record.text.counts)), count=SAMPLES):
        near = {
            side.value: neighbours(record.text, side=side, passage=passage, count=NEIGHBOURS)
            for side in (Side.SOURCE, Side.QUANTIZED)
        }
        if quotes.keys() >= {passage, *near[Side.SOURCE], *near[Side.QUANTIZED]}:
            quoted = {side: [quotes[number] for number in numbers] for side, numbers in near.items()}
            found.append(Neighbourhood(passage=quotes[passage], **quoted))
    return found
