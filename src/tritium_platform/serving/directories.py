"""Directories of tenants: how much they hold, and how they go."""

from __future__ import annotations

import secrets
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DELETED = ".deleted"


def directory_bytes(path: Path) -> int:
    """Return the bytes of all files below a directory; 0 if it is not there."""
    return sum(item.lstat().st_size for item in path.rglob("*") if item.is_file())


def remove_directory(path: Path) -> int | None:
    """Remove a directory; return how many bytes of files went with it, None if it was not there.

    Of several that try at the same time one succeeds: the name is taken away first, in one step.
    """
    doomed = path.with_name(f".{path.name}{DELETED}-{secrets.token_hex(4)}")
    try:
        path.rename(doomed)
    except FileNotFoundError:
        return None
    size = directory_bytes(doomed)
    shutil.rmtree(doomed)
    return size
