"""A disk that forgets what was not synced: files, names, and the calls that the platform makes of them."""

from __future__ import annotations

import errno
import os as system
from pathlib import PurePosixPath

from tritium_platform.audit.files import DurableFiles

SECTOR = 512


class File:
    """What a file holds, and what of it has been pushed to the disk."""

    __slots__ = ("data", "synced")

    def __init__(self, data=b""):
        self.data = data
        self.synced = data


class Disk:
    """Names and files as a process sees them, and as they are after the power went.

    Args:
        threads: who calls blocks here.
        chance: decides how long calls take, and what becomes of what was not synced.
        faults: the share of writes and syncs that fail.
        names: what earlier lives left.
    """

    def __init__(self, threads, chance, *, faults=0.0, names=None):
        self.names = dict(names or {})  # what a process sees
        self.durable = dict(self.names)  # what a power cut leaves
        self.is_dead = False
        self.on_rename = None
        self._threads = threads
        self._chance = chance
        self.faults = faults
        self._open = {}
        self._next = 3
        self.Path = type("DiskPath", (_DiskPath,), {"disk": self})

    # ------------------------------------------------------------------ what the module os is asked for
    O_WRONLY, O_RDONLY, O_CREAT = system.O_WRONLY, system.O_RDONLY, system.O_CREAT
    O_EXCL, O_CLOEXEC, O_DIRECTORY = system.O_EXCL, system.O_CLOEXEC, system.O_DIRECTORY

    def open(self, path, flags, mode=0o777):
        """Create a file that is not there yet, or open a directory."""
        self._turn(0.0005)
        if flags & self.O_CREAT:
            if str(path) in self.names:
                raise FileExistsError(errno.EEXIST, "File exists")
            self.names[str(path)] = File()
        self._next += 1
        self._open[self._next] = str(path)
        return self._next

    def write(self, descriptor, data):
        """Append; sometimes a part of it only."""
        self._turn(0.0005, can_fail=True)
        count = len(data) if self._chance.random() < 0.8 else self._chance.randint(1, len(data))
        file = self.names[self._open[descriptor]]
        file.data += data[:count]
        return count

    def fdatasync(self, descriptor):
        """Push a file to the disk."""
        self._turn(0.004, can_fail=True)
        file = self.names[self._open[descriptor]]
        file.synced = file.data

    def ftruncate(self, descriptor, size):
        """Cut off the end of a file."""
        self._turn(0.0005, can_fail=True)
        file = self.names[self._open[descriptor]]
        file.data = file.data[:size]

    def fsync(self, descriptor):
        """Push a directory's names to the disk."""
        self._turn(0.004)
        self.sync_names(self._open[descriptor])

    def close(self, descriptor):
        """Close."""
        self._open.pop(descriptor, None)

    # ------------------------------------------------------------------ what both interfaces share
    def sync_names(self, directory):
        """Make the names in a directory durable."""
        prefix = f"{directory}/"
        for name in [*self.durable]:
            if name.startswith(prefix) and name not in self.names:
                del self.durable[name]
        self.durable |= {name: file for name, file in self.names.items() if name.startswith(prefix)}

    def _turn(self, seconds, *, can_fail=False):
        """Let others run; then fail if the disk is broken or the process dead."""
        self._threads.sleep(seconds)
        if self.is_dead or (can_fail and self.faults and self._chance.random() < self.faults):
            raise OSError(errno.EIO, "Input/output error")

    def after(self, *, is_power_cut, chance):
        """Return the names and files that the next life finds."""
        self.is_dead = True
        if not is_power_cut:
            return {name: File(file.data) for name, file in sorted(self.names.items())}
        left = {}
        for name in sorted(self.names.keys() | self.durable.keys()):
            new, old = self.names.get(name), self.durable.get(name)
            file = old if new is old or chance.random() < 0.5 else new
            if file is not None:
                left[name] = File(_torn(file, chance))
        return left


def _torn(file, chance):
    """Return what is on the disk of a file: what was synced, and anything of the rest."""
    data, synced = file.data, file.synced
    if data == synced:
        return data
    start = len(synced) if data.startswith(synced) else 0
    kept = bytearray(data[: chance.randint(start, len(data))])
    for sector in range(start // SECTOR, len(kept) // SECTOR + 1):
        if chance.random() < 0.3:  # a sector that was allocated and never written
            first, last = max(start, sector * SECTOR), min(len(kept), (sector + 1) * SECTOR)
            kept[first:last] = bytes(max(0, last - first))
    return bytes(kept)


class _DiskPath(PurePosixPath):
    """What a path of this disk can be asked."""

    __slots__ = ()
    disk = None

    def read_bytes(self):
        self.disk._turn(0.001)
        return self.disk.names[str(self)].data

    def glob(self, pattern):
        return [
            type(self)(name)
            for name in self.disk.names
            if PurePosixPath(name).parent == PurePosixPath(self) and PurePosixPath(name).match(pattern)
        ]

    def is_dir(self):
        """Directories are there."""
        return True

    def unlink(self, *, missing_ok=False):
        self.disk._turn(0.0005)
        if self.disk.names.pop(str(self), None) is None and not missing_ok:
            raise FileNotFoundError(str(self))


class DiskFiles(DurableFiles):
    """The audit log's files on such a disk."""

    def __init__(self, disk):
        super().__init__(PurePosixPath("/audit"))
        self._disk = disk

    def read(self, path):
        found = self._disk.names.get(str(self.root / path))
        return None if found is None else found.data

    def names(self, folder):
        prefix = f"{self.root / folder}/"
        return sorted(name[len(prefix) :] for name in self._disk.names if name.startswith(prefix))

    def remove(self, paths):
        for path in paths:
            self._disk._turn(0.0005)
            self._disk.names.pop(str(self.root / path), None)

    def _create_directories(self, directory):
        return []

    def write_synced(self, path, content):
        self._disk._turn(0.0005, can_fail=True)
        file = self._disk.names[str(path)] = File()
        file.data, file.synced = content, b""
        self._disk._turn(0.004, can_fail=True)
        file.synced = content

    def rename(self, source, target):
        self._disk._turn(0.0005)
        self._disk.names[str(target)] = self._disk.names.pop(str(source))
        if self._disk.on_rename is not None:
            self._disk.on_rename(str(target), self._disk.names[str(target)].data)

    def sync_directory(self, directory):
        self._disk._turn(0.004)
        self._disk.sync_names(str(directory))
