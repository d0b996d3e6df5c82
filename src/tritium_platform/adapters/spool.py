"""An append-only file of frames that survive a crash: what `append` returned from is there afterwards.

A frame is `magic, its offset (8 bytes), length (4), CRC-32 (4), payload`, little-endian; the sum covers
offset, length and payload. One call is one frame and one sync, however much is in it. A frame that is not
whole can only be the last one, which nobody was told of; a frame that is wrong with a right one behind it is
damage. A frame knows its own offset, so that old bytes that look like one are none.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium_platform.errors import PlatformError

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"TSP1"
_HEAD = struct.Struct("<4sQII")
_COVERED = struct.Struct("<QI")
_SUFFIX = ".spool"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `end` is the offset behind it."""

    payload: bytes
    end: int


@dataclass(frozen=True, slots=True)
class SpoolContent:
    """The frames of a file, and how many bytes of an unfinished one lie behind them."""

    frames: tuple[Frame, ...]
    torn_bytes: int


class Spool:
    """A file that this process appends to."""

    def __init__(self, path: Path) -> None:
        """Begin a file that is not there yet; its name is durable when this returns. Raises OSError."""
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.size = 0
        try:
            sync_directory(path.parent)
        except OSError:
            self.abandon()
            raise

    def append(self, payload: bytes) -> int:
        """Write one frame and sync it; return the offset behind it. After an OSError the file is finished."""
        frame = encode_frame(payload, offset=self.size)
        written = 0
        while written < len(frame):
            written += os.write(self._descriptor, frame[written:])
        os.fdatasync(self._descriptor)
        self.size += len(frame)
        return self.size

    def close(self) -> None:
        """Close the file; it stays."""
        os.close(self._descriptor)

    def abandon(self) -> None:
        """Close the file after an OSError, without what is written of the last frame if the disk lets us."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, self.size)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


def encode_frame(payload: bytes, *, offset: int) -> bytes:
    """Return the frame of a payload at an offset."""
    return _HEAD.pack(MAGIC, offset, len(payload), _checksum(payload, offset=offset)) + payload


def read_spool(path: Path) -> SpoolContent:
    """Read all frames of a file.

    Raises:
        PlatformError: a frame is damaged that others follow, or the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlatformError(f"The spool {path} cannot be read: {error.strerror}.") from error
    frames, offset = [], 0
    while (frame := _frame_at(data, offset)) is not None:
        frames.append(frame)
        offset = frame.end
    later = offset
    while (later := data.find(MAGIC, later + 1)) >= 0:
        if _frame_at(data, later) is not None:
            raise PlatformError(
                f"The spool {path} is damaged between byte {offset} and byte {later}: uses that were "
                "acknowledged cannot be read. Restore the file from a copy, or move it away and say so in "
                "the books."
            )
    return SpoolContent(tuple(frames), len(data) - offset)


def require_length(path: Path, content: SpoolContent, *, position: int) -> None:
    """Raise PlatformError if a spool ends before a position that the books have of it."""
    if position > (content.frames[-1].end if content.frames else 0):
        raise PlatformError(
            f"The spool {path} is shorter than what of it is in the books already: it was cut or replaced. "
            "Restore it from a copy, or move it away."
        )


def remove_spool(path: Path) -> None:
    """Remove a file, durably; nothing happens if it is not there."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def spool_files(directory: Path) -> list[Path]:
    """Return the spools of a directory, oldest first: their names are ids that sort by time."""
    return sorted(directory.glob(f"*{_SUFFIX}"))


def spool_path(directory: Path, name: str) -> Path:
    """Return where the spool of a name lies."""
    return directory / f"{name}{_SUFFIX}"


def make_directory(directory: Path) -> None:
    """Create a directory that is not there, and those above it, durably."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
        sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Make what was created or removed in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(payload: bytes, *, offset: int) -> int:
    return zlib.crc32(payload, zlib.crc32(_COVERED.pack(offset, len(payload))))


def _frame_at(data: bytes, offset: int) -> Frame | None:
    if offset + _HEAD.size > len(data):
        return None
    magic, own_offset, length, checksum = _HEAD.unpack_from(data, offset)
    start = offset + _HEAD.size
    payload = data[start : start + length]
    is_whole = magic == MAGIC and own_offset == offset and len(payload) == length
    if not is_whole or _checksum(payload, offset=offset) != checksum:
        return None
    return Frame(payload, start + length)
