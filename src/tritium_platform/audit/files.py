"""Files that survive a power cut: write a temporary file, fsync, rename, fsync the directory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tritium_platform.errors import PlatformError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


class DurableFiles:
    """The files below one directory. Each operation is a method, so that a test can cut between two.

    Raises (every method): PlatformError with the reason of the operating system.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> bytes | None:
        """Return the whole file, or None if there is none."""
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise PlatformError(f"Audit file {path} cannot be read: {error.strerror}.", file=path) from error

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, in order; none if it does not exist."""
        try:
            return sorted(path.name for path in (self.root / folder).iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise PlatformError(f"Audit folder {folder} cannot be read: {error.strerror}.") from error

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write files (path -> content) so that, on return, all of them survive a power cut.

        Each file is whole or absent at any moment; several files are not one transaction.
        """
        try:
            self._write(contents)
        except OSError as error:
            raise PlatformError(f"The audit log cannot be written: {error.strerror}.") from error

    def remove(self, paths: Iterable[str]) -> None:
        """Delete files and the folders they leave empty; what is already gone is no error."""
        for path in paths:
            target = self.root / path
            try:
                self.unlink(target)
                if not any(target.parent.iterdir()):
                    self.remove_directory(target.parent)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise PlatformError(f"Audit file {path} cannot be removed: {error.strerror}.") from error

    def _write(self, contents: Mapping[str, bytes]) -> None:
        touched: dict[Path, None] = {}
        for path, content in contents.items():
            target = self.root / path
            for directory in self._create_directories(target.parent):
                touched[directory] = None
            temporary = target.with_name(f".{target.name}.tmp")
            self.write_synced(temporary, content)
            self.rename(temporary, target)
            touched[target.parent] = None
        for directory in touched:
            self.sync_directory(directory)

    def _create_directories(self, directory: Path) -> list[Path]:
        missing: list[Path] = []
        while not directory.exists():
            missing.append(directory)
            directory = directory.parent
        for new in reversed(missing):
            self.make_directory(new)
        return [new.parent for new in missing]

    def make_directory(self, directory: Path) -> None:
        """Create one directory."""
        directory.mkdir(exist_ok=True)

    def write_synced(self, path: Path, content: bytes) -> None:
        """Write a file and push its content to the disk."""
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def rename(self, source: Path, target: Path) -> None:
        """Put a file in the place of another, atomically."""
        source.replace(target)

    def sync_directory(self, directory: Path) -> None:
        """Push the names in a directory to the disk."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def unlink(self, path: Path) -> None:
        """Remove one file."""
        path.unlink()

    def remove_directory(self, directory: Path) -> None:
        """Remove one empty directory."""
        directory.rmdir()
