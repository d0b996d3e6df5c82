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
    from tritium.quantize.config import QuantizationConfig
    from tritium.quantize.plan import QuantizationPlan

TOKENS_PER_PASSAGE = 64  # about; passages are cut by characters
WRITTEN = "written"


def calibration_windows(
    plan: QuantizationPlan, workdir: Path, loaded: LoadedModel
) -> list[NDArray[np.int32]]:
    """Return the windows of tokens that calibrate a plan's layers; the same in every process.

    Raises:
        ValidationError: the text has less than two tokens of this model.
    """
    config = plan.config
    window = min(config.window, loaded.config.max_positions)
    if config.calibration_text is None:
        kept = _kept(plan, workdir)
        if kept is None:
            # Writing runs the whole model for every token: it lies in memory meanwhile.
            writer = load_model(plan.source, threads=loaded.model.threads)
            kept = np.stack(written_windows(writer, tokens=config.calibration_tokens, window=window))
            write_safetensors(_path(workdir), {WRITTEN: kept}, metadata={"plan": plan.digest})
        return list(kept)
    windows = _cut(config, loaded, text=read_text(config.calibration_text), window=window)
    if not windows:
        raise ValidationError(
            "The calibration text is too short: it has less than two tokens.", field="calibration_text"
        )
    return windows


def _cut(
    config: QuantizationConfig, loaded: LoadedModel, *, text: str, window: int
) -> list[NDArray[np.int32]]:
    limit = config.calibration_tokens
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


def _path(workdir: Path) -> Path:
    return workdir / "written.safetensors"


def _kept(plan: QuantizationPlan, workdir: Path) -> NDArray[np.int32] | None:
    try:
        with WeightFile(_path(workdir), memory_map=False) as file:
            if file.metadata.get("plan") != plan.digest:
                return None
            kept: NDArray[np.int32] = file.read(file.tensors[WRITTEN])
            return kept
    except (ValidationError, OSError, KeyError):
        return None  # not there, or damaged: it is written again
