"""The files of one GGUF model: a file by itself, or all shards of a model that was cut into several.

Shards are called `NAME-00001-of-00003.gguf`. Each is a whole container with tensors of its own; the first has
the metadata of the model, and every one says its place (`split.no`, from 0), how many there are
(`split.count`) and how many tensors all of them hold (`split.tensors.count`). So do llama.cpp and the
package gguf write them.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Final, Self

from tritium.formats.checkpoint import contained_file
from tritium.formats.gguf_reader import GGUFFile
from tritium.formats.refusal import quoted, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from tritium.formats.gguf_reader import StoredTensor

NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
_OF_SPLIT: Final = frozenset({NUMBER, COUNT, TENSORS})
_NAME: Final = re.compile(r"(?P<model>.*)-(?P<place>\d{5})-of-(?P<count>\d{5})\.gguf")


class GGUFFiles:
    """One verified model in one GGUF file or several, held open; close it, or use it as a context manager.

    Attributes:
        path: the file, or the first shard whichever was named.
        paths: all of them, in their order.
        version: of the container, 2 or 3.
        metadata: of the model; what cut it into shards is left out.
        tensors: of all files by name, in the order of their data.

    Args:
        path: the file, or any of the shards.

    Raises:
        ValidationError: a shard is missing, is there twice, belongs to another model or was renamed; or as
            GGUFFile does.
    """

    def __init__(self, path: Path) -> None:
        with contextlib.ExitStack() as opened:
            files = [opened.enter_context(file) for file in _opened(path)]
            _check_whole(files)
            self.tensors = _joined(files)
            opened.pop_all()  # all is well: close() closes them
        self.path, self.paths = files[0].path, tuple(file.path for file in files)
        self.version = files[0].version
        self.metadata = {key: value for key, value in files[0].metadata.items() if key not in _OF_SPLIT}
        self._files = {file.path: file for file in files}

    def data(self, tensor: StoredTensor) -> NDArray[np.uint8]:
        """Return the bytes of a tensor, read-only and without a copy."""
        return self._files[tensor.file].data(tensor)

    def forget(self, tensor: StoredTensor) -> None:
        """Let the system take back the pages of a tensor; it can be read again."""
        self._files[tensor.file].forget(tensor)

    def close(self) -> None:
        """Let go of the files; arrays read before stay valid until they are dropped."""
        for file in self._files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def model_name(path: Path) -> str:
    """Return what a GGUF file is called, without its place among shards."""
    found = _NAME.fullmatch(path.name)
    return path.name.removesuffix(".gguf") if found is None else found["model"]


def _opened(path: Path) -> Iterator[GGUFFile]:
    """Open the file, or all shards in their order, whichever of them was named; who asks closes each."""
    named = GGUFFile(path)
    found, count = _NAME.fullmatch(path.name), named.metadata.get(COUNT, 0)
    if count in (0, 1) and (found is None or found["count"] == "00001"):
        yield named
        return
    named.close()
    if found is None or count != int(found["count"]) or not 1 <= int(found["place"]) <= count:
        raise refusal(
            f"{COUNT} is {quoted(count)}, and the shards of a model are called NAME-00001-of-00003.gguf with "
            "their place and their number: it was renamed, or is not what its name says",
            file=path,
        )
    for place in range(1, int(found["count"]) + 1):
        name = f"{found['model']}-{place:05d}-of-{found['count']}.gguf"
        shard = contained_file(path.parent, name)
        if shard is None:
            raise refusal(f"the shard is missing: {count} belong together, in one directory", file=name)
        yield GGUFFile(shard)


def _check_whole(files: Sequence[GGUFFile]) -> None:
    """Check that every shard stands where its name says, and that all say the same of the model."""
    if len(files) == 1:
        return
    total, held = files[0].metadata.get(TENSORS), sum(len(file.tensors) for file in files)
    for place, file in enumerate(files):
        for key, value in {NUMBER: place, COUNT: len(files), TENSORS: total}.items():
            found = file.metadata.get(key)
            if found != value:
                raise refusal(
                    f"{key} is {quoted(found)} where {quoted(value)} belongs: a shard is in the wrong place, "
                    "or another model's",
                    file=file.path,
                )
        _check_same_model(file, files[0])
    if total != held:
        raise refusal(
            f"{TENSORS} is {quoted(total)}, and the {len(files)} shards hold {held}", file=files[0].path
        )


def _check_same_model(file: GGUFFile, first: GGUFFile) -> None:
    if file.version != first.version:
        raise refusal(f"is of version {file.version}, and the first shard of {first.version}", file=file.path)
    nothing = object()
    for key, value in file.metadata.items():
        if key not in _OF_SPLIT and first.metadata.get(key, nothing) != value:
            raise refusal(
                f"{quoted(key)} is {quoted(value)}, which the first shard does not say: the shard is another "
                "model's",
                file=file.path,
            )


def _joined(files: Sequence[GGUFFile]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, stored in file.tensors.items():
            if name in tensors:
                raise refusal(f"is in {tensors[name].file.name} as well", file=file.path, tensor=name)
            tensors[name] = stored
    return tensors
