"""When a model is broken and not merely worse: checks that every sound model passes, with their evidence."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tritium.quantize.estimate import perplexity
from tritium.quantize.record import Side
from tritium.quantize.report import Finding, ModelKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from numpy.typing import NDArray

    from tritium.quantize.record import TextRecord
    from tritium.quantize.report import Estimate, ValidationReport

BETTER_READING: Final = 0.98  # of the perplexity; less is within what the choice of windows decides


def judge(report: ValidationReport, text: TextRecord) -> ValidationReport:
    """Return the report on a text with what shows that a model is broken; one finding is enough."""
    check = _generator_findings if report.kind is ModelKind.GENERATOR else _encoder_findings
    found = list(check(report, text))
    return replace(report, findings=found, is_broken=bool(found))


def _generator_findings(report: ValidationReport, text: TextRecord) -> Iterator[Finding]:
    losses = {side: np.array(text.results[side]["losses"]) for side in (Side.SOURCE, Side.QUANTIZED)}
    counts, unigram = np.array(text.counts), np.array(text.unigram_losses)
    for side, lost in losses.items():
        ratio = perplexity(lost - unigram, counts).value
        if ratio >= 1:
            yield Finding(
                name=f"{side}_knows_less_than_frequencies",
                message=(
                    f"The {side} model is {ratio:.3g} times as perplexed as a reader that knows only how "
                    "often each token came before: it is broken, its tokenizer is another model's, or the "
                    "text repeats itself or is in a language it does not know."
                ),
                value=ratio,
                limit=1.0,
            )
    yield from _better_reading(report.other_readings or {})
    difference = float(np.abs(losses[Side.SOURCE] - losses[Side.QUANTIZED]).max())
    if text.is_lossless and difference > 0:
        yield Finding(
            name="a_lossless_import_differs",
            message=(
                f"All trits and scales were kept, and yet the loss of a window differs by {difference:.3g}: "
                "the import damaged the model."
            ),
            value=difference,
            limit=0.0,
        )


def _better_reading(readings: Mapping[str, Estimate]) -> Iterator[Finding]:
    """Yield the reading that the source fits best, if it fits it better than its own config."""
    better = {
        name: found
        for name, found in readings.items()
        if found.high is not None and found.high < BETTER_READING
    }
    if not better:
        return
    name = min(better, key=lambda name: better[name].value)
    found = better[name]
    yield Finding(
        name="another_reading_fits_better",
        message=(
            f"With {name} the source's perplexity is {found.value:.3g} times what it is with its own config: "
            "the config is wrong, and so is the quantized model."
        ),
        value=found.value,
        limit=BETTER_READING,
    )


def _encoder_findings(report: ValidationReport, _text: TextRecord) -> Iterator[Finding]:
    """Yield what shows that an encoder is broken: its embedding of a text is as near to other texts'."""
    if report.cosine_similarity is None or report.cosine_to_others is None:
        return
    own, others = report.cosine_similarity.value, report.cosine_to_others.value
    if own <= others:
        yield Finding(
            name="embeddings_are_no_nearer_to_their_own",
            message=(
                "The quantized model's embedding of a text is as near to the source's of other texts "
                f"(cosine {others:.3g}) as to that of the same text ({own:.3g}): it is broken."
            ),
            value=own,
            limit=others,
        )


def is_lossless_import(ternary_layers: AbstractSet[str], manifest: Mapping[str, Any] | None) -> bool:
    """Tell whether a directory of ours holds a source as it is.

    Args:
        ternary_layers: of the source, which runs the others otherwise than ours.
        manifest: of the directory; all trits, scales and tables must be unchanged.
    """
    linears = (manifest or {}).get("linears", {})
    return (
        bool(linears)
        and linears.keys() == ternary_layers
        and not (manifest or {}).get("coded")
        and all(entry.get("is_lossless") is True for entry in linears.values())
    )


def unigram_losses(windows: Sequence[NDArray[np.int32]], *, vocab_size: int) -> NDArray[np.float64]:
    """Return the losses [windows] in nats of a reader that learns token frequencies as it reads.

    A token that came c times among n so far, of d kinds, has probability c / (n + d); the share d / (n + d)
    that is left is spread over the whole vocabulary (Witten and Bell, 1991, method C). The first token of a
    window is read and not predicted, as for a model.
    """
    counts = np.zeros(vocab_size, dtype=np.int64)
    seen, kinds = 0, 0
    losses = np.zeros(len(windows))
    for index, window in enumerate(windows):
        for position, token in enumerate(window.tolist()):
            if position:
                losses[index] -= math.log((counts[token] + kinds / vocab_size) / (seen + kinds))
            kinds += int(counts[token] == 0)
            counts[token] += 1
            seen += 1
    return losses
