"""Real inputs of every layer: the calibration text in the source and behind what is quantized so far.

Block after block, two streams of hidden states are kept: that of the source model, and that of the model
whose earlier layers are quantized. A layer's inputs are those of its block run on both. The streams that
enter the current block lie in the work directory, a file for each batch; whoever finds them there need not
run the blocks before. All follows from the source, the text and the finished layers, so it is the same in
every process.
"""

from __future__ import annotations

import re
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from tritium.errors import ValidationError
from tritium.kernels.cpu import prepare
from tritium.kernels.device import select_optimal_device
from tritium.model.layers import TernaryLinear
from tritium.model.pooling import POOLING_FILE
from tritium.model.pretrained import LoadedModel, build_model
from tritium.model.stored import StoredWeights
from tritium.quantize.inputs import LayerInputs, Rows
from tritium.quantize.kept import is_kept, keep, take_up
from tritium.quantize.layer_file import read_weights
from tritium.quantize.stream import TextStream
from tritium.quantize.windows import calibration_windows

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from tritium.kernels.device import Device
    from tritium.quantize.plan import QuantizationPlan
    from tritium.quantize.source import Source

BLOCK_NUMBER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
SOURCE, ACTUAL, AFTER = "source", "actual", "after"
BATCH_BYTES = 1 << 24  # of the widest inputs of a batch, about


class Calibration:
    """Runs the calibration text of one plan, as far as the layers that are asked for need it.

    The text passes in batches. In memory: the norms of all blocks, one layer of the source that runs, the
    ternary layers of one block, and one batch's inputs of a layer; on the disk: both streams at the entrance
    of the current block, and the inputs of all its layers in the source.
    """

    def __init__(
        self, plan: QuantizationPlan, workdir: Path, *, source: Source, threads: int | None = None
    ) -> None:
        """Prepare both models; raises ValidationError if a norm, the tokenizer or the text cannot be read."""
        self._plan = plan
        self._workdir = workdir
        self._weights = StoredWeights(source.checkpoint, source.weights)
        self._biases = source.weights.bias
        device = select_optimal_device(0, threads=threads)
        models = [_loaded(source, self._weights, device=device) for _ in range(2)]
        windows = calibration_windows(plan, workdir, models[0])
        parts = _batches(windows, widest=max(layer.in_features for layer in plan.layers))
        self._source, self._actual = ([TextStream(model, part) for part in parts] for model in models)
        self._model = models[1].model
        self._starts = [0, *accumulate(sum(map(len, part)) for part in parts)]
        self._block = -1
        self._first_names: dict[str, str] = {}
        self._last: tuple[str, LayerInputs] | None = None

    def first_missing(self, index: int) -> int:
        """Return the first layer that may be unfinished and decides the inputs of layer `index`."""
        block = self._block_of(index)
        first = min(self._layers_of(block))
        return first if block == 0 or self._has_streams(block) else 0

    def inputs(self, index: int) -> LayerInputs:
        """Return the inputs of a layer; the layers before it must be finished.

        Raises:
            ValidationError: one of them is not.
        """
        self._enter(self._block_of(index))
        if not self._first_names:
            self._run_source()
        for earlier in self._layers_of(self._block):
            if earlier < index:
                self._take(earlier)
        name = self._plain(index)
        # Layers that read the same rows share what is worked out from them.
        shared = self._first_names[name]
        if self._last is None or self._last[0] != shared:
            self._last = None
            read = partial(self._read_inputs, name=name, shared=shared)
            self._last = shared, LayerInputs(read, self._starts, threads=self._model.threads)
        return self._last[1]

    def _read_inputs(self, batch: int, *, name: str, shared: str) -> Rows:
        hidden = self._hidden(batch, ACTUAL)
        actual = self._actual[batch].input_of(self._block, hidden, until=name)
        return Rows(source=self._read(self._inputs_path(batch), shared, block=self._block), actual=actual)

    def _run_source(self) -> None:
        """Keep what the layers of the current block read in the source, and what leaves the block."""
        block, first_names = self._block, {}
        for batch, stream in enumerate(self._source):
            inputs, after = stream.through_block(block, self._hidden(batch, SOURCE))
            by_rows = {id(rows): name for name, rows in reversed(inputs.items())}
            first_names = {name: by_rows[id(rows)] for name, rows in inputs.items()}
            kept = {name: rows for name, rows in inputs.items() if first_names[name] == name}
            keep(self._inputs_path(batch), kept | {AFTER: after}, key=self._key(block))
        self._first_names = first_names

    def _enter(self, block: int) -> None:
        """Bring both streams to the entrance of a block."""
        if block == self._block:
            return
        if block and not self._has_streams(block):
            self._enter(block - 1)
            for index in self._layers_of(block - 1):
                self._take(index)
            for batch in range(len(self._actual)):
                self._leave(block - 1, batch)
            self._let_go(block - 1)
            # Nobody asks for the blocks before once all their layers are finished.
            for batch in range(len(self._actual)):
                self._stream_path(block - 1, batch).unlink(missing_ok=True)
        self._block, self._first_names, self._last = block, {}, None

    def _leave(self, block: int, batch: int) -> None:
        """Keep what leaves a block, whose layers are finished, in both streams."""
        kept = take_up(self._inputs_path(batch), [AFTER], key=self._key(block))
        after = {
            SOURCE: self._source[batch].after_block(block, self._hidden(batch, SOURCE))
            if kept is None
            else kept[AFTER],
            ACTUAL: self._actual[batch].after_block(block, self._hidden(batch, ACTUAL)),
        }
        keep(self._stream_path(block + 1, batch), after, key=self._key(block + 1))

    def _hidden(self, batch: int, stream: str) -> NDArray[np.float32]:
        """Return what enters the current block."""
        if self._block == 0:
            return (self._source if stream == SOURCE else self._actual)[batch].embedded()
        return self._read(self._stream_path(self._block, batch), stream, block=self._block)

    def _read(self, path: Path, name: str, *, block: int) -> NDArray[np.float32]:
        found = take_up(path, [name], key=self._key(block))
        if found is None:
            raise ValidationError(f"{path.name} was there a moment ago and cannot be read.", file=path.name)
        return found[name]

    def _has_streams(self, block: int) -> bool:
        batches = range(len(self._actual))
        return all(is_kept(self._stream_path(block, batch), key=self._key(block)) for batch in batches)

    def _key(self, block: int) -> str:
        """Return what decides the inputs of a block: the plan, the block and where batches begin."""
        return f"{self._plan.digest} {block} {self._starts}"

    def _stream_path(self, block: int, batch: int) -> Path:
        return self._workdir / "streams" / f"{block:05d}-{batch:05d}.safetensors"

    def _inputs_path(self, batch: int) -> Path:
        return self._workdir / "inputs" / f"{batch:05d}.safetensors"

    def _take(self, index: int) -> None:
        """Put a finished layer into the model that is quantized as far as it goes."""
        name = self._plain(index)
        if isinstance(self._model.linears()[name], TernaryLinear):
            return  # taken before
        threads = self._model.threads
        weight = prepare(read_weights(self._plan, index, self._workdir).ternary_weight(), threads=threads)
        linear = TernaryLinear(weight, bias=self._biases(name), threads=threads)
        self._model.set_linear(name, linear)

    def _let_go(self, block: int) -> None:
        """Take the finished layers of a block out of memory."""
        for index in self._layers_of(block):
            name = self._plain(index)
            stored = self._weights.linear(name, threads=self._model.threads)
            self._model.set_linear(name, stored)

    def _plain(self, index: int) -> str:
        """Return the model's own name of a layer, without the checkpoint's prefix."""
        name = self._plan.layers[index].name
        plain = next((known for known in self._model.linears() if name.endswith(known)), None)
        if plain is None:
            raise ValidationError(f"The model has no layer {name}.", layer=name)
        return plain

    def _block_of(self, index: int) -> int:
        return block_of(self._plan.layers[index].name)

    def _layers_of(self, block: int) -> list[int]:
        return [index for index in range(len(self._plan.layers)) if self._block_of(index) == block]


def block_of(name: str) -> int:
    """Return the number of the block that a linear layer belongs to (ValidationError: of none)."""
    found = BLOCK_NUMBER.search(name)
    if found is None:
        raise ValidationError(f"The layer {name} belongs to no block.", layer=name)
    return int(found.group(1))


def _loaded(source: Source, weights: StoredWeights, *, device: Device) -> LoadedModel:
    """Return the source's model, with its layers left in the checkpoint."""
    checkpoint, config = source.checkpoint, source.config
    model = build_model(config, weights, pooling=checkpoint.file(POOLING_FILE), threads=device.threads)
    return LoadedModel(checkpoint.path, config, model, device, files=checkpoint.embedded)


def _batches(windows: list[NDArray[np.int32]], *, widest: int) -> list[list[NDArray[np.int32]]]:
    """Return runs of windows whose widest inputs take about BATCH_BYTES, one window at least."""
    limit = BATCH_BYTES // (4 * widest)
    batches: list[list[NDArray[np.int32]]] = [[]]
    tokens = 0
    for window in windows:
        if batches[-1] and tokens + len(window) > limit:
            batches.append([])
            tokens = 0
        batches[-1].append(window)
        tokens += len(window)
    return batches
