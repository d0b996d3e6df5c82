"""Both models on the same held-out text, side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import ValidationError
from tritium.formats.bitnet_hf import TernaryConvention
from tritium.model.pretrained import load_model
from tritium.quantize.estimate import mean_by_window, mean_of_samples, perplexity, rank_correlation
from tritium.quantize.evaluate import (
    WINDOW,
    EncoderRun,
    GeneratorRun,
    encoder_passages,
    generator_windows,
    run_encoder,
    run_generator,
    sha256_of,
)
from tritium.quantize.readings import other_readings
from tritium.quantize.report import ModelKind, QuantizationProgress, Stage, ValidationReport
from tritium.quantize.text import read_text
from tritium.quantize.verdict import (
    judge_encoders,
    judge_generators,
    keeps_everything,
    unigram_losses,
    with_verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tritium.quantize.plan import QuantizationPlan

NO_TEXT = "No validation text was given, so the two models were not run side by side."


def validate(
    plan: QuantizationPlan,
    quantized: str | Path,
    *,
    threads: int | None = None,
    progress: Callable[[QuantizationProgress], None] | None = None,
) -> ValidationReport:
    """Run the source and the quantized model over the plan's validation text and compare them.

    Without a text the report says so and holds no figures.

    Raises:
        ValidationError: the text or a model cannot be read.
    """
    config = plan.config
    if config.validation_text is None:
        return ValidationReport(kind=plan.kind, reason=NO_TEXT)

    def tell(completed: int, total: int) -> None:
        if progress is not None:
            progress(QuantizationProgress(stage=Stage.VALIDATE, completed=completed, total=total))

    return compare_models(
        plan.source,
        quantized,
        text=config.validation_text,
        window=config.window,
        max_tokens=config.validation_tokens,
        threads=threads,
        progress=tell,
    )


def compare_models(
    source: str | Path,
    quantized: str | Path,
    *,
    text: str | Path,
    window: int = WINDOW,
    max_tokens: int | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ValidationReport:
    """Run two models over the same text, one after the other, and compare them.

    One model is in memory at a time; the source's tokenizer cuts the text for both.

    Args:
        source: the original, anything load_model reads.
        quantized: what is judged against it.
        text: the text (str) or a UTF-8 file (Path); blank lines separate documents.
        window: tokens of context per window (generators).
        max_tokens: take windows evenly spread over the text up to this many tokens (generators); None: all.
        threads: of the kernels; they do not change the result.
        progress: called with (finished samples, samples of both models).

    Raises:
        ValidationError: the text or a model cannot be read, or the two are not comparable.
    """
    content = read_text(text)
    judged = load_model(quantized, threads=threads).config  # before the work: the two must fit together
    loaded = load_model(source, threads=threads)
    if loaded.config.is_encoder != judged.is_encoder:
        raise ValidationError("One model generates text and the other encodes it: they cannot be compared.")
    if loaded.config.vocab_size != judged.vocab_size:
        raise ValidationError("The two models have different vocabularies: they cannot be compared.")
    if loaded.config.is_encoder:
        passages = encoder_passages(content)
        original = run_encoder(loaded, passages, progress=_half(progress, 0))
        del loaded
        other = load_model(quantized, threads=threads)
        encoded = run_encoder(other, passages, progress=_half(progress, 1))
        report = compare_encoders(original, encoded, text_sha256=sha256_of(content))
        return with_verdict(report, judge_encoders(original, encoded))
    windows = generator_windows(loaded, content, window=window, limit=max_tokens)
    first = run_generator(loaded, windows, progress=_half(progress, 0))
    config = loaded.config
    del loaded
    other = load_model(quantized, threads=threads)
    second = run_generator(other, windows, progress=_half(progress, 1))
    is_native = config.ternary.convention is not TernaryConvention.NONE
    is_lossless = is_native and keeps_everything(other.manifest)
    del other
    unigram = unigram_losses(windows, vocab_size=judged.vocab_size)
    readings = other_readings(source, config, windows, first, threads=threads)
    report = replace(
        compare_generators(first, second, text_sha256=sha256_of(content)),
        unigram_perplexity=perplexity(unigram, first.counts),
        other_readings=readings,
    )
    return with_verdict(
        report, judge_generators(first, second, unigram=unigram, readings=readings, is_lossless=is_lossless)
    )


def _half(progress: Callable[[int, int], None] | None, part: int) -> Callable[[int, int], None] | None:
    """Return the callback of the first (0) or the second (1) of two runs; together they count to both."""
    if progress is None:
        return None
    return lambda finished, samples: progress(part * samples + finished, 2 * samples)


def compare_generators(
    source: GeneratorRun, quantized: GeneratorRun, *, text_sha256: str
) -> ValidationReport:
    """Return the report on two generators' runs over the same windows."""
    agreements = np.array(
        [int((a == b).sum()) for a, b in zip(source.choices, quantized.choices, strict=True)], dtype=np.int64
    )
    return ValidationReport(
        kind=ModelKind.GENERATOR,
        text_sha256=text_sha256,
        tokens=int(source.counts.sum()),
        samples=len(source.counts),
        source_perplexity=perplexity(source.losses, source.counts),
        quantized_perplexity=perplexity(quantized.losses, quantized.counts),
        perplexity_ratio=perplexity(quantized.losses - source.losses, source.counts),
        top1_agreement=mean_by_window(agreements, source.counts),
        source_seconds=source.seconds,
        quantized_seconds=quantized.seconds,
        speed_ratio=source.seconds / quantized.seconds,
    )


def compare_encoders(source: EncoderRun, quantized: EncoderRun, *, text_sha256: str) -> ValidationReport:
    """Return the report on two encoders' embeddings of the same texts."""
    first, second = (run.embeddings.astype(np.float64) for run in (source, quantized))
    first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second))
    pairs = np.triu_indices(len(first), k=1)
    return ValidationReport(
        kind=ModelKind.ENCODER,
        text_sha256=text_sha256,
        tokens=source.tokens,
        samples=len(first),
        cosine_similarity=mean_of_samples((first * second).sum(axis=1)),
        rank_correlation=rank_correlation((first @ first.T)[pairs], (second @ second.T)[pairs]),
        source_seconds=source.seconds,
        quantized_seconds=quantized.seconds,
        speed_ratio=source.seconds / quantized.seconds,
    )
