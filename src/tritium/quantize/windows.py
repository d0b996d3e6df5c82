"""The tokens that calibrate: cut from the user's text, or written by the model and kept beside the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import ValidationError
from tritium.formats.safetensors import write_safetensors
from tritium.formats.weight_file import WeightFile
from tritium.model.pretrained import load_model
from tritium.quantize.generate import written_windows
from tritium.quantize.text import passages, read_text, spread, token_windows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tritium.model.pretrained import LoadedModel
    from tritium.quantize.plan import QuantizationPlan

TOKENS_PER_PASSAGE = 64  # about; passages are cut by characters
WRITTEN = "written"


def calibration_windows(
    plan: QuantizationPlan, workdir: Path, loaded: LoadedModel, *, tokens: int | None = None
) -> list[NDArray[np.int32]]:
    """Return the windows of tokens that calibrate a plan's layers; the same in every process.

    Args:
        plan: whose configuration says what calibrates.
        workdir: where a text that the model wrote is kept.
        loaded: the source.
        tokens: of those windows, so many tokens at most; None takes as many as the plan does.

    Raises:
        ValidationError: the text has less than two tokens of this model.
    """
    limit = plan.config.calibration_tokens
    fewer = limit if tokens is None else min(limit, tokens)
    if plan.config.calibration_text is not None:
        return _cut(plan.config.calibration_text, loaded, window=_window(plan, loaded), limit=fewer)
    windows = _written(plan, workdir / "calibration.safetensors", loaded, tokens=limit, seed=0)
    return windows[: max(1, fewer // len(windows[0]))]


def training_windows(plan: QuantizationPlan, workdir: Path, loaded: LoadedModel) -> list[NDArray[np.int32]]:
    """Return the windows of tokens that a plan's layers learn on, likewise."""
    limit = plan.config.training_tokens
    if plan.config.calibration_text is not None:
        return _cut(plan.config.calibration_text, loaded, window=_window(plan, loaded), limit=limit)
    return _written(plan, workdir / "training.safetensors", loaded, tokens=limit, seed=1)


def _window(plan: QuantizationPlan, loaded: LoadedModel) -> int:
    return min(plan.config.window, loaded.config.max_positions)


def _written(
    plan: QuantizationPlan, file: Path, loaded: LoadedModel, *, tokens: int, seed: int
) -> list[NDArray[np.int32]]:
    kept = _kept(plan, file)
    if kept is None:
        # Writing runs the whole model for every token: it lies in memory meanwhile.
        writer = load_model(plan.source, threads=loaded.model.threads)
        kept = np.stack(written_windows(writer, tokens=tokens, window=_window(plan, loaded), seed=seed))
        write_safetensors(file, {WRITTEN: kept}, metadata={"plan": plan.digest})
    return list(kept)


def _cut(text: str | Path, loaded: LoadedModel, *, window: int, limit: int) -> list[NDArray[np.int32]]:
    content = read_text(text)
    if loaded.config.is_encoder:
        chosen = spread(passages(content), count=max(1, limit // TOKENS_PER_PASSAGE))
        windows = [np.array(loaded.tokenizer.encode(each)[:window], dtype=np.int32) for each in chosen]
    else:
        windows = token_windows(
            loaded.tokenizer,
            content,
            window=max(2, min(window, limit)),
            limit=limit,
            first_token=loaded.config.bos_token_id,
        )
    if not windows:
        raise ValidationError(
            "The calibration text is too short: it has less than two tokens.", field="calibration_text"
        )
    return windows


def _kept(plan: QuantizationPlan, path: Path) -> NDArray[np.int32] | None:
    try:
        with WeightFile(path, memory_map=False) as file:
            if file.metadata.get("plan") != plan.digest:
                return None
            kept: NDArray[np.int32] = file.read(file.tensors[WRITTEN])
            return kept
    except (ValidationError, OSError, KeyError):
        return None  # not there, or damaged: it is written again
