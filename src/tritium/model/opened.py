"""A model whose weights are read one by one and not run: a directory of ours, any checkpoint, a GGUF file."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritium.formats.native import is_native, open_native
from tritium.model.config import parse_config
from tritium.model.gguf_model import open_model
from tritium.model.weights import CheckpointWeights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tritium.formats.checkpoint import Checkpoint


@dataclass(frozen=True)
class OpenedModel:
    """A model whose weights are read one by one; `declared` is its config.json."""

    checkpoint: Checkpoint
    declared: Mapping[str, Any]
    weights: CheckpointWeights


@contextlib.contextmanager
def opened_model(source: str | Path) -> Iterator[OpenedModel]:
    """Open a directory that Tritium saved, a checkpoint or a GGUF file, for as long as the block runs.

    Raises:
        ValidationError: it is broken or not known, or its tensors do not fit its config.
    """
    with contextlib.ExitStack() as stack:
        manifest = None
        if is_native(source):
            native = stack.enter_context(open_native(source))
            checkpoint, manifest = native.checkpoint, native.manifest
        else:
            checkpoint = stack.enter_context(open_model(source))
        declared = checkpoint.config or (manifest or {}).get("config", {})
        weights = CheckpointWeights(
            checkpoint, parse_config(declared, tensors=checkpoint.tensors), manifest=manifest
        )
        yield OpenedModel(checkpoint, declared, weights)
