"""The tokens that calibrate: cut from the user's text, or written by the model and kept beside the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import ValidationError
from tritium.formats.safetensors import write_safetensors
from tritium.formats.weight_file import WeightFile
from tritium.quantize.generate import written_windows
from tritium.quantize.text import passages, read_text, spread, token_windows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tritium.model.pretrained import LoadedModel
    from tritium.quantize.plan import QuantizationPlan

TOKENS_PER_PASSAGE = 64  # about; passages are cut by characters
WRITTEN = "written"
SEEDS = {"calibration": 0, "training": 1}


def calibration_windows(
    plan: QuantizationPlan, workdir: Path, loaded: LoadedModel
) -> list[NDArray[np.int32]]:
    """Return the windows of tokens that calibrate a plan's layers; the same in every process.

    Raises:
        ValidationError: the text has less than two tokens of this model.
    """
    return _windows(plan, workdir, loaded, use="calibration", limit=plan.config.calibration_tokens)


def training_windows(plan: QuantizationPlan, workdir: Path, loaded: LoadedModel) -> list[NDArray[np.int32]]:
    """Return the windows of tokens that a plan's layers learn on, likewise."""
    return _windows(plan, workdir, loaded, use="training", limit=plan.config.training_tokens)


def _windows(
    plan: QuantizationPlan, workdir: Path, loaded: LoadedModel, *, use: str, limit: int
) -> list[NDArray[np.int32]]:
    config, file = plan.config, workdir / f"{use}.safetensors"
    window = min(config.window, loaded.config.max_positions)
    if config.calibration_text is None:
        kept = _kept(plan, file)
        if kept is None:
            kept = np.stack(written_windows(loaded, tokens=limit, window=window, seed=SEEDS[use]))
            write_safetensors(file, {WRITTEN: kept}, metadata={"plan": plan.digest})
        return list(kept)
    windows = _cut(read_text(config.calibration_text), loaded, window=window, limit=limit)
    if not windows:
        raise ValidationError(
            "The calibration text is too short: it has less than two tokens.", field="calibration_text"
        )
    return windows


def _cut(text: str, loaded: LoadedModel, *, window: int, limit: int) -> list[NDArray[np.int32]]:
    if loaded.config.is_encoder:
        chosen = spread(passages(text), count=max(1, limit // TOKENS_PER_PASSAGE))
        return [np.array(loaded.tokenizer.encode(each)[:window], dtype=np.int32) for each in chosen]
    return token_windows(
        loaded.tokenizer,
        text,
        window=max(2, min(window, limit)),
        limit=limit,
        first_token=loaded.config.bos_token_id,
    )


def _kept(plan: QuantizationPlan, path: Path) -> NDArray[np.int32] | None:
    try:
        with WeightFile(path, memory_map=False) as file:
            if file.metadata.get("plan") != plan.digest:
                return None
            kept: NDArray[np.int32] = file.read(file.tensors[WRITTEN])
            return kept
    except (ValidationError, OSError, KeyError):
        return None  # not there, or damaged: it is written again
