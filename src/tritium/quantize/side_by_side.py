"""Several models over one text, one after the other: what the run record and the timing are made of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from tritium.quantize.evaluate import (
    encoder_passages,
    generator_windows,
    run_encoder,
    run_generator,
    sha256_of,
)
from tritium.quantize.figures import neighbours, run_speeds, validation_figures
from tritium.quantize.readings import read_otherwise
from tritium.quantize.record import Side, TextRecord
from tritium.quantize.report import ModelKind, ValidationReport
from tritium.quantize.samples import NEIGHBOURS, SAMPLES, continue_greedily, prompts, quoted_passage
from tritium.quantize.text import spread
from tritium.quantize.timing import Speed
from tritium.quantize.verdict import is_lossless_import, unigram_losses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from numpy.typing import NDArray

    from tritium.model.pretrained import LoadedModel
    from tritium.quantize.evaluate import EncoderRun, GeneratorRun
    from tritium.quantize.samples import Continuation

SMALLEST_LENGTH = 1e-12  # of an embedding; a broken encoder's zeros have no direction
DECIMALS = 7  # of a stored similarity: what float32 embeddings are good for


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """What models did with one text, and how fast."""

    kind: ModelKind
    text: TextRecord | None = None
    speeds: Mapping[str, Speed] = field(default_factory=dict)

    @property
    def report(self) -> ValidationReport:
        """The figures that follow, speeds included."""
        return replace(validation_figures(self.kind, self.text), **run_speeds(self.speeds))


def run_generators(
    loaders: Mapping[Side, Callable[[], LoadedModel]],
    content: str,
    *,
    window: int,
    limit: int | None,
    other_readings: Mapping[str, Callable[[], LoadedModel]],
    is_thorough: bool,
    progress: Callable[[int, int], None] | None,
) -> SideBySide:
    """Run generators over the windows of a text; the first is the source, whose tokenizer cuts it.

    The source under other readings of its config is run on a few of the windows only.
    """
    runs: dict[Side, GeneratorRun] = {}
    written: dict[Side, list[Continuation]] = {}
    for part, (side, load) in enumerate(loaders.items()):
        loaded = load()
        if side is Side.SOURCE:
            windows = generator_windows(loaded, content, window=window, limit=limit)
            begun = prompts(loaded, content) if is_thorough else []
            shown = [loaded.tokenizer.decode(prompt) for prompt in begun]
            tokenizer, config = loaded.tokenizer.sha256, loaded.config
            ternary_layers = loaded.ternary_layers
        if side is Side.QUANTIZED:
            is_lossless = is_thorough and is_lossless_import(ternary_layers, loaded.manifest)
        runs[side] = run_generator(loaded, windows, progress=_part(progress, part, of=len(loaders)))
        if side is not Side.FOUR_BIT:
            written[side] = [continue_greedily(loaded, prompt) for prompt in begun]
        del loaded
    choices = runs[Side.SOURCE].choices
    text = TextRecord(
        text_sha256=sha256_of(content),
        tokenizer_sha256=tokenizer,
        window=window,
        token_limit=limit,
        counts=runs[Side.SOURCE].counts.tolist(),
        results={side: _generator_results(side, run, choices) for side, run in runs.items()},
        samples=_samples(shown, written),
        cosines_to_others=[],
        unigram_losses=unigram_losses(windows, vocab_size=config.vocab_size).tolist(),
        other_readings={
            name: run_generator(
                load(), [windows[index] for index in read_otherwise(len(windows))]
            ).losses.tolist()
            for name, load in other_readings.items()
        },
        is_lossless=is_lossless,
    )
    speeds: dict[str, Speed] = {
        side: _generator_speed(run, written.get(side, [])) for side, run in runs.items()
    }
    return SideBySide(kind=ModelKind.GENERATOR, text=text, speeds=speeds)


def _samples(shown: list[str], written: Mapping[Side, list[Continuation]]) -> list[dict[str, str]]:
    pairs = zip(shown, written[Side.SOURCE], written[Side.QUANTIZED], strict=True)
    return [
        {"prompt": prompt, "source": source.text, "quantized": quantized.text}
        for prompt, source, quantized in pairs
    ]


def _generator_results(
    side: Side, run: GeneratorRun, choices: tuple[NDArray[np.int32], ...]
) -> dict[str, list[Any]]:
    results: dict[str, list[Any]] = {"losses": run.losses.tolist(), "hits": run.hits.tolist()}
    if side is not Side.SOURCE:
        results["agreements"] = [int((a == b).sum()) for a, b in zip(choices, run.choices, strict=True)]
    return results


def _generator_speed(run: GeneratorRun, written: list[Continuation]) -> Speed:
    return Speed(
        prefill_tokens=int(run.counts.sum()) + len(run.counts),  # a window's first token is read as well
        prefill_seconds=run.seconds,
        decode_tokens=sum(continuation.steps for continuation in written),
        decode_seconds=sum(continuation.seconds for continuation in written),
    )


def run_encoders(
    loaders: Mapping[Side, Callable[[], LoadedModel]],
    content: str,
    *,
    is_thorough: bool,
    progress: Callable[[int, int], None] | None,
) -> SideBySide:
    """Run encoders over the passages of a text; the first is the source."""
    passages = encoder_passages(content)
    runs: dict[Side, EncoderRun] = {}
    for part, (side, load) in enumerate(loaders.items()):
        loaded = load()
        if side is Side.SOURCE:
            tokenizer = loaded.tokenizer.sha256
        runs[side] = run_encoder(loaded, passages, progress=_part(progress, part, of=len(loaders)))
        del loaded
    rows = {side: _unit_rows(run.embeddings) for side, run in runs.items()}
    counts = runs[Side.SOURCE].counts.tolist()
    text = TextRecord(
        text_sha256=sha256_of(content),
        tokenizer_sha256=tokenizer,
        window=None,
        token_limit=None,
        counts=counts,
        results={side: _encoder_results(side, found, rows[Side.SOURCE]) for side, found in rows.items()},
        samples=[],
        cosines_to_others=_cosines_to_others(rows[Side.QUANTIZED], rows[Side.SOURCE]),
        unigram_losses=[],
        other_readings={},
        is_lossless=False,
    )
    if is_thorough:
        text = replace(text, samples=_quotes(text, passages))
    speeds: dict[str, Speed] = {
        side: Speed(prefill_tokens=sum(counts), prefill_seconds=run.seconds) for side, run in runs.items()
    }
    return SideBySide(kind=ModelKind.ENCODER, text=text, speeds=speeds)


def _unit_rows(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    rows = embeddings.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = rows / np.maximum(lengths, SMALLEST_LENGTH)
    return scaled


def _encoder_results(
    side: Side, rows: NDArray[np.float64], source: NDArray[np.float64]
) -> dict[str, list[float]]:
    pairs = np.triu_indices(len(rows), k=1)
    # einsum adds in one order whatever the threads, which a BLAS does not promise.
    similarities = np.einsum("ik,jk->ij", rows, rows)[pairs]
    results = {"similarities": np.round(similarities, DECIMALS).tolist()}
    if side is not Side.SOURCE:
        results["cosines"] = np.round((source * rows).sum(axis=1), DECIMALS).tolist()
    return results


def _cosines_to_others(rows: NDArray[np.float64], source: NDArray[np.float64]) -> list[float]:
    """Return for each row its mean cosine with all of the source's but its own."""
    others: NDArray[np.float64] = (rows * (source.sum(axis=0) - source)).sum(axis=1) / (len(rows) - 1)
    found: list[float] = np.round(others, DECIMALS).tolist()
    return found


def _quotes(text: TextRecord, passages: list[str]) -> list[dict[str, Any]]:
    """Return the passages that the report quotes: a few, and what either model finds near to them."""
    chosen = set(spread(range(len(passages)), count=SAMPLES))
    for passage in list(chosen):
        for side in (Side.SOURCE, Side.QUANTIZED):
            chosen.update(neighbours(text, side=side, passage=passage, count=NEIGHBOURS))
    return [{"passage": passage, "text": quoted_passage(passages[passage])} for passage in sorted(chosen)]


def _part(
    progress: Callable[[int, int], None] | None, part: int, *, of: int
) -> Callable[[int, int], None] | None:
    """Return the callback of one of several runs; together they count to all."""
    if progress is None:
        return None
    return lambda finished, samples: progress(part * samples + finished, of * samples)
