"""A checkpoint: a directory (or one file) of safetensors with its config, verified when it is opened."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tritium.errors import ValidationError
from tritium.formats import hub
from tritium.formats.floats import bfloat16_to_float32, first_not_finite
from tritium.formats.mapped_pages import release_pages
from tritium.formats.refusal import quoted, refusal
from tritium.formats.strict_json import LARGEST_JSON, parse_json_object
from tritium.formats.weight_file import WeightFile, read_small_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from tritium.formats.safetensors import TensorInfo
    from tritium.formats.weight_file import TensorFile

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
GGUF_SUFFIX = ".gguf"
MEMORY_MAP_ABOVE = 256 * 1024 * 1024
SCANNED_BYTES = 64 * 1024 * 1024  # of a large tensor at a time


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint; close it, or use it as a context manager.

    Attributes:
        path: the directory; the file itself where one file is all there is (GGUF).
        config: the parsed config.json; empty if there is none.
        tensors: what the weight files hold, by name.
        is_memory_mapped: whether tensors are read through the page cache without a copy.
        format: of the weight files, with its version where it has one.
        linears: layers that are stored as trits of ours, as the manifest of a native model describes them.
        embedded: files that the weight file itself holds, or that stand for those beside it, by name; None if
            they lie beside it.
    """

    path: Path
    config: dict[str, Any]
    tensors: Mapping[str, TensorInfo]
    is_memory_mapped: bool
    _files: Mapping[Path, TensorFile]
    format: str = "safetensors"
    linears: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    embedded: Mapping[str, bytes] | None = None

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold the weights; with those that hold none and belong to them."""
        return tuple(self._files)

    def read(self, name: str) -> NDArray[Any]:
        """Return a tensor in its own dtype, read-only; bfloat16 comes as its bits in uint16.

        Raises:
            ValidationError: there is no such tensor, or it holds NaN or Inf.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            raise refusal("the checkpoint does not have it", file=self.path, tensor=name)
        values = self._files[tensor.file].read(tensor)
        wrong = _first_not_finite(values)
        if wrong is not None:
            position = [int(index) for index in np.unravel_index(wrong, values.shape)]
            raise refusal(f"NaN or Inf at {position}", file=tensor.file, tensor=name)
        return values

    def read_rows(self, name: str, rows: Sequence[int] | range) -> NDArray[Any]:
        """Return rows of a matrix by number, in their own dtype; nothing else of it comes into memory.

        Raises:
            ValidationError: there is no such tensor, or one of the rows holds NaN or Inf.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            raise refusal("the checkpoint does not have it", file=self.path, tensor=name)
        chosen = self._files[tensor.file].read_rows(tensor, rows)
        wrong = first_not_finite(chosen)
        if wrong is not None:
            row, *inside = (int(index) for index in np.unravel_index(wrong, chosen.shape))
            raise refusal(f"NaN or Inf at {[rows[row], *inside]}", file=tensor.file, tensor=name)
        return chosen

    def forget(self, name: str) -> None:
        """Let the system take back the pages of a tensor; it can be read again."""
        tensor = self.tensors[name]
        self._files[tensor.file].forget(tensor)

    def read_float32(self, name: str) -> NDArray[np.float32]:
        """Return a floating-point tensor as float32; exact for F16, BF16 and F32, rounded for F64.

        Raises:
            ValidationError: no such tensor, NaN or Inf, not a floating-point type, or beyond float32.
        """
        return self._as_float32(name, self.read(name))

    def read_rows_float32(self, name: str, rows: Sequence[int] | range) -> NDArray[np.float32]:
        """Return rows of a matrix as float32; otherwise as `read_rows`, with the errors of `read_float32`."""
        return self._as_float32(name, self.read_rows(name, rows))

    def _as_float32(self, name: str, values: NDArray[Any]) -> NDArray[np.float32]:
        tensor = self.tensors[name]
        if tensor.dtype == "BF16":
            return bfloat16_to_float32(values)
        if values.dtype.kind != "f":
            raise refusal(f"floating point is needed here, not {tensor.dtype}", file=tensor.file, tensor=name)
        with np.errstate(over="ignore"):
            narrowed: NDArray[np.float32] = values.astype(np.float32, copy=False)
        if tensor.dtype == "F64" and first_not_finite(narrowed) is not None:
            raise refusal("a value is beyond the range of float32", file=tensor.file, tensor=name)
        return narrowed

    def file(self, name: str) -> Path | None:
        """Return the path of a file beside the weights ("tokenizer.json"), or None if there is none.

        Raises:
            ValidationError: the name, or a link behind it, leads out of the checkpoint.
        """
        return contained_file(self.path, name)

    def has_file(self, name: str) -> bool:
        """Tell whether there is such a file beside or inside the weights."""
        return self.file(name) is not None if self.embedded is None else name in self.embedded

    def read_file(self, name: str, *, limit: int) -> bytes | None:
        """Return the content of a file of at most `limit` bytes beside or inside the weights, or None.

        Raises:
            ValidationError: the name leads out of the checkpoint, or the file is larger or cannot be read.
        """
        if self.embedded is not None:
            return self.embedded.get(name)
        path = self.file(name)
        return None if path is None else read_small_file(path, limit=limit)

    def close(self) -> None:
        """Close the weight files; arrays read before stay valid."""
        for file in self._files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_checkpoint(
    source: str | Path, *, memory_map_above: int = MEMORY_MAP_ABOVE, allow_hub: bool = True
) -> Checkpoint:
    """Open and verify a directory, a single .safetensors file, or a hub name ("organisation/model").

    Args:
        source: where it is; text that names no local path and looks like a hub name is downloaded.
        memory_map_above: total bytes of the weight files from which on they are memory-mapped.
        allow_hub: whether a hub name may be downloaded.

    Raises:
        ValidationError: names file, tensor and reason; nothing is read from a file that does not verify.
        MissingExtraError: a hub name is given and the extra "hub" is not installed.
    """
    path = _locate(source, allow_hub=allow_hub)
    try:
        directory = path if path.is_dir() else path.parent
        shards, index = _weight_files(path)
        config = _read_config(directory)
        return _open_verified(
            directory, config, shards=shards, index=index, memory_map_above=memory_map_above
        )
    except OSError as error:
        raise refusal(f"cannot be read: {error.strerror or error}", file=path) from error


def _read_config(directory: Path) -> dict[str, Any]:
    file = contained_file(directory, CONFIG)
    return {} if file is None else parse_json_object(read_small_file(file, limit=LARGEST_JSON), file=file)


def _first_not_finite(values: NDArray[Any]) -> int | None:
    """Return the flat index of the first NaN or Inf, or None; a large mapped array leaves no pages behind."""
    flat = values.reshape(-1)
    step = SCANNED_BYTES // values.itemsize
    for start in range(0, flat.size, step):
        piece = flat[start : start + step]
        wrong = first_not_finite(piece)
        if wrong is not None:
            return start + wrong
        if flat.size > step:
            release_pages(piece)
    return None


def contained_file(directory: Path, name: str) -> Path | None:
    """Return `directory`/`name` if it is a file that truly lies inside; None if there is no such file.

    Raises:
        ValidationError: the name or a symbolic link leads out of the directory.
    """
    plain = PurePosixPath(name)
    if plain.is_absolute() or ".." in plain.parts or "\\" in name or "\0" in name or not plain.parts:
        raise refusal(f"the name {quoted(name)} leads out of the checkpoint", file=directory)
    path = directory / plain
    try:
        if not path.is_file():
            return None
        inside = path.resolve(strict=True).is_relative_to(_root(directory))
    except OSError as error:
        raise refusal(f"{quoted(name)} cannot be read: {error.strerror or error}", file=directory) from error
    except ValueError as error:
        raise refusal(f"the name {quoted(name)} is not a possible one", file=directory) from error
    if not inside:
        raise refusal("a symbolic link leads out of the checkpoint", file=path)
    return path


def _root(directory: Path) -> Path:
    resolved = directory.resolve()
    # In the hub's cache a snapshot is links into models--name/blobs: that whole folder is one checkpoint.
    if resolved.parent.name == "snapshots" and resolved.parent.parent.name.startswith("models--"):
        return resolved.parent.parent
    return resolved


def _locate(source: str | Path, *, allow_hub: bool) -> Path:
    path = Path(source)
    try:
        exists = path.exists()
    except OSError as error:
        raise ValidationError(
            f"{quoted(source)} cannot be opened: {error.strerror or error}", file=quoted(source)
        ) from error
    except ValueError as error:
        raise ValidationError(f"{quoted(source)} is not a possible path", file=quoted(source)) from error
    if exists:
        return path
    if isinstance(source, str) and allow_hub and hub.is_hub_name(source):
        return hub.download(source)
    raise ValidationError(
        f"There is no checkpoint at {quoted(source)}: give a model directory, a .safetensors or .gguf file, "
        "or a hub name (organisation/model).",
        file=quoted(source),
    )


def _weight_files(path: Path) -> tuple[list[Path], dict[str, str] | None]:
    """Return the weight files of a checkpoint and the index's map of tensors to files, if it has one."""
    if not path.is_dir():
        _refuse_pickle(path)
        if path.suffix.lower() == GGUF_SUFFIX:
            raise refusal("a GGUF file must be quantized to a directory first: tritium quantize", file=path)
        return [path], None
    index, single = contained_file(path, INDEX), contained_file(path, SINGLE)
    if index is not None:
        return _shards(path, index)
    if single is not None:
        return [single], None
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    weights = [name for name in names if name.endswith(".safetensors")]
    if len(weights) == 1:
        return [_required(path, weights[0])], None
    if weights:
        raise refusal(f"{len(weights)} .safetensors files and no {INDEX} to join them", file=path)
    for name in names:
        if name.lower().endswith(GGUF_SUFFIX):
            raise refusal(f"no .safetensors weights are here; give {quoted(name)} by its own name", file=path)
        _refuse_pickle(path / name)
    raise refusal("there are no .safetensors weights in this directory", file=path)


def _refuse_pickle(path: Path) -> None:
    if path.suffix.lower() in PICKLES:
        raise refusal(
            "is a pickle, which can run code of a stranger when it is opened; convert it to safetensors",
            file=path,
        )


def _shards(directory: Path, index: Path) -> tuple[list[Path], dict[str, str]]:
    content = parse_json_object(read_small_file(index, limit=LARGEST_JSON), file=index)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise refusal("weight_map must map tensors to files", file=index)
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or PurePosixPath(name).name != name or not name.endswith(".safetensors"):
            raise refusal(
                f"{quoted(name)} is not the plain name of a .safetensors file", file=index, tensor=tensor
            )
    named = set(weight_map.values())
    present = {
        entry.name for entry in directory.iterdir() if SHARD.fullmatch(entry.name) or entry.name == SINGLE
    }
    for name in sorted(present - named):
        raise refusal(f"is a shard that {INDEX} does not name", file=name)
    return [_required(directory, name) for name in sorted(named)], weight_map


def _required(directory: Path, name: str) -> Path:
    path = contained_file(directory, name)
    if path is None:
        raise refusal("the file is missing", file=name)
    return path


def _open_verified(
    directory: Path,
    config: dict[str, Any],
    *,
    shards: list[Path],
    index: dict[str, str] | None,
    memory_map_above: int,
) -> Checkpoint:
    memory_map = sum(path.stat().st_size for path in shards) > memory_map_above
    with contextlib.ExitStack() as opened:
        files = {path: opened.enter_context(WeightFile(path, memory_map=memory_map)) for path in shards}
        tensors = _joined(files.values())
        if index is not None:
            _check_index(index, tensors)
        opened.pop_all()  # all is well: the checkpoint closes them
    return Checkpoint(directory, config, tensors, memory_map, files)


def _joined(files: Iterable[WeightFile]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        for name, tensor in file.tensors.items():
            if name in tensors:
                raise refusal(f"is in {tensors[name].file.name} as well", file=file.path, tensor=name)
            tensors[name] = tensor
    return tensors


def _check_index(index: dict[str, str], tensors: Mapping[str, TensorInfo]) -> None:
    for name, file in index.items():
        if name not in tensors or tensors[name].file.name != file:
            raise refusal(f"the index says it is in {quoted(file)}; it is not", file=INDEX, tensor=name)
    for name, tensor in tensors.items():
        if name not in index:
            raise refusal(f"is in {tensor.file.name} and not in the index", file=INDEX, tensor=name)
