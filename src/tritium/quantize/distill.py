"""The profile `best`: the quantized layers learn together to do what the source does.

Quantization-aware distillation (BitDistill, arXiv 2510.13998, without its continued pre-training): levels and
scales learn by the straight-through estimator, from where compensation left them, on a text of the user or of
the model itself. A generator learns the source's next-token distributions (Kullback-Leibler), an encoder its
vectors (cosine); both learn the hidden states after every block.

The whole model is in memory, as float32 with two moments of Adam for every ternary weight. What was learned
is kept in the work directory from time to time: after a crash the lesson goes on from there.
"""

from __future__ import annotations

import contextlib
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from tritium.errors import QuantizationError
from tritium.model.pretrained import load_model
from tritium.quantize.differentiable import differentiable
from tritium.quantize.layer_file import read_layer_report, read_weights, write_layer
from tritium.quantize.lesson_file import keep_lesson, take_up_lesson
from tritium.quantize.quality import weight_error
from tritium.quantize.shards import SHARDS, Batch, backward
from tritium.quantize.straight_through import TernaryParameter
from tritium.quantize.windows import training_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from tritium.quantize.plan import QuantizationPlan
    from tritium.quantize.report import LayerReport
    from tritium.quantize.source import Source

DISTILLED = "distilled"
# Of each half of a step. How sums are split among threads decides their last bits, so it is always the same.
THREADS = 1
# Where a processor has AVX2 and no more, torch takes six to thirty times as long for products of bfloat16.
MULTIPLIES_BFLOAT16 = torch.backends.cpu.get_cpu_capability() != "AVX2"
TOKENS_PER_STEP = 2048
WARM_UP_STEPS = 20
# Of the mean magnitude of the weights, in one step of Adam.
LEARNING_RATE = 0.02
SCALE_RATE = 0.2  # of that
COSINE_WEIGHT = 2.0
SECONDS_BETWEEN_KEEPING = 60.0
SHARE_OF_KEEPING = 0.05  # of the time, at most: a large model takes long to write


def distill(
    plan: QuantizationPlan,
    workdir: Path,
    *,
    source: Source,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Let all layers of a plan learn, and return the directory of the layers' new files.

    Layers that equal the source's exactly stay as they are. Does nothing where it was finished before.

    Raises:
        ValidationError: a layer is not quantized yet, or the architecture is not known to training.
        QuantizationError: the loss is no longer finite.
    """
    directory = workdir / DISTILLED
    layers = range(len(plan.layers))
    if all(read_layer_report(plan, index, directory) is not None for index in layers):
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    with _fixed_threads():
        lesson = _Lesson(plan, workdir, source)
        if lesson.students:
            windows = training_windows(plan, workdir, load_model(plan.source))
            lesson.learn(windows, directory, steps=plan.config.training_steps, progress=progress)
        for index in layers:
            _keep(plan, index, workdir, lesson.students, source=source)
    return directory


class _Lesson:
    """The source's model with two sets of weights: its own, and those that learn."""

    def __init__(self, plan: QuantizationPlan, workdir: Path, source: Source) -> None:
        self._plan = plan
        self._model = differentiable(source.config, source.weights)
        self._blocks, self._is_encoder = source.config.num_layers, source.config.is_encoder
        self._dense: dict[str, torch.Tensor] = {}
        self._biases: dict[str, torch.Tensor | None] = {}
        self.students: dict[str, TernaryParameter] = {}
        for index, layer in enumerate(plan.layers):
            name = layer.name.removeprefix(source.weights.prefix)
            weights = source.dense_weights(layer.name)
            self._dense[name] = torch.from_numpy(np.array(weights))
            if not _finished(plan, index, workdir).is_lossless:
                self.students[layer.name] = TernaryParameter(read_weights(plan, index, workdir), weights)
            bias = source.weights.bias(name)
            self._biases[name] = None if bias is None else torch.from_numpy(np.array(bias))
        self._prefix = source.weights.prefix

    def learn(
        self,
        windows: list[NDArray[np.int32]],
        directory: Path,
        *,
        steps: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Take so many steps of Adam, each on a few windows; those kept in `directory` are done."""
        optimizer, draw = self._optimizer(), np.random.default_rng(0)
        done = take_up_lesson(self._plan, directory, optimizer)
        for _ in range(done):
            _batch(windows, draw)
        kept_at, cost = time.monotonic(), 0.0
        with ThreadPoolExecutor(SHARDS) as executor:
            for step in range(done, steps):
                batch = _batch(windows, draw)
                loss = self._take_step(batch, optimizer, executor, rate=_rate(step, steps=steps))
                if not bool(torch.isfinite(loss)):
                    raise QuantizationError(f"Distillation lost its way: no finite loss in step {step + 1}.")
                now = time.monotonic()
                if (
                    now - kept_at >= max(SECONDS_BETWEEN_KEEPING, cost / SHARE_OF_KEEPING)
                    or step + 1 == steps
                ):
                    keep_lesson(self._plan, directory, optimizer, steps=step + 1)
                    kept_at = time.monotonic()
                    cost = kept_at - now
                if progress is not None:
                    progress(step + 1, steps)

    def _take_step(
        self, batch: Batch, optimizer: torch.optim.Adam, executor: ThreadPoolExecutor, *, rate: float
    ) -> torch.Tensor:
        """Learn from a batch; return its loss."""
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
        optimizer.zero_grad()
        loss = backward(batch, self.students, loss_of=self._loss, executor=executor)
        optimizer.step()
        return loss

    def _optimizer(self) -> torch.optim.Adam:
        rate = LEARNING_RATE * float(torch.stack([w.abs().mean() for w in self._dense.values()]).mean())
        students = self.students.values()
        return torch.optim.Adam(
            [
                {"params": [student.latent for student in students], "initial_lr": rate},
                {"params": [student.scales for student in students], "initial_lr": SCALE_RATE * rate},
            ],
            betas=(0.9, 0.95),
            fused=True,
        )

    def _loss(self, batch: Batch, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        token_ids, is_token = batch
        learned = {name.removeprefix(self._prefix): weight for name, weight in weights.items()}
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=MULTIPLIES_BFLOAT16):
            with torch.no_grad():
                wanted, states = self._run(token_ids, is_token, self._dense)
            output, found = self._run(token_ids, is_token, self._dense | learned)
        hidden = torch.stack(
            [
                (found_state - state).square().sum() / state.square().sum()
                for found_state, state in zip(found, states, strict=True)
            ]
        ).mean()
        if self._is_encoder:
            return hidden + COSINE_WEIGHT * (1 - (output * wanted).sum(dim=-1)).mean()
        predicted, expected = (functional.log_softmax(each, dim=-1) for each in (output, wanted))
        return hidden + functional.kl_div(predicted, expected, log_target=True, reduction="batchmean")

    def _run(
        self, token_ids: torch.Tensor, is_token: torch.Tensor, weights: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the output, and the hidden states after every block."""

        def apply(name: str, x: torch.Tensor) -> torch.Tensor:
            return functional.linear(x, weights[name], self._biases[name])

        hidden, states = self._model.embed(token_ids, is_token), []
        for index in range(self._blocks):
            hidden = self._model.block(index, hidden, is_token, apply)
            states.append(hidden)
        return self._model.output(hidden, is_token), states


def _rate(step: int, *, steps: int) -> float:
    """Return the share of the rate: it rises in the first steps and falls along half a cosine."""
    return min(1, (step + 1) / WARM_UP_STEPS) * (1 + math.cos(math.pi * step / steps)) / 2


def _batch(windows: list[NDArray[np.int32]], draw: np.random.Generator) -> Batch:
    """Draw windows for one step and pad them."""
    count = max(1, TOKENS_PER_STEP * len(windows) // sum(map(len, windows)))
    chosen = [windows[index] for index in draw.integers(0, len(windows), count)]
    token_ids = torch.zeros((count, max(map(len, chosen))), dtype=torch.int64)
    is_token = torch.zeros(token_ids.shape, dtype=torch.bool)
    for row, window in enumerate(chosen):
        token_ids[row, : len(window)] = torch.from_numpy(window.astype(np.int64))
        is_token[row, : len(window)] = True
    return Batch(token_ids, is_token)


def _keep(
    plan: QuantizationPlan,
    index: int,
    workdir: Path,
    students: Mapping[str, TernaryParameter],
    *,
    source: Source,
) -> None:
    name, report = plan.layers[index].name, _finished(plan, index, workdir)
    directory = workdir / DISTILLED
    if name not in students:
        write_layer(plan, index, directory, quantized=read_weights(plan, index, workdir), report=report)
        return
    quantized = students[name].quantized()
    error = weight_error(source.dense_weights(name), quantized)
    # What the layer's output was off by before it learned says nothing of it now.
    learned = replace(
        report, strategy=DISTILLED, weight_error=error, output_error=None, is_lossless=error == 0
    )
    write_layer(plan, index, directory, quantized=quantized, report=learned)


def _finished(plan: QuantizationPlan, index: int, workdir: Path) -> LayerReport:
    report = read_layer_report(plan, index, workdir)
    if report is None:
        name = plan.layers[index].name
        raise QuantizationError(f"The layer {name} is not quantized yet.", layer=name)
    return report


@contextlib.contextmanager
def _fixed_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
