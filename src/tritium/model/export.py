"""What the exports share: the model they read, and what they tell about what they wrote."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.native import is_native, open_native
from tritium.model.config import parse_config
from tritium.model.weights import CheckpointWeights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tritium.formats.checkpoint import Checkpoint


@dataclass
class ExportReport:
    """What came of an export.

    Attributes:
        path: the file or directory that was written.
        bytes: of all weights.
        ternary_tensors: linear layers that are ternary.
        dense_tensors: linear layers that are not.
        largest_scale_rounding: the most that a scale was changed, relative; 0 where every one is exact.
        tensor_types: number of tensors by type.
        notes: what a user must know: who cannot read it, what else was rounded.
    """

    path: Path
    bytes: int = 0
    ternary_tensors: int = 0
    dense_tensors: int = 0
    largest_scale_rounding: float = 0.0
    tensor_types: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def count(self, kind: str) -> None:
        """Count one more tensor of a type."""
        self.tensor_types[kind] = self.tensor_types.get(kind, 0) + 1

    def note_rounding(self, relative: float) -> None:
        """Keep the largest relative change of a scale."""
        self.largest_scale_rounding = max(self.largest_scale_rounding, relative)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class OpenedModel:
    """A model whose weights are read one by one; `declared` is its config.json."""

    checkpoint: Checkpoint
    declared: Mapping[str, Any]
    weights: CheckpointWeights


@contextlib.contextmanager
def opened_model(source: str | Path) -> Iterator[OpenedModel]:
    """Open a directory that Tritium saved, or a checkpoint, for as long as the block runs.

    Raises:
        ValidationError: it is broken or not known, or its tensors do not fit its config.
    """
    with contextlib.ExitStack() as stack:
        manifest = None
        if is_native(source):
            native = stack.enter_context(open_native(source))
            checkpoint, manifest = native.checkpoint, native.manifest
        else:
            checkpoint = stack.enter_context(open_checkpoint(source))
        declared = checkpoint.config or (manifest or {}).get("config", {})
        weights = CheckpointWeights(checkpoint, parse_config(declared), manifest=manifest)
        yield OpenedModel(checkpoint, declared, weights)
