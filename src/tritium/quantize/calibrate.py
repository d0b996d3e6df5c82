"""Real inputs of every layer: the calibration text in the source and behind what is quantized so far.

Block after block, two streams of hidden states are kept: that of the source model, and that of the model
whose earlier layers are quantized. A layer's inputs are those of its block run on both. The streams that
enter the current block lie in the work directory as one file; whoever finds it there need not run the blocks
before. All follows from the source, the text and the finished layers, so it is the same in every process.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tritium.errors import ValidationError
from tritium.formats.safetensors import write_safetensors
from tritium.formats.weight_file import WeightFile
from tritium.kernels.cpu import prepare
from tritium.kernels.device import select_optimal_device
from tritium.model.layers import TernaryLinear
from tritium.model.pooling import POOLING_FILE
from tritium.model.pretrained import LoadedModel, build_model
from tritium.model.stored import StoredWeights
from tritium.quantize.inputs import LayerInputs
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
SOURCE, ACTUAL = "source", "actual"

Streams = tuple["NDArray[np.float32]", "NDArray[np.float32]"]


class Calibration:
    """Runs the calibration text of one plan, as far as the layers that are asked for need it.

    In memory: the norms of all blocks, one layer of the source that runs, the ternary layers of one block,
    and T x (both streams + widths of one block's inputs) floats.
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
        self._source, self._actual = (TextStream(model, windows) for model in models)
        self._block = -1
        self._streams: Streams | None = None
        self._source_inputs: dict[str, NDArray[np.float32]] = {}
        self._source_after: NDArray[np.float32] | None = None
        self._last: tuple[NDArray[np.float32], LayerInputs] | None = None

    def first_missing(self, index: int) -> int:
        """Return the first layer that may be unfinished and decides the inputs of layer `index`."""
        block = self._block_of(index)
        first = min(self._layers_of(block))
        return first if block == 0 or self._read(block) is not None else 0

    def inputs(self, index: int) -> LayerInputs:
        """Return the inputs of a layer; the layers before it must be finished.

        Raises:
            ValidationError: one of them is not.
        """
        block = self._block_of(index)
        self._enter(block)
        source, actual = self._streams or (None, None)
        if source is None or actual is None:
            raise ValidationError(f"No inputs of {self._plan.layers[index].name} are known.")
        if not self._source_inputs:
            self._source_inputs, self._source_after = self._source.through_block(block, source)
        for earlier in self._layers_of(block):
            if earlier < index:
                self._take(earlier)
        name = self._plain(index)
        shared = self._source_inputs[name]
        # Layers that read the same rows share what is worked out from them.
        if self._last is None or self._last[0] is not shared:
            self._last = None
            found = self._actual.input_of(block, actual, until=name)
            self._last = (shared, LayerInputs(source=shared, actual=found))
        return self._last[1]

    def _enter(self, block: int) -> None:
        """Bring both streams to the entrance of a block."""
        if block == self._block:
            return
        streams = self._read(block) if block else (self._source.embedded(), self._actual.embedded())
        if streams is None:
            self._enter(block - 1)
            source, actual = self._streams or (None, None)
            if source is None or actual is None:
                raise ValidationError(f"Block {block - 1} has no inputs.")
            for index in self._layers_of(block - 1):
                self._take(index)
            self._source_inputs, self._last = {}, None
            after = self._source_after
            if after is None:
                after = self._source.after_block(block - 1, source)
            streams = after, self._actual.after_block(block - 1, actual)
            self._write(block, streams)
            self._let_go(block - 1)
        self._block, self._streams = block, streams
        self._source_inputs, self._source_after, self._last = {}, None, None

    def _take(self, index: int) -> None:
        """Put a finished layer into the model that is quantized as far as it goes."""
        name = self._plain(index)
        if isinstance(self._actual.model.linears()[name], TernaryLinear):
            return  # taken before
        threads = self._actual.model.threads
        weight = prepare(read_weights(self._plan, index, self._workdir).ternary_weight(), threads=threads)
        linear = TernaryLinear(weight, bias=self._biases(name), threads=threads)
        self._actual.model.set_linear(name, linear)

    def _let_go(self, block: int) -> None:
        """Take the finished layers of a block out of memory."""
        for index in self._layers_of(block):
            name = self._plain(index)
            stored = self._weights.linear(name, threads=self._actual.model.threads)
            self._actual.model.set_linear(name, stored)

    def _plain(self, index: int) -> str:
        """Return the model's own name of a layer, without the checkpoint's prefix."""
        name = self._plan.layers[index].name
        plain = next((known for known in self._actual.model.linears() if name.endswith(known)), None)
        if plain is None:
            raise ValidationError(f"The model has no layer {name}.", layer=name)
        return plain

    def _block_of(self, index: int) -> int:
        return block_of(self._plan.layers[index].name)

    def _layers_of(self, block: int) -> list[int]:
        return [index for index in range(len(self._plan.layers)) if self._block_of(index) == block]

    def _path(self, block: int) -> Path:
        return self._workdir / "streams" / f"{block:05d}.safetensors"

    def _read(self, block: int) -> Streams | None:
        try:
            with WeightFile(self._path(block), memory_map=False) as file:
                if file.metadata.get("plan") != self._plan.digest:
                    return None
                tensors: dict[str, Any] = {name: file.read(file.tensors[name]) for name in (SOURCE, ACTUAL)}
        except (ValidationError, OSError, KeyError):
            return None  # not there, or damaged: it is worked out again
        return tensors[SOURCE], tensors[ACTUAL]

    def _write(self, block: int, streams: Streams) -> None:
        self._path(block).parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(
            self._path(block),
            {SOURCE: streams[0], ACTUAL: streams[1]},
            metadata={"plan": self._plan.digest},
        )
        # Nobody asks for the blocks before once all their layers are finished.
        self._path(block - 1).unlink(missing_ok=True)


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
