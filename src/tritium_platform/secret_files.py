"""Files of one secret of 32 bytes each, readable by their owner only."""

from __future__ import annotations

import os
import secrets
import stat
from typing import TYPE_CHECKING

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from pathlib import Path

SECRET_BYTES = 32
ADMIN_PREFIX = "btn_admin_"


def read_or_create_secret(path: Path) -> bytes:
    """Return the 32 bytes of a secret file; create it, readable by its owner only, if it is not there.

    Raises:
        ValidationError: the file cannot be read, has another length, or others may read it.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create_secret(path)
        problems = check_secret(path)
        if problems:
            raise ValidationError(problems[0], file=str(path))
        return path.read_bytes()
    except OSError as error:
        raise ValidationError(
            f"The secret file {path} cannot be used: {error.strerror}.", file=str(path)
        ) from error


def admin_key(path: Path) -> str:
    """Return the operator's key that a secret file stands for, which is made if it is not there.

    Raises:
        ValidationError: as `read_or_create_secret`.
    """
    return ADMIN_PREFIX + read_or_create_secret(path).hex()


def _create_secret(path: Path) -> None:
    """Write a new secret under another name and link it: two processes agree on one, none is torn."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink()


def check_secret(path: Path) -> list[str]:
    """Return what is wrong with a secret file, one sentence each; one that is not there has no fault."""
    if not path.is_file():
        return []
    status = path.stat()
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return [f"{path} can be read by others: run chmod 600 on it."]
    if status.st_size != SECRET_BYTES:
        return [f"{path} must hold exactly {SECRET_BYTES} random bytes."]
    return []
