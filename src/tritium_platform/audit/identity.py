"""Who a log is: an id beside its files that travels with them, as the name of a directory does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from tritium_platform.audit.files import DurableFiles
from tritium_platform.errors import PlatformError

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = ".writer/identity"


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """A log, and where it lay when it was last asked; only the id says whether two are the same."""

    id: UUID
    directory: str


def identify(directory: Path) -> LogIdentity:
    """Return who the log in a directory is; one that has no id yet gets it. Its writer's lock must be held.

    Raises:
        PlatformError: the file is damaged, or the disk refuses.
    """
    files = DurableFiles(directory)
    written = files.read(IDENTITY)
    if written is None:
        identity = uuid4()
        files.write({IDENTITY: f"{identity}\n".encode()})
    else:
        try:
            identity = UUID(written.decode().strip())
        except ValueError as error:
            raise PlatformError(
                f"{directory / IDENTITY} is damaged: restore it from a copy of the data directory.",
                file=IDENTITY,
            ) from error
    return LogIdentity(identity, str(directory.absolute()))
