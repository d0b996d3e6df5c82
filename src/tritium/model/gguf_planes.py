"""The trit-planes of a layer, which lie side by side in a GGUF file, found and counted (decision 9)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tritium.formats.gguf_decode import TERNARY
from tritium.formats.refusal import refusal
from tritium.model.gguf_names import PLANES_KEY, plane_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium.formats.gguf_reader import StoredTensor
    from tritium.formats.gguf_shards import GGUFFiles

_PLANE: Final = re.compile(r"(blk\.\d+\.\w+)\.plane([1-9])\.weight")


def sibling_planes(file: GGUFFiles, *, most: int) -> dict[str, list[StoredTensor]]:
    """Return by the name of a layer's first plane the planes that follow it.

    Args:
        file: where they lie.
        most: planes that a layer has, as the file says.

    Raises:
        ValidationError: a plane lacks one before it, there are more than `most`, or no layer has as many: the
            layer would be something else than its writer meant.
    """
    numbered: dict[str, dict[int, StoredTensor]] = {}
    for name, stored in file.tensors.items():
        found = _PLANE.fullmatch(name)
        if found is not None:
            numbered.setdefault(plane_name(found[1], 0), {})[int(found[2])] = stored
    planes = {first: [others[key] for key in sorted(others)] for first, others in numbered.items()}
    for first, others in numbered.items():
        _check(file, first, others, most=most)
    largest = 1 + max(map(len, planes.values()), default=0)
    if largest != most:
        raise refusal(
            f"{PLANES_KEY} says {most} and no layer has more than {largest}: planes are missing",
            file=file.path,
        )
    return planes


def _check(file: GGUFFiles, first: str, others: Mapping[int, StoredTensor], *, most: int) -> None:
    name = next(iter(others.values())).name
    if max(others) >= most:
        raise refusal(f"layers of this file have at most {most} planes", file=file.path, tensor=name)
    missing = [index for index in range(1, max(others)) if index not in others]
    if missing or first not in file.tensors:
        raise refusal("a plane of the layer before it is missing", file=file.path, tensor=name)
    if file.tensors[first].type not in TERNARY:
        raise refusal(f"{first} is not ternary and has no planes", file=file.path, tensor=name)
