"""Arrays that a plan keeps in its work directory; what is not there, or damaged, is worked out again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritium.errors import ValidationError
from tritium.formats.safetensors import write_safetensors
from tritium.formats.weight_file import WeightFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray


def keep(path: Path, tensors: Mapping[str, NDArray[Any]], *, key: str) -> None:
    """Write arrays under the key of what they follow from (ResourceError: the disk is full)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, tensors, metadata={"key": key})


def take_up(path: Path, names: Iterable[str], *, key: str) -> dict[str, NDArray[Any]] | None:
    """Read arrays that `keep` wrote under this key; None where they are not there, or damaged."""
    try:
        with WeightFile(path, memory_map=False) as file:
            if file.metadata.get("key") != key:
                return None
            return {name: file.read(file.tensors[name]) for name in names}
    except (ValidationError, OSError, KeyError):
        return None


def is_kept(path: Path, *, key: str) -> bool:
    """Return whether arrays lie there under this key."""
    return take_up(path, (), key=key) is not None
