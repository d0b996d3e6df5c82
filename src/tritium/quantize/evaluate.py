"""What a model does with a text: perplexity for generators, embeddings for encoders."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tritium.errors import ValidationError
from tritium.model.pretrained import LoadedModel, load_model
from tritium.quantize.estimate import mean_by_window, perplexity
from tritium.quantize.text import passages, read_text, spread, token_windows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from tritium.quantize.report import Estimate

WINDOW = 256
PASSAGES = 200
PASSAGES_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """How well a generator predicts a text; intervals are 95 % confidence intervals over windows.

    Attributes:
        perplexity: exp of the mean negative log-likelihood per predicted token.
        top1_accuracy: share of tokens that were the model's most likely one.
        tokens: predicted tokens.
        windows: windows of text, without overlap.
        window: tokens of context in a window.
        text_sha256: of the text.
        seconds: wall time of the forward passes.
        tokens_per_second: tokens / seconds.
    """

    perplexity: Estimate
    top1_accuracy: Estimate
    tokens: int
    windows: int
    window: int
    text_sha256: str
    seconds: float
    tokens_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneratorRun:
    """One generator over all windows: sums of negative log-likelihoods in nats, and its choices."""

    losses: NDArray[np.float64]  # [windows]
    counts: NDArray[np.int64]  # [windows], predicted tokens
    hits: NDArray[np.int64]  # [windows], predicted tokens that were the most likely one
    choices: tuple[NDArray[np.int32], ...]  # per window, the most likely token at each position
    seconds: float  # of the forward passes


@dataclass(frozen=True, kw_only=True, eq=False)
class EncoderRun:
    """One encoder over all passages."""

    embeddings: NDArray[np.float32]  # [passages, hidden]
    counts: NDArray[np.int64]  # [passages], encoded tokens
    seconds: float  # of the forward passes


def evaluate(
    model_path: str | Path,
    *,
    text: str | Path,
    window: int = WINDOW,
    max_tokens: int | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Compute a generator's perplexity on a text, dense or quantized.

    Args:
        model_path: anything load_model reads.
        text: the text (str) or a UTF-8 file (Path); blank lines separate documents.
        window: tokens of context per window; at most what the model has.
        max_tokens: take windows evenly spread over the text up to this many tokens; None takes all.
        threads: of the kernels; they do not change the result.
        progress: called with (finished windows, windows).

    Raises:
        ValidationError: the model is an encoder or cannot be read, or the text is empty or not UTF-8.
    """
    content = read_text(text)
    loaded = load_model(model_path, threads=threads)
    if loaded.config.is_encoder:
        raise ValidationError("Perplexity needs a model that generates text; this one is an encoder.")
    windows = generator_windows(loaded, content, window=window, limit=max_tokens)
    run = run_generator(loaded, windows, progress=progress)
    tokens = int(run.counts.sum())
    return Evaluation(
        perplexity=perplexity(run.losses, run.counts),
        top1_accuracy=mean_by_window(run.hits, run.counts),
        tokens=tokens,
        windows=len(windows),
        window=min(window, loaded.config.max_positions),
        text_sha256=sha256_of(content),
        seconds=run.seconds,
        tokens_per_second=tokens / run.seconds,
    )


def generator_windows(
    loaded: LoadedModel, text: str, *, window: int, limit: int | None
) -> list[NDArray[np.int32]]:
    """Return the windows of a text for this model.

    Raises:
        ValidationError: the window is below 2, there is no tokenizer, or the text is too short.
    """
    if isinstance(window, bool) or not isinstance(window, int) or window < 2:  # noqa: PLR2004 - one predicts one
        raise ValidationError(f"window must be a whole number from 2 on, not {window!r}.", field="window")
    windows = token_windows(
        loaded.tokenizer,
        text,
        window=min(window, loaded.config.max_positions),
        limit=limit,
        first_token=loaded.config.bos_token_id,
    )
    if not windows:
        raise ValidationError("The text is shorter than two tokens: there is nothing to predict.")
    return windows


def run_generator(
    loaded: LoadedModel,
    windows: list[NDArray[np.int32]],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> GeneratorRun:
    """Run a generator over windows of token ids, one window at a time."""
    model = loaded.generator
    losses, hits, choices = [], [], []
    seconds = 0.0
    for finished, tokens in enumerate(windows, start=1):
        started = time.perf_counter()
        logits = model.forward_full(tokens)[:-1]
        seconds += time.perf_counter() - started
        following = tokens[1:]
        losses.append(float(_negative_log_likelihoods(logits, following).sum()))
        choices.append(logits.argmax(axis=1).astype(np.int32))
        hits.append(int((choices[-1] == following).sum()))
        if progress is not None:
            progress(finished, len(windows))
    return GeneratorRun(
        losses=np.array(losses),
        counts=np.array([len(tokens) - 1 for tokens in windows], dtype=np.int64),
        hits=np.array(hits, dtype=np.int64),
        choices=tuple(choices),
        seconds=seconds,
    )


def encoder_passages(text: str) -> list[str]:
    """Return the passages of a text that encoders are compared on.

    Raises:
        ValidationError: there are fewer than two.
    """
    chosen = spread(passages(text), count=PASSAGES)
    if len(chosen) < 2:  # noqa: PLR2004 - a pair
        raise ValidationError("Comparing encoders needs at least two passages of text.")
    return chosen


def run_encoder(
    loaded: LoadedModel, texts: list[str], *, progress: Callable[[int, int], None] | None = None
) -> EncoderRun:
    """Encode passages, a batch at a time; a passage's embedding does not depend on its batch."""
    tokenizer, limit = loaded.tokenizer, loaded.config.max_positions
    sequences = [tokenizer.encode(text)[:limit] for text in texts]
    embeddings = []
    seconds = 0.0
    for first in range(0, len(sequences), PASSAGES_AT_ONCE):
        batch = sequences[first : first + PASSAGES_AT_ONCE]
        started = time.perf_counter()
        embeddings.append(loaded.encoder.encode(batch))
        seconds += time.perf_counter() - started
        if progress is not None:
            progress(first + len(batch), len(sequences))
    return EncoderRun(
        embeddings=np.concatenate(embeddings),
        counts=np.array([len(sequence) for sequence in sequences], dtype=np.int64),
        seconds=seconds,
    )


def sha256_of(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def _negative_log_likelihoods(
    logits: NDArray[np.float32], following: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Return -log p of each following token, float64 [T], from logits [T, vocabulary]."""
    peak = logits.max(axis=1, keepdims=True)
    totals = np.exp(logits - peak).sum(axis=1, dtype=np.float64)
    chosen = logits[np.arange(len(following)), following].astype(np.float64)
    result: NDArray[np.float64] = np.log(totals) + peak[:, 0] - chosen
    return result
