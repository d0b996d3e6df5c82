"""The run record: what running the models gave, number by number; every figure of the report follows from it.

`record.json` lies beside the weights and is named in the manifest. It depends on the source, the
configuration and the texts alone; what depends on the run (seconds, machine) is in `timing.py`'s file. Of the
text it holds digests, numbers per window or passage, and the few short samples that the report shows.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from tritium.formats.checkpoint import contained_file
from tritium.formats.refusal import quoted, refusal
from tritium.formats.strict_json import LARGEST_JSON, parse_json_object
from tritium.formats.weight_file import read_small_file
from tritium.quantize.readings import read_otherwise
from tritium.quantize.report import ModelKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

RECORD = "record.json"
RECORD_VERSION = 1
# What was found out about a layer and cannot be counted from its bytes again.
MEASURED = (
    "strategy",
    "weight_error",
    "output_error",
    "is_lossless",
    "source_scales",
    "kurtosis",
    "row_scale_dispersion",
    "sensitivity",
    "predicted_loss",
)


class Side(StrEnum):
    """A model of the comparison: the source, what it became, and what four bits would have made of it."""

    SOURCE = "source"
    QUANTIZED = "quantized"
    FOUR_BIT = "four_bit"


# What a side holds, one number per window (generators), passage or pair of passages (encoders). `agreements`
# and `cosines` are with the source, which has none of its own.
GENERATOR_RESULTS = frozenset({"losses", "hits", "agreements"})
ENCODER_RESULTS = frozenset({"similarities", "cosines"})
WITH_THE_SOURCE = frozenset({"agreements", "cosines"})


@dataclass(frozen=True, kw_only=True)
class TextRecord:
    """What the models did with the validation text.

    Attributes:
        text_sha256: of the text.
        tokenizer_sha256: of the tokenizer.json that cut it.
        window: tokens of context per window (generators).
        token_limit: how many tokens were asked for at most (generators).
        counts: predicted tokens per window (generators) or encoded tokens per passage (encoders).
        results: by side: `losses` (nats), `hits` (the next token was the most likely one) and `agreements`
            (the source's most likely token too) per window; or `similarities` per pair of passages, in the
            order (0, 1), (0, 2) ... (1, 2) ..., and `cosines` (with the source's embedding) per passage.
        cosines_to_others: per passage, the mean cosine of the quantized model's embedding and the source's of
            the other passages (encoders).
        unigram_losses: per window, of a reader that knows only how often each token came before (generators).
        other_readings: by another reading of the source's config, its losses on the windows that
            `read_otherwise` chooses (generators).
        is_lossless: the quantized model holds all trits, scales and tables of a ternary source unchanged, so
            that no loss may differ.
        samples: short pieces to look at: `prompt` with `source` and `quantized` continuations (generators),
            `passage` (its number) and `text` (encoders).
    """

    text_sha256: str
    tokenizer_sha256: str
    window: int | None
    token_limit: int | None
    counts: Sequence[int]
    results: Mapping[str, Mapping[str, Sequence[float]]]
    samples: Sequence[Mapping[str, Any]]
    cosines_to_others: Sequence[float]
    unigram_losses: Sequence[float]
    other_readings: Mapping[str, Sequence[float]]
    is_lossless: bool


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a quantization and its validation gave, before any figure is computed from it.

    Attributes:
        kind: generator or encoder.
        source_sha256: digest over the source's files.
        source_parameters: weights of the whole source.
        source_bytes: tensor bytes of the source.
        four_bit_bytes: by layout ("Q4_0" ...), what the source's tensors take in the 4-bit alternative.
        layers: by layer, what was measured on it (MEASURED).
        coded_errors: by coded or ternary table, its weight error.
        text: what the models did with the validation text; None without one.
    """

    kind: ModelKind
    source_sha256: str
    source_parameters: int
    source_bytes: int
    four_bit_bytes: Mapping[str, int]
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    coded_errors: Mapping[str, float] = field(default_factory=dict)
    text: TextRecord | None = None

    def to_bytes(self) -> bytes:
        """Return the record as the bytes of `record.json`; equal records give equal bytes."""
        content = {"version": RECORD_VERSION, **asdict(self)}
        encoded = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return encoded.encode("utf-8") + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            ValidationError: another version, or something that is no record: named by its field.
        """
        values = parse_json_object(data, file=RECORD)
        if values.pop("version", None) != RECORD_VERSION:
            raise refusal(f"only version {RECORD_VERSION} of run records is known here", file=RECORD)
        try:
            kind, text = ModelKind(values.pop("kind")), values.pop("text")
            sizes = [values["source_parameters"], values["source_bytes"]]
            _check_numbers("sizes", [*sizes, *values["four_bit_bytes"].values()])
            _check_numbers("coded_errors", list(values["coded_errors"].values()))
            for layer in values["layers"].values():
                layer.keys()  # AttributeError: no object
            return cls(**values, kind=kind, text=None if text is None else _checked(text, kind))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise refusal(f"this is not a run record: {quoted(error)}", file=RECORD) from error


def read_record(directory: Path) -> RunRecord | None:
    """Return the run record of a model directory; None if it was written without one.

    Raises:
        ValidationError: the record is damaged.
    """
    path = contained_file(directory, RECORD)
    return None if path is None else RunRecord.from_bytes(read_small_file(path, limit=LARGEST_JSON))


def _checked(values: Mapping[str, Any], kind: ModelKind) -> TextRecord:
    """Return the part about the text, if every list is there with as many numbers as the text has pieces."""
    text = TextRecord(**values)
    pieces = _check_numbers("counts", text.counts)
    wanted = GENERATOR_RESULTS if kind is ModelKind.GENERATOR else ENCODER_RESULTS
    if not {Side.SOURCE, Side.QUANTIZED} <= text.results.keys() <= set(Side):
        raise refusal(f"results of {quoted(sorted(text.results))}", file=RECORD)
    is_generator = kind is ModelKind.GENERATOR
    _check_count("cosines_to_others", text.cosines_to_others, 0 if is_generator else pieces)
    _check_count("unigram_losses", text.unigram_losses, pieces if is_generator else 0)
    for name, losses in text.other_readings.items():
        _check_count(f"other_readings.{name}", losses, len(read_otherwise(pieces)) if is_generator else 0)
    if type(text.is_lossless) is not bool:
        raise refusal("is_lossless must be true or false", file=RECORD)
    for side, results in text.results.items():
        expected = wanted - WITH_THE_SOURCE if side == Side.SOURCE else wanted
        if results.keys() != expected:
            raise refusal(f"results.{side} must hold {', '.join(sorted(expected))}", file=RECORD)
        for name, numbers in results.items():
            count = pieces * (pieces - 1) // 2 if name == "similarities" else pieces
            _check_count(f"results.{side}.{name}", numbers, count)
    wanted_sample: dict[str, type] = {"prompt": str, "source": str, "quantized": str}
    if kind is ModelKind.ENCODER:
        wanted_sample = {"passage": int, "text": str}
    for sample in text.samples:
        if {name: type(value) for name, value in sample.items()} != wanted_sample:
            raise refusal(f"a sample must hold {', '.join(wanted_sample)}", file=RECORD)
    return text


def _check_count(name: str, values: Sequence[Any], count: int) -> None:
    if _check_numbers(name, values) != count:
        raise refusal(f"{name} must hold {count} numbers", file=RECORD)


def _check_numbers(name: str, values: Sequence[Any]) -> int:
    if not isinstance(values, list) or not all(type(value) in {int, float} for value in values):
        raise refusal(f"{name} must be numbers", file=RECORD)
    return len(values)
