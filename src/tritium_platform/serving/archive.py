"""Unpacks a ZIP archive of a checkpoint directory without believing anything it says.

Names, kinds and sizes are checked against the archive's directory before anything is written, and counted
again while it is unpacked.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.storage import staged_directory
from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from pathlib import Path

MAX_ENTRIES = 1_000
MAX_DEPTH = 3
MAX_NAME = 200
# The directory of an archive is held in memory as a whole, so its size is looked at first.
MAX_DIRECTORY = 1 << 20
END, END64, LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
END_SIZE, END64_SIZE, LOCATOR64_SIZE, MAX_COMMENT = 22, 56, 20, 65_535
CHUNK = 1 << 20
FORBIDDEN_CHARACTERS = frozenset('\\:*?"<>|') | {chr(code) for code in range(32)} | {"\x7f"}


def unpacked_size(archive: Path) -> int:
    """Return how many bytes an archive says it holds, after checking what it says.

    Raises:
        ValidationError: not an archive, or one with names or kinds of entries that no checkpoint has.
    """
    with _opened(archive) as opened:
        return sum(entry.file_size for entry in _checked_entries(opened))


def unpack_checkpoint(archive: Path, *, target: Path, limit: int) -> None:
    """Unpack an archive of at most `limit` bytes into `target` and verify that it is a checkpoint.

    Raises:
        ValidationError: the archive is damaged, holds more than it says, or is not a sound checkpoint.
        ResourceError: the disk is full.
    """
    try:
        with _opened(archive) as opened, staged_directory(target) as staging:
            _unpack_entries(opened, staging=staging, limit=limit)
            open_checkpoint(staging, allow_hub=False).close()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValidationError(f"The archive is damaged: {error}. Upload it again.") from error


def _opened(archive: Path) -> zipfile.ZipFile:
    if _directory_size(archive) > MAX_DIRECTORY:
        raise ValidationError(f"The archive holds far more than {MAX_ENTRIES} files.")
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValidationError(
            f"The upload is not a ZIP archive ({error}). Send a checkpoint directory as one ZIP archive."
        ) from error


def _directory_size(archive: Path) -> int:
    """Return the largest size of its directory that an archive's end can be read as."""
    with archive.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - END_SIZE - MAX_COMMENT - LOCATOR64_SIZE - END64_SIZE)
        file.seek(start)
        tail = file.read()
        largest, position = 0, tail.find(END)
        while position >= 0:
            sizes = [_number(tail[position + 12 : position + 16])]
            locator = tail[max(0, position - LOCATOR64_SIZE) : position]
            if locator.startswith(LOCATOR64):
                before = start + position - LOCATOR64_SIZE - END64_SIZE
                for place in (before, _number(locator[8:16])):
                    file.seek(max(0, min(place, start + len(tail))))
                    record = file.read(END64_SIZE)
                    if record.startswith(END64):
                        sizes.append(_number(record[40:48]))
            largest = max(largest, *sizes)
            position = tail.find(END, position + 1)
    return largest


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _checked_entries(opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    entries = [entry for entry in opened.infolist() if not entry.is_dir()]
    if not 0 < len(entries) <= MAX_ENTRIES:
        raise ValidationError(f"The archive holds {len(entries)} files; 1 to {MAX_ENTRIES} are taken.")
    seen: set[str] = set()
    for entry in entries:
        _check_entry(entry)
        folded = entry.filename.casefold()
        if folded in seen:
            raise ValidationError(f"The archive holds {_shown(entry)} twice.")
        seen.add(folded)
    return entries


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = PurePosixPath(entry.filename)
    unsafe = (
        name.is_absolute()
        or ".." in name.parts
        or len(name.parts) > MAX_DEPTH
        or len(entry.filename) > MAX_NAME
        or bool(FORBIDDEN_CHARACTERS & set(entry.filename))
    )
    if unsafe:
        raise ValidationError(
            f"The archive holds a file under the unsafe name {_shown(entry)}.",
            threat="path_traversal" if _escapes(entry.filename) else None,
        )
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise ValidationError(f"{_shown(entry)} in the archive is a link or a device; only files are taken.")
    if entry.flag_bits & 0x1:
        raise ValidationError(f"{_shown(entry)} in the archive is encrypted.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValidationError(f"{_shown(entry)} is compressed in another way than stored or deflate.")


def _escapes(name: str) -> bool:
    """Tell whether a name leads out of its directory, on any system: no packing tool makes such names."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts


def _shown(entry: zipfile.ZipInfo) -> str:
    return repr(entry.filename[:80])


def _unpack_entries(opened: zipfile.ZipFile, *, staging: Path, limit: int) -> None:
    entries = _checked_entries(opened)
    prefix = _common_directory(entries)
    left = limit
    for entry in entries:
        path = staging / entry.filename.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(entry) as source, path.open("xb") as target:
            left -= _copy_counted(source, target, limit=min(entry.file_size, left), name=_shown(entry))


def _common_directory(entries: list[zipfile.ZipInfo]) -> str:
    """Return the directory that holds everything, as most tools pack it, or nothing."""
    first = entries[0].filename.partition("/")
    prefix = first[0] + first[1]
    shared = first[1] and all(entry.filename.startswith(prefix) for entry in entries)
    return prefix if shared else ""


def _copy_counted(source: IO[bytes], target: IO[bytes], *, limit: int, name: str) -> int:
    written = 0
    while piece := source.read(CHUNK):
        written += len(piece)
        if written > limit:
            raise ValidationError(
                f"{name} in the archive unpacks to more than the archive says.", threat="size_mismatch"
            )
        target.write(piece)
    target.flush()
    os.fsync(target.fileno())  # an upload that was acknowledged survives a power cut
    return written
