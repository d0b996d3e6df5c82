"""What each layer's rounding costs the model: one layer alone is quantized, the rest is the source.

The layer is rounded without data (least squares, its own group size) and runs through the ternary kernel. The
calibration text enters its block as it does in the source, so the blocks before need not run again. What is
lost is measured at the output: the mean Kullback-Leibler divergence of the next-token distributions from the
source's (generators, in nats per token), or 1 - cosine of the embeddings (encoders).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import QuantizationError
from tritium.kernels.cpu import prepare
from tritium.model.layers import TernaryLinear
from tritium.model.pretrained import load_model
from tritium.quantize.allocate import Choice
from tritium.quantize.calibrate import block_of
from tritium.quantize.layer import settings_of, stored_bytes
from tritium.quantize.planes import quantize_planes
from tritium.quantize.quality import weight_error
from tritium.quantize.stream import TextStream
from tritium.quantize.windows import calibration_windows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tritium.model.pretrained import LoadedModel
    from tritium.quantize.plan import PlannedLayer, QuantizationPlan
    from tritium.quantize.source import Source
    from tritium.quantize.weights import QuantizedWeights

TOKENS = 512  # of the calibration text, at most; chosen in docs/measurements/quality.md
LOGITS_AT_ONCE = 1 << 20


def measure_layers(
    plan: QuantizationPlan,
    source: Source,
    workdir: Path,
    *,
    threads: int | None = None,
    tokens: int = TOKENS,
) -> tuple[tuple[Choice, ...], ...]:
    """Return what every layer of a plan may become, at what size and what cost, by layer.

    Without a calibration text the cost is the squared relative error of the weights times their number: it
    ranks layers, and predicts no loss.

    Raises:
        QuantizationError: names the layer whose rounding cannot be measured.
    """
    output = None
    if plan.config.is_calibrated:
        loaded = load_model(plan.source, threads=threads)
        output = _Output(loaded, calibration_windows(plan, workdir, loaded, tokens=tokens))
    return tuple(_choices(plan, layer, source, output) for layer in plan.layers)


def _choices(
    plan: QuantizationPlan, layer: PlannedLayer, source: Source, output: _Output | None
) -> tuple[Choice, ...]:
    settings = settings_of(plan.config, layer.name)
    try:
        weights = source.dense_weights(layer.name)
        found = []
        for planes in range(settings.min_planes, settings.max_planes + 1):
            quantized = quantize_planes(
                weights, planes=planes, group_size=settings.group_size or weights.shape[1]
            )
            if output is None:
                cost = weights.size * weight_error(weights, quantized) ** 2
            else:
                cost = output.loss(layer.name.removeprefix(source.weights.prefix), quantized)
            found.append(Choice(planes=planes, size=stored_bytes(quantized), cost=cost))
    except (FloatingPointError, MemoryError, ValueError) as error:
        raise QuantizationError(
            f"What {layer.name} loses cannot be measured: {error}", layer=layer.name
        ) from error
    if not all(math.isfinite(choice.cost) for choice in found):
        raise QuantizationError(
            f"The layer {layer.name} has no finite loss: its weights or inputs overflow.", layer=layer.name
        )
    return tuple(found)


class _Output:
    """The source on the calibration text; its layers are asked for in the order of the model."""

    def __init__(self, loaded: LoadedModel, windows: list[NDArray[np.int32]]) -> None:
        self._loaded, self._model = loaded, loaded.model
        self._stream = TextStream(loaded, windows)
        self._blocks = loaded.config.num_layers
        self._block, self._entering = 0, self._stream.embedded()
        self._wanted = self._through(0, self._entering)

    def loss(self, name: str, quantized: QuantizedWeights) -> float:
        """Return what the output loses if this layer alone is quantized."""
        block = block_of(name)
        while self._block < block:
            self._entering = self._stream.after_block(self._block, self._entering)
            self._block += 1
        dense, threads = self._model.linears()[name], self._model.threads
        weight = prepare(quantized.ternary_weight(), threads=threads)
        self._model.set_linear(
            name, TernaryLinear(weight, bias=getattr(dense, "bias", None), threads=threads)
        )
        try:
            return self._lost(self._through(block, self._entering))
        finally:
            self._model.set_linear(name, dense)

    def _through(self, block: int, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what leaves the last block: last hidden states (generators) or embeddings (encoders)."""
        for index in range(block, self._blocks):
            hidden = self._stream.after_block(index, hidden)
        if self._loaded.config.is_encoder:
            encoder = self._loaded.encoder
            return encoder.pooled(encoder.finish(hidden), self._stream.sequence_starts)
        return hidden

    def _lost(self, found: NDArray[np.float32]) -> float:
        if self._loaded.config.is_encoder:
            return float(1 - (self._wanted.astype(np.float64) * found).sum(axis=1).mean())
        # The source's logits are worked out again each time: all of them would not fit where words are many.
        step = max(1, LOGITS_AT_ONCE // self._loaded.config.vocab_size)
        total = 0.0
        for start in range(0, len(found), step):
            rows = slice(start, start + step)
            wanted, other = (
                self._loaded.generator.logits(np.ascontiguousarray(hidden[rows]))
                for hidden in (self._wanted, found)
            )
            total += float(_divergences(wanted, other).sum())
        return total / len(found)


def _divergences(wanted: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the Kullback-Leibler divergence of each row of logits [T, vocabulary] from the wanted one."""
    wanted -= wanted.max(axis=1, keepdims=True)
    other -= other.max(axis=1, keepdims=True)
    odds = np.exp(wanted)
    total = odds.sum(axis=1, dtype=np.float64)
    other_total = np.exp(other).sum(axis=1, dtype=np.float64)
    pull = (odds * (wanted - other)).sum(axis=1, dtype=np.float64)
    divergences: NDArray[np.float64] = pull / total - np.log(total) + np.log(other_total)
    return divergences
