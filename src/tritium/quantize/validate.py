"""Both models on the same held-out text, side by side, and what four bits would have made of the source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.errors import ValidationError
from tritium.model.pretrained import load_model
from tritium.quantize.evaluate import WINDOW
from tritium.quantize.four_bit import is_dense, load_four_bit
from tritium.quantize.readings import other_readings
from tritium.quantize.record import Side
from tritium.quantize.report import ModelKind, QuantizationProgress, Stage, ValidationReport
from tritium.quantize.side_by_side import SideBySide, run_encoders, run_generators
from tritium.quantize.text import read_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tritium.model.pretrained import LoadedModel
    from tritium.quantize.plan import QuantizationPlan


def validate(
    plan: QuantizationPlan,
    quantized: str | Path,
    *,
    threads: int | None = None,
    progress: Callable[[QuantizationProgress], None] | None = None,
) -> SideBySide:
    """Run the source, the quantized model and the 4-bit alternative over the plan's validation text.

    Without a text nothing is run and the result is empty. A source that is ternary has no alternative.

    Raises:
        ValidationError: the text or a model cannot be read.
    """
    config = plan.config
    if config.validation_text is None:
        return SideBySide(kind=plan.kind)

    def tell(completed: int, total: int) -> None:
        if progress is not None:
            progress(QuantizationProgress(stage=Stage.VALIDATE, completed=completed, total=total))

    return run_side_by_side(
        plan.source,
        quantized,
        text=config.validation_text,
        window=config.window,
        max_tokens=config.validation_tokens,
        is_thorough=True,
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
    """Run two models over the same text and compare them; arguments and errors as in run_side_by_side."""
    return run_side_by_side(
        source,
        quantized,
        text=text,
        window=window,
        max_tokens=max_tokens,
        threads=threads,
        progress=progress,
    ).report


def run_side_by_side(
    source: str | Path,
    quantized: str | Path,
    *,
    text: str | Path,
    window: int = WINDOW,
    max_tokens: int | None = None,
    is_thorough: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SideBySide:
    """Run models over the same text, one after the other.

    One model is in memory at a time; the source's tokenizer cuts the text for all.

    Args:
        source: the original, anything load_model reads.
        quantized: what is judged against it.
        text: the text (str) or a UTF-8 file (Path); blank lines separate documents.
        window: tokens of context per window (generators).
        max_tokens: take windows evenly spread over the text up to this many tokens (generators); None: all.
        is_thorough: also run the source in four bits, where it is dense, and under other readings of its
            config (generators), and keep samples to look at.
        threads: of the kernels; they do not change the result.
        progress: called with (finished samples, samples of all models).

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
    kind = ModelKind.ENCODER if loaded.config.is_encoder else ModelKind.GENERATOR
    held = [loaded]
    loaders: dict[Side, Callable[[], LoadedModel]] = {
        Side.SOURCE: held.pop,
        Side.QUANTIZED: lambda: load_model(quantized, threads=threads),
    }
    if is_thorough and is_dense(loaded):
        loaders[Side.FOUR_BIT] = lambda: load_four_bit(source, threads=threads)
    readings = other_readings(source, loaded, threads=threads) if is_thorough else {}
    del loaded  # the loop holds one model at a time
    if kind is ModelKind.ENCODER:
        return run_encoders(loaders, content, is_thorough=is_thorough, progress=progress)
    return run_generators(
        loaders,
        content,
        window=window,
        limit=max_tokens,
        other_readings=readings,
        is_thorough=is_thorough,
        progress=progress,
    )
