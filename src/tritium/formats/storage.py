"""Writing so that a file or a directory is there whole or not at all, and a full disk says so."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from typing import TYPE_CHECKING

from tritium.errors import BitNetServiceError, PlatformError, Recovery, ResourceError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NOT_POSSIBLE = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


def storage_error(error: OSError, *, path: Path) -> BitNetServiceError:
    """Translate what the operating system refused while writing `path`."""
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM:
        return ResourceError(
            f"No room to write {path.name}: {reason}. Nothing was saved; free space or choose another disk.",
            recovery=Recovery.UPGRADE_STORAGE,
            file=path.name,
        )
    if error.errno in NOT_POSSIBLE:
        return ValidationError(f"Cannot write {path}: {reason}. Choose another place.", file=path.name)
    return PlatformError(f"Writing {path.name} failed: {reason}. Nothing was saved.", file=path.name)


def write_file_atomically(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write the pieces beside `path`, sync, then rename over it.

    Raises:
        ResourceError: the disk is full; ValidationError: the place cannot be written to.
    """
    staging = _staging_name(path)
    try:
        try:
            write_synced(staging, pieces)
            staging.replace(path)
            sync_directory(path.parent)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, path=path) from error


@contextlib.contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """Give a new directory beside `target` to fill; it takes the name of `target` only if the block succeeds.

    Raises:
        ValidationError: `target` exists and is not empty, or cannot be written to; ResourceError: disk full.
    """
    staging = _staging_name(target)
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ValidationError(
                f"{target} exists already and is not an empty directory. Remove it or choose another name.",
                file=target.name,
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            staging.mkdir()
            yield staging
            sync_directory(staging)
            staging.rename(target)  # an empty directory of this name gives way
            sync_directory(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise storage_error(error, path=target) from error


def write_synced(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a new file and wait until it is on the disk; leaves OSError to the caller."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(descriptor, "wb", buffering=0) as stream:  # noqa: PTH123 - the descriptor forbids to overwrite
        for piece in pieces:
            rest = memoryview(piece).cast("B")
            while rest.nbytes:
                rest = rest[stream.write(rest) :]
        os.fsync(stream.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the names inside a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _staging_name(path: Path) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(6)}.partial"
