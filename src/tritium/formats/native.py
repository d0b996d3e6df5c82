"""Tritium's own model directory: `tritium.json` (the manifest), `model.safetensors`, tokenizer files.

The manifest names every file with its size and SHA-256 and carries a digest of itself; a directory that
differs from its manifest in one byte or one file is refused. For a ternary linear layer L the weights hold

    L.trits   uint8 [planes, ceil(out * in / 5)]  five trits to a byte, row after row without a gap
    L.scales  source dtype [1 or out, groups], or uint8 codes of `formats.scale_codes`

and the manifest's `linears` says the rest; a layer with coded scales has a `scale_unit` there. For a coded
matrix M (embeddings, head) they hold

    M.codes   uint8 [out / 16, in / 64, bytes of a block]  codes of 6 or 8 bits and their bfloat16 scales

as `csrc/coded.h` draws them, and the manifest's `coded` says its `bits`, `group_size`, `out_features` and
`in_features`; a ternary one has M.trits, M.scales and an entry like a layer's, with `planes`. A model with a
ternary table has version 4, one with coded scales version 3, one with a coded matrix alone version 2, one
without any of them version 1. Other tensors keep their names and dtypes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tritium.errors import ValidationError
from tritium.formats.checkpoint import Checkpoint, contained_file, open_checkpoint
from tritium.formats.refusal import quoted, refusal
from tritium.formats.safetensors import serialize_safetensors
from tritium.formats.scale_codes import check_unit
from tritium.formats.storage import staged_directory, write_synced
from tritium.formats.strict_json import LARGEST_JSON, parse_json_object
from tritium.formats.weight_file import open_regular_file, read_small_file
from tritium.kernels.coded import CODE_BITS, CODE_GROUP, tiles_shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import TracebackType

    from numpy.typing import NDArray

MANIFEST = "tritium.json"
WEIGHTS = "model.safetensors"
FORMAT = "tritium"
FORMAT_VERSION = 1
CODED_VERSION = 2  # with coded matrices, which a reader of version 1 does not know
CODED_SCALES_VERSION = 3  # with coded scales, which a reader of version 2 does not know
TERNARY_TABLES_VERSION = 4  # with ternary embeddings or heads, which a reader of version 3 does not know
TRITS_PER_BYTE = 5
LARGEST_SIZE = 1 << 31
# Keys the container writes itself; a caller's manifest may not carry them.
RESERVED: Final = frozenset({"format", "format_version", "files", "manifest_sha256"})


@dataclass(frozen=True)
class NativeModel:
    """An open, verified native model; close it, or use it as a context manager."""

    manifest: dict[str, Any]
    checkpoint: Checkpoint

    def close(self) -> None:
        """Close the weight file; arrays read before stay valid."""
        self.checkpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_native(path: str | Path) -> bool:
    """Return whether the path is a directory with a manifest of ours."""
    try:
        return (Path(path) / MANIFEST).is_file()
    except (OSError, ValueError):  # not a possible path
        return False


def save_native(
    directory: str | Path,
    *,
    tensors: Mapping[str, NDArray[Any]],
    manifest: Mapping[str, Any],
    files: Mapping[str, bytes],
) -> None:
    """Save a model so that the directory is there whole or not at all; the same input gives the same bytes.

    Args:
        directory: a new or empty directory.
        tensors: by name; uint16 means bfloat16 bits. Memory-mapped arrays are copied piece by piece.
        manifest: plain JSON values: `config`, `linears`, `coded`, and what the maker wants to keep.
        files: what travels with the weights, by name relative to the directory ("tokenizer.json").

    Raises:
        ValidationError: the directory is not empty or cannot be written, or the content is not consistent.
        ResourceError: the disk is full; nothing half-written is left.
    """
    target = Path(directory)
    _check_names(manifest, files)
    content = {**manifest, "format": FORMAT, "format_version": _version(manifest)}
    shapes = {name: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}
    _check_linears(content.get("linears", {}), shapes)
    _check_coded(content.get("coded", {}), shapes)
    with staged_directory(target) as staging:
        weights = staging / WEIGHTS
        write_synced(weights, serialize_safetensors(tensors, file=weights, metadata={"format": FORMAT}))
        for name, data in files.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            write_synced(staging / name, [data])
        content["files"] = {name: _fingerprint(staging / name) for name in [WEIGHTS, *files]}
        write_synced(staging / MANIFEST, [_sealed(content)])


def open_native(directory: str | Path, *, verify: bool = True) -> NativeModel:
    """Open a native model and check it against its manifest; the weights are memory-mapped.

    Args:
        directory: what save_native wrote.
        verify: also hash every file; without it names, sizes, the manifest and the header are still checked.

    Raises:
        ValidationError: an unknown version, or a missing, extra, or altered file.
    """
    path = Path(directory)
    found = contained_file(path, MANIFEST)
    if found is None:
        raise ValidationError(f"{path} is not a Tritium model: it has no {MANIFEST}", file=MANIFEST)
    manifest = _unsealed(read_small_file(found, limit=LARGEST_JSON))
    _check_files(path, manifest["files"], verify=verify)
    checkpoint = open_checkpoint(path, memory_map_above=-1, allow_hub=False)
    try:
        shapes = {
            name: ("uint8" if info.dtype == "U8" else info.dtype, info.shape)
            for name, info in checkpoint.tensors.items()
        }
        _check_linears(manifest.get("linears", {}), shapes)
        _check_coded(manifest.get("coded", {}), shapes)
    except BaseException:
        checkpoint.close()
        raise
    return NativeModel(manifest=manifest, checkpoint=checkpoint)


@contextlib.contextmanager
def verified_meanwhile(native: NativeModel) -> Iterator[None]:
    """Hash every file of a model, opened without that, on another thread while the block works with it.

    Raises:
        ValidationError: at the end, whatever the block did: a file's content was altered. Drop what the block
            made of it.
    """
    failures: list[BaseException] = []

    def hash_files() -> None:
        try:
            _check_files(native.checkpoint.path, native.manifest["files"], verify=True)
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            failures.append(error)

    hashing = threading.Thread(target=hash_files, name="tritium-verify", daemon=True)
    hashing.start()
    try:
        yield
    finally:
        hashing.join()
        if failures:
            raise failures[0]


def _check_names(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    for key in RESERVED & manifest.keys():
        raise ValidationError(f"The manifest key {key!r} belongs to the container")
    for name in files:
        parts = name.split("/")
        if name in {MANIFEST, WEIGHTS} or "\\" in name or "\0" in name or {"", ".", ".."} & set(parts):
            raise ValidationError(f"{quoted(name)} is not a name for a file beside the weights", file=name)


def _encode(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"


def _sealed(content: dict[str, Any]) -> bytes:
    return _encode({**content, "manifest_sha256": hashlib.sha256(_encode(content)).hexdigest()})


def _unsealed(data: bytes) -> dict[str, Any]:
    """Parse a manifest and check its version, its own digest and its canonical form."""
    manifest = parse_json_object(data, file=MANIFEST)
    if manifest.get("format") != FORMAT:
        raise refusal("this is not the manifest of a Tritium model", file=MANIFEST)
    version = manifest.get("format_version")
    if type(version) is not int or not FORMAT_VERSION <= version <= TERNARY_TABLES_VERSION:
        raise refusal(
            f"format version {quoted(version)} is not known here, only {FORMAT_VERSION} to "
            f"{TERNARY_TABLES_VERSION}; a newer Tritium may",
            file=MANIFEST,
        )
    if version != _version(manifest):
        raise refusal(
            f"format version {version} and what the manifest holds contradict each other", file=MANIFEST
        )
    content = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    if _sealed(content) != data:
        raise refusal("the manifest was altered: its digest does not match", file=MANIFEST)
    if not isinstance(content.get("files"), dict) or WEIGHTS not in content["files"]:
        raise refusal(f"files must name {WEIGHTS}", file=MANIFEST)
    return content


def _version(manifest: Mapping[str, Any]) -> int:
    """Return the first version whose readers know everything that the manifest holds."""
    if any(_is_ternary(entry) for entry in _values(manifest.get("coded"))):
        return TERNARY_TABLES_VERSION
    if any(isinstance(entry, dict) and "scale_unit" in entry for entry in _values(manifest.get("linears"))):
        return CODED_SCALES_VERSION
    return CODED_VERSION if manifest.get("coded") else FORMAT_VERSION


def _values(entries: object) -> Iterable[Any]:
    return entries.values() if isinstance(entries, dict) else ()


def _is_ternary(entry: object) -> bool:
    return isinstance(entry, dict) and "planes" in entry


def _check_files(directory: Path, named: dict[str, Any], *, verify: bool) -> None:
    present = {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}
    for name in sorted(present - named.keys() - {MANIFEST}):
        raise refusal("the manifest does not name this file", file=name)
    for name, expected in named.items():
        path = contained_file(directory, name)
        if path is None:
            raise refusal("the file is missing", file=name)
        size = path.stat().st_size
        if not isinstance(expected, dict) or expected.get("size") != size:
            raise refusal(f"{size} bytes are not the size in the manifest", file=name)
        if verify and _fingerprint(path) != expected:
            raise refusal("the content was altered: its SHA-256 is not the one in the manifest", file=name)


def _fingerprint(path: Path) -> dict[str, Any]:
    descriptor, size = open_regular_file(path)
    with open(descriptor, "rb", buffering=0) as stream:  # noqa: PTH123 - opened and checked above
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "size": size}


def _check_linears(linears: object, shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Check that every linear layer of the manifest has trits and scales of the shapes it declares."""
    if not isinstance(linears, dict):
        raise refusal("linears must be an object", file=MANIFEST)
    for name, linear in linears.items():
        planes, rows, columns, group = _linear_sizes(name, linear)
        trits, scales = f"{name}.trits", f"{name}.scales"
        packed = (planes, -(-rows * columns // TRITS_PER_BYTE))
        if shapes.get(trits) != ("uint8", packed):
            raise refusal(f"uint8 {list(packed)} is needed", file=WEIGHTS, tensor=trits)
        groups = -(-columns // group)
        dtype, shape = shapes.get(scales, ("", ()))
        if shape not in {(1, groups), (rows, groups)}:
            raise refusal(f"[1 or {rows}, {groups}] is needed", file=WEIGHTS, tensor=scales)
        if (dtype == "uint8") != ("scale_unit" in linear):
            raise refusal(
                "codes of scales need a scale_unit, and nothing else has one", file=WEIGHTS, tensor=scales
            )
        if "scale_unit" in linear:
            check_unit(linear["scale_unit"])


def _linear_sizes(name: str, linear: Any) -> tuple[int, int, int, int]:
    """Return planes, out_features, in_features and group_size of a manifest entry."""
    incomplete = refusal(f"the entry of the linear layer {quoted(name)} is not complete", file=MANIFEST)
    if not isinstance(linear, dict) or type(linear.get("divides")) is not bool:
        raise incomplete
    sizes: list[Any] = [linear.get(key) for key in ("planes", "out_features", "in_features", "group_size")]
    if not all(type(size) is int and 0 < size < LARGEST_SIZE for size in sizes):
        raise incomplete
    planes, rows, columns, group = sizes
    return planes, rows, columns, group


def _check_coded(coded: object, shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Check that every table of the manifest has the codes, or the trits and scales, that it declares."""
    if not isinstance(coded, dict):
        raise refusal("coded must be an object", file=MANIFEST)
    _check_linears({name: entry for name, entry in coded.items() if _is_ternary(entry)}, shapes)
    for name, entry in coded.items():
        if _is_ternary(entry):
            continue
        bits, rows, columns = _coded_sizes(name, entry)
        try:
            expected = tiles_shape(rows, columns, bits=bits)
        except ValidationError as error:
            raise refusal(f"{quoted(name)}: {error}", file=MANIFEST) from error
        if shapes.get(f"{name}.codes") != ("uint8", expected):
            raise refusal(f"uint8 {list(expected)} is needed", file=WEIGHTS, tensor=f"{name}.codes")


def _coded_sizes(name: str, entry: Any) -> tuple[int, int, int]:
    """Return bits, out_features and in_features of a manifest entry."""
    keys = ("bits", "group_size", "out_features", "in_features")
    if not isinstance(entry, dict) or not all(type(entry.get(key)) is int for key in keys):
        raise refusal(f"the entry of the coded matrix {quoted(name)} is not complete", file=MANIFEST)
    bits, group, rows, columns = (entry[key] for key in keys)
    if bits not in CODE_BITS or group != CODE_GROUP:
        raise refusal(
            f"{quoted(name)} has codes of {bits} bits in groups of {group}; known are {CODE_BITS[0]} and "
            f"{CODE_BITS[1]} bits in groups of {CODE_GROUP}. A newer Tritium may read it",
            file=MANIFEST,
        )
    if not 0 < rows < LARGEST_SIZE:
        raise refusal(f"the entry of the coded matrix {quoted(name)} is not complete", file=MANIFEST)
    return bits, rows, columns
