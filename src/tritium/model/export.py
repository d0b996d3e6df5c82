"""What an export tells about what it wrote."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


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
