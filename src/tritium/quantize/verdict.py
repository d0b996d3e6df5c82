"""When a model is broken and not merely worse: checks that every sound model passes, with their evidence."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tritium.quantize.estimate import perplexity
from tritium.quantize.report import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from tritium.quantize.evaluate import EncoderRun, GeneratorRun
    from tritium.quantize.report import Estimate, ValidationReport

BETTER_READING: Final = 0.98  # of the perplexity; less is within what the choice of windows decides


def with_verdict(report: ValidationReport, findings: Iterator[Finding]) -> ValidationReport:
    """Return the report with its findings; one is enough to call the model broken."""
    found = list(findings)
    return replace(report, findings=found, is_broken=bool(found))


def judge_generators(
    source: GeneratorRun,
    quantized: GeneratorRun,
    *,
    unigram: NDArray[np.float64],
    readings: Mapping[str, Estimate],
    is_lossless: bool,
) -> Iterator[Finding]:
    """Yield what shows that a generator, or the source it was made from, is broken.

    Args:
        source: the source's run.
        quantized: the judged model's run over the same windows.
        unigram: losses of the same windows, from unigram_losses.
        readings: perplexity of the source under other readings of its config, over its own.
        is_lossless: the judged model holds the source's trits and scales, so that nothing may differ.
    """
    for name, run in (("source", source), ("quantized", quantized)):
        ratio = perplexity(run.losses - unigram, run.counts).value
        if ratio >= 1:
            yield Finding(
                name=f"{name}_knows_less_than_frequencies",
                message=(
                    f"The {name} model is {ratio:.3g} times as perplexed as a reader that knows only how "
                    "often each token came before: it is broken, its tokenizer is another model's, or the "
                    "text is in a language it does not know."
                ),
                value=ratio,
                limit=1.0,
            )
    yield from _better_reading(readings)
    difference = float(np.abs(source.losses - quantized.losses).max())
    if is_lossless and difference > 0:
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


def judge_encoders(source: EncoderRun, quantized: EncoderRun) -> Iterator[Finding]:
    """Yield what shows that an encoder is broken: its embedding of a text is nearest to other texts'."""
    first, second = (run.embeddings.astype(np.float64) for run in (source, quantized))
    first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second))
    cosines = first @ second.T
    own = float(cosines.diagonal().mean())
    others = float((cosines.sum() - cosines.trace()) / (cosines.size - len(cosines)))
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


def keeps_everything(manifest: Mapping[str, Any] | None) -> bool:
    """Tell whether a directory of ours holds every trit, scale and table of its source unchanged."""
    linears = (manifest or {}).get("linears", {})
    return (
        bool(linears)
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
