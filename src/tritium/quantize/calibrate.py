"""Real activations: what every linear layer of the source reads while it runs over the calibration text."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tritium.errors import BitNetServiceError, ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.safetensors import write_safetensors
from tritium.formats.storage import staged_directory, write_synced
from tritium.model.batch import ForwardBatch
from tritium.model.pretrained import LoadedModel, load_model
from tritium.quantize.text import passages, read_text, spread, token_windows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tritium.quantize.plan import QuantizationPlan

INDEX = "index.json"
TENSOR = "activations"
TOKENS_PER_PASSAGE = 64  # about; passages are cut by characters


class ActivationRecorder:
    """Writes each linear layer's input to a file when it is seen; layers with one input share the file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._last: NDArray[np.float32] | None = None
        self.files: dict[str, str] = {}

    def __call__(self, name: str, x: NDArray[np.float32]) -> None:
        """Record the input x [M, K] of the layer `name`."""
        if x is not self._last:
            self._last = x
            self._file = f"{len(self.files):05d}.safetensors"
            write_safetensors(
                self._directory / self._file, {TENSOR: np.ascontiguousarray(x, dtype=np.float32)}
            )
        self.files[name] = self._file


def capture_activations(plan: QuantizationPlan, workdir: Path, *, threads: int | None = None) -> None:
    """Run the source model over the calibration text and keep every linear layer's input in `workdir`.

    Does nothing without a calibration text, or when it was done before. One layer's input is in memory at a
    time, beside the source model, whose weights are memory-mapped where they are large.

    Raises:
        ValidationError: the text or the model cannot be read.
    """
    if plan.config.calibration_text is None or _is_captured(plan, workdir):
        return
    target = _directory(workdir)
    if target.exists():
        shutil.rmtree(target)
    loaded = load_model(plan.source, threads=threads)
    try:
        with staged_directory(target) as staging:
            recorder = ActivationRecorder(staging)
            _run(plan, loaded, recorder)
            index = {"plan": plan.digest, "files": recorder.files}
            write_synced(staging / INDEX, [json.dumps(index, indent=1, sort_keys=True).encode()])
    except BitNetServiceError:
        # Another worker may have finished the same capture first; its bytes are the same.
        if not _is_captured(plan, workdir):
            raise


def read_activations(plan: QuantizationPlan, name: str, workdir: Path) -> NDArray[np.float32] | None:
    """Return the captured input of a layer, float32 [M, K]; None without a calibration text."""
    if plan.config.calibration_text is None:
        return None
    files = _read_index(workdir).get("files", {})
    plain = next((known for known in files if name.endswith(known)), None)
    if plain is None:
        raise ValidationError(f"No activations of {name} were captured.", layer=name)
    with open_checkpoint(_directory(workdir) / files[plain], allow_hub=False) as checkpoint:
        return checkpoint.read_float32(TENSOR)


def _run(plan: QuantizationPlan, loaded: LoadedModel, recorder: ActivationRecorder) -> None:
    text = read_text(plan.config.calibration_text or "")
    window = min(plan.config.window, loaded.config.max_positions)
    limit = plan.config.calibration_tokens
    loaded.model.observer = recorder
    try:
        if loaded.config.is_encoder:
            chosen = spread(passages(text), count=max(1, limit // TOKENS_PER_PASSAGE))
            loaded.encoder.encode([loaded.tokenizer.encode(passage)[:window] for passage in chosen])
            return
        windows = token_windows(
            loaded.tokenizer,
            text,
            window=max(2, min(window, limit)),
            limit=limit,
            first_token=loaded.config.bos_token_id,
        )
        batch = ForwardBatch.of_sequences(windows)
        # Nobody reads the logits here; one row of them is enough.
        batch = replace(batch, logit_rows=batch.logit_rows[:1])
        loaded.generator.forward(batch, loaded.generator.new_cache(batch.num_blocks))
    finally:
        loaded.model.observer = None


def _directory(workdir: Path) -> Path:
    return workdir / "activations"


def _read_index(workdir: Path) -> dict[str, Any]:
    path = _directory(workdir) / INDEX
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_captured(plan: QuantizationPlan, workdir: Path) -> bool:
    return _read_index(workdir).get("plan") == plan.digest
