"""The writer of the audit log: one process at a time appends batches of entries to the files of the tree.

The order of operations makes a crash at any point harmless:

1. tiles and entry bundles (each: temporary file, fsync, rename, fsync of the directory);
2. `.writer/committed`: size and root that are now complete on disk;
3. the self-check: the new tree continues the last signed checkpoint (a consistency proof out of the files);
4. the checkpoint is signed and published.

A cut before 2 leaves orphaned tiles, which the next batch overwrites; a cut after 2 is completed at the next
start. So no two different trees of one size are ever signed, and a checkpoint never lies.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
from dataclasses import fields, replace
from typing import TYPE_CHECKING
from uuid import UUID

from tritium_platform.audit.checkpoint import Checkpoint, empty_checkpoint, open_checkpoint, sign_checkpoint
from tritium_platform.audit.files import DurableFiles
from tritium_platform.audit.merkle import EMPTY_ROOT, tree_root
from tritium_platform.audit.model import (
    AuditIntent,
    AuditLogEntry,
    canonical_json,
    entry_from_dict,
    entry_to_dict,
    leaf_data,
)
from tritium_platform.audit.proof import consistency_proof, inclusion_proof, verify_consistency
from tritium_platform.audit.sequence import SNAPSHOT_INTERVAL, Sequences
from tritium_platform.audit.tiles import TILE_WIDTH, TileReader, TreeEdge, tile_path
from tritium_platform.errors import BitNetServiceError, PlatformError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from tritium_platform.audit.note import NoteSigner
    from tritium_platform.values import Clock

CHECKPOINT = "checkpoint"
COMMITTED = ".writer/committed"
SEQUENCES = ".writer/sequences"
LOCK = ".writer/lock"


class AuditLog:
    """The open log, made by `AuditLog.open`. One thread at a time (`AuditService` sees to it)."""

    def __init__(self, files: DurableFiles, *, signer: NoteSigner, clock: Clock) -> None:
        self._files = files
        self._signer = signer
        self._clock = clock
        self._lock: int | None = None
        self._edge = TreeEdge()
        self._sequences = Sequences()
        self._checkpoint = empty_checkpoint(signer.name)
        self._doubtful: list[UUID] = []
        self._doubtful_start = 0
        # What was found to be logged though its batch failed, until its author gives it again.
        self._found: dict[UUID, int] = {}

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        signer: NoteSigner,
        clock: Clock,
        files: DurableFiles | None = None,
        lock: int | None = None,
    ) -> AuditLog:
        """Open the log for writing, complete what a crash interrupted, or start an empty one.

        `lock` is what `lock_for_writing` has returned, in this process or in a parent; without it the log is
        locked here. `close` closes it.

        Raises:
            ResourceError: another process has the log open for writing.
            PlatformError: the files contradict the signed checkpoint (tampered, damaged), or cannot be read.
        """
        log = cls(files or DurableFiles(directory), signer=signer, clock=clock)
        log._lock = lock_for_writing(directory) if lock is None else lock
        try:
            log._recover()
        except BaseException:
            log.close()
            raise
        return log

    @property
    def checkpoint(self) -> Checkpoint:
        """Return the last published checkpoint."""
        return self._checkpoint

    def append(self, intents: Sequence[AuditIntent]) -> list[int]:
        """Log a batch; on return every entry is durable, signed and published. Return their indices.

        After an error nothing is known to be logged; the same intents may be given again and none is doubled.

        Raises:
            PlatformError: the disk refused, or the log would not continue the last signed checkpoint.
        """
        self._require_open()
        self._settle_doubt()
        known = dict(self._found)
        fresh = [intent for intent in intents if intent.id not in known]
        if fresh:
            first = self._edge.size
            known.update({intent.id: first + offset for offset, intent in enumerate(fresh)})
            self._doubtful, self._doubtful_start = [intent.id for intent in fresh], first
            self._commit(fresh)
            self._doubtful = []
        for intent in intents:
            self._found.pop(intent.id, None)
        return [known[intent.id] for intent in intents]

    def read_entry(self, index: int) -> AuditLogEntry:
        """Return one logged entry; PlatformError if there is none at this index."""
        return entry_from_dict(json.loads(self._reader().read_leaf(index)))

    def read_entries(self, *, start: int, end: int) -> Iterator[AuditLogEntry]:
        """Yield the entries start..end-1 (cut at the end of the log)."""
        reader = self._reader()
        for index in range(max(0, start), min(end, reader.size)):
            yield entry_from_dict(json.loads(reader.read_leaf(index)))

    def find(self, ids: Iterable[UUID]) -> dict[UUID, int]:
        """Look for entries by id, newest first, through the whole log if need be; id -> index."""
        wanted, found = {str(identity): identity for identity in ids}, dict[UUID, int]()
        reader = self._reader()
        for bundle in reversed(range(-(-reader.size // TILE_WIDTH))):
            if not wanted:
                break
            for offset, leaf in enumerate(reader.read_bundle(index=bundle)):
                identity = wanted.pop(json.loads(leaf)["id"], None)
                if identity is not None:
                    found[identity] = bundle * TILE_WIDTH + offset
        return found

    def inclusion_proof(self, index: int) -> list[bytes]:
        """Prove that the entry at `index` is in the published log."""
        return inclusion_proof(self._reader(), index=index, size=self._checkpoint.size)

    def consistency_proof(self, old_size: int) -> list[bytes]:
        """Prove that the published log continues the log of `old_size` entries."""
        return consistency_proof(self._reader(), old_size=old_size, new_size=self._checkpoint.size)

    def close(self) -> None:
        """Let another writer in; the log can be read on but not written."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _require_open(self) -> None:
        if self._lock is None:
            raise PlatformError("The audit log is closed.")

    def _reader(self) -> TileReader:
        return TileReader(self._files, size=self._checkpoint.size)

    def _recover(self) -> None:
        """Take up the state on disk: the published tree, or the committed one that lacks its signature."""
        published = self._read_published()
        committed = self._read_committed() or published
        if committed.size < published.size:
            raise PlatformError(
                "The audit log's writer state is older than its checkpoint; verify the log first."
            )
        self._edge = self._load_edge(committed)
        self._checkpoint = published
        if committed != published or self._files.read(CHECKPOINT) is None:
            self._publish(committed)
        snapshot = Sequences.from_json(self._files.read(SEQUENCES), limit=committed.size)
        reader = self._reader()
        for index in range(snapshot.size, reader.size):
            snapshot.take(entry_from_dict(json.loads(reader.read_leaf(index))))
        self._sequences = snapshot

    def _read_published(self) -> Checkpoint:
        note = self._files.read(CHECKPOINT)
        if note is None:
            return empty_checkpoint(self._signer.name)
        try:
            return open_checkpoint(note, verifier=self._signer.verifier)
        except BitNetServiceError as error:
            raise PlatformError(f"The audit log's checkpoint is not ours: {error.message}") from error

    def _read_committed(self) -> Checkpoint | None:
        data = self._files.read(COMMITTED)
        if data is None:
            return None
        try:
            state = json.loads(data)
            return Checkpoint(self._signer.name, int(state["size"]), base64.b64decode(state["root"]))
        except (ValueError, KeyError, TypeError) as error:
            raise PlatformError("The audit log's writer state is damaged; verify the log first.") from error

    def _load_edge(self, head: Checkpoint) -> TreeEdge:
        reader = TileReader(self._files, size=head.size)
        edge = TreeEdge.load(reader)
        if (edge.root() or EMPTY_ROOT) != head.root or tree_root(reader, size=head.size) != head.root:
            raise PlatformError(
                "The audit log's tiles contradict its signed root: it was damaged or tampered with."
            )
        return edge

    def _settle_doubt(self) -> None:
        """After a failed batch, learn from the disk whether it was committed."""
        if not self._doubtful:
            return
        self._recover()
        if self._edge.size > self._doubtful_start:
            self._found |= {each: self._doubtful_start + place for place, each in enumerate(self._doubtful)}
        self._doubtful = []

    def _commit(self, intents: list[AuditIntent]) -> None:
        sequences = self._sequences.copy()
        leaves = [leaf_data(self._sequence(intent, sequences)) for intent in intents]
        grown = self._edge.copy()
        contents = grown.append(leaves)
        head = Checkpoint(self._signer.name, grown.size, grown.root() or EMPTY_ROOT)
        self._clear_orphans(self._edge.size, grown)
        self._files.write(contents)
        state = {"size": head.size, "root": base64.b64encode(head.root).decode()}
        self._files.write({COMMITTED: json.dumps(state).encode()})
        old_size = self._edge.size
        self._publish(head)
        self._edge, self._sequences = grown, sequences
        self._prune(old_size)
        if grown.size // SNAPSHOT_INTERVAL != old_size // SNAPSHOT_INTERVAL:
            self._files.write({SEQUENCES: sequences.to_json()})

    def _sequence(self, intent: AuditIntent, sequences: Sequences) -> AuditLogEntry:
        plain = {field.name: getattr(intent, field.name) for field in fields(AuditIntent)}
        place = sequences.next_place(intent.tenant_id, now=self._clock.now())
        entry = AuditLogEntry(**plain, tenant_seq=place.tenant_seq, timestamp=place.timestamp)
        sequences.take(entry)
        signature = self._signer.sign(canonical_json(entry_to_dict(entry)))
        return replace(entry, digital_signature=base64.b64encode(signature).decode())

    def _publish(self, head: Checkpoint) -> None:
        """Sign and publish a committed tree, but only if it continues what was signed last."""
        last = self._read_published()
        reader = TileReader(self._files, size=head.size)
        if last.size:
            proof = consistency_proof(reader, old_size=last.size, new_size=head.size)
            continues = verify_consistency(
                old_size=last.size, new_size=head.size, old_root=last.root, new_root=head.root, proof=proof
            )
            if not continues:
                raise PlatformError(
                    "The audit log refuses to sign: the new tree does not continue the last one."
                )
        self._files.write({CHECKPOINT: sign_checkpoint(head, signer=self._signer)})
        self._checkpoint = head

    def _clear_orphans(self, old_size: int, grown: TreeEdge) -> None:
        """Drop the partial tiles that a crashed batch left where the tree grows now; none was published."""
        orphans: list[str] = []
        for level in (None, *range(len(grown.levels))):
            old_count, new_count = old_size >> 8 * (level or 0), grown.size >> 8 * (level or 0)
            for index in range(old_count // TILE_WIDTH, new_count // TILE_WIDTH + 1):
                folder = tile_path(level, index=index) + ".p"
                promised = old_count - index * TILE_WIDTH
                names = self._files.names(folder)
                orphans.extend(f"{folder}/{name}" for name in names if not _is_within(name, promised))
        self._files.remove(orphans)

    def _prune(self, old_size: int) -> None:
        """Drop the partial files of tiles that are full now; readers of older trees use the full ones."""
        obsolete: list[str] = []
        for level in (None, *range(len(self._edge.levels))):
            shift = 8 * (level or 0)
            for index in range((old_size >> shift) // TILE_WIDTH, (self._edge.size >> shift) // TILE_WIDTH):
                folder = tile_path(level, index=index) + ".p"
                obsolete.extend(f"{folder}/{name}" for name in self._files.names(folder))
        self._files.remove(obsolete)


def has_writer(directory: Path) -> bool:
    """Tell whether a process has a log open for writing."""
    try:
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def lock_for_writing(directory: Path) -> int:
    """Become the only writer of a log; return a descriptor that holds until it and its copies are closed.

    Raises:
        ResourceError: another process is its writer.
        PlatformError: the directory cannot be used.
    """
    try:
        (directory / LOCK).parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise PlatformError(f"The audit log {directory} cannot be opened: {error.strerror}.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ResourceError(
            f"Another process writes the audit log {directory}; stop it first, or read without opening.",
            directory=str(directory),
        ) from error
    return lock


def _is_within(name: str, promised: int) -> bool:
    return name.isdigit() and int(name) <= promised
