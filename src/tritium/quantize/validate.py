"""Both models on the same held-out text, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.model.pretrained import load_model
from tritium.quantize.estimate import mean_by_window, mean_of_samples, perplexity, rank_correlation
from tritium.quantize.evaluate import (
    EncoderRun,
    GeneratorRun,
    encoder_passages,
    generator_windows,
    run_encoder,
    run_generator,
    sha256_of,
)
from tritium.quantize.report import ModelKind, QuantizationProgress, Stage, ValidationReport
from tritium.quantize.text import read_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

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

    The models are in memory one after the other. Without a text the report says so and holds no figures.

    Raises:
        ValidationError: the text or a model cannot be read.
    """
    if plan.config.validation_text is None:
        return ValidationReport(kind=plan.kind, reason=NO_TEXT)
    text = read_text(plan.config.validation_text)
    if plan.kind is ModelKind.ENCODER:
        passages = encoder_passages(text)
        ticks = _tickers(progress, samples=len(passages))
        encoded = [
            run_encoder(load_model(path, threads=threads), passages, progress=tick)
            for path, tick in zip((plan.source, quantized), ticks, strict=True)
        ]
        return compare_encoders(encoded[0], encoded[1], text_sha256=sha256_of(text))
    windows = _windows(plan, text, threads=threads)
    ticks = _tickers(progress, samples=len(windows))
    generated = [
        run_generator(load_model(path, threads=threads), windows, progress=tick)
        for path, tick in zip((plan.source, quantized), ticks, strict=True)
    ]
    return compare_generators(generated[0], generated[1], text_sha256=sha256_of(text))


def _windows(plan: QuantizationPlan, text: str, *, threads: int | None) -> list[NDArray[np.int32]]:
    loaded = load_model(plan.source, threads=threads)
    return generator_windows(loaded, text, window=plan.config.window, limit=plan.config.validation_tokens)


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


def _tickers(
    progress: Callable[[QuantizationProgress], None] | None, *, samples: int
) -> list[Callable[[int, int], None] | None]:
    """Return one callback for each of the two models; together they count to twice the samples."""
    if progress is None:
        return [None, None]

    def ticker(first: int) -> Callable[[int, int], None]:
        return lambda finished, _: progress(
            QuantizationProgress(stage=Stage.VALIDATE, completed=first + finished, total=2 * samples)
        )

    return [ticker(0), ticker(samples)]
