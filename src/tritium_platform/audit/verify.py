"""The auditor: reads the files of a log, without its server, and believes nothing that it did not rehash.

Every entry is decoded, its signature checked and its hash recomputed; every tile and every left-over partial
tile is compared with the hashes of the entries; the root is recomputed and compared with the signed one, and
with a checkpoint that the auditor kept from earlier. Who rewrites the log from scratch, with the key, is
found out only by such a kept checkpoint.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tritium_platform.audit.checkpoint import Checkpoint, open_checkpoint
from tritium_platform.audit.files import DurableFiles
from tritium_platform.audit.merkle import EMPTY_ROOT, leaf_hash, node_hash, reduce_complete
from tritium_platform.audit.model import canonical_json, entry_from_dict, entry_to_dict
from tritium_platform.audit.note import NoteVerifier
from tritium_platform.audit.sequence import BEGINNING
from tritium_platform.audit.tiles import TILE_WIDTH, decode_bundle, encode_bundle, tile_path
from tritium_platform.errors import BitNetServiceError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from tritium_platform.audit.model import AuditLogEntry

CHECKPOINT = "checkpoint"
MAX_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What the auditor found. `problems` is empty if and only if everything that was looked at is right.

    `size`, `root` (hex) and `origin` are those of the signed checkpoint; `entries` counts the entries that
    were rehashed; `tenants` those that occur in them; at most MAX_PROBLEMS problems are listed.
    """

    origin: str
    size: int
    root: str
    entries: int
    tiles: int
    tenants: int
    first_time: datetime | None
    last_time: datetime | None
    problems: tuple[str, ...]

    @property
    def is_intact(self) -> bool:
        """Tell whether nothing is wrong."""
        return not self.problems


def verify_log(directory: Path, vkey: str, *, saved_checkpoint: bytes | None = None) -> VerificationReport:
    """Rehash a whole log and check everything it claims, also against a signed note kept from earlier.

    Raises:
        ValidationError: the verifier key is malformed. What is wrong with the log is in the report instead.
    """
    verifier = NoteVerifier.from_vkey(vkey)
    audit = _Audit(DurableFiles(directory), verifier)
    try:
        head = audit.open_head()
        saved = open_checkpoint(saved_checkpoint, verifier=verifier) if saved_checkpoint is not None else None
        audit.run(head, saved)
    except BitNetServiceError as error:
        audit.problem(error.message)
    return audit.report()


class _Audit:
    def __init__(self, files: DurableFiles, verifier: NoteVerifier) -> None:
        self._files = files
        self._verifier = verifier
        self._head = Checkpoint(verifier.name, 0, EMPTY_ROOT)
        self._problems: list[str] = []
        self._levels: list[list[bytes]] = []
        self._tile_counts: list[int] = []
        self._spine: list[tuple[int, bytes]] = []
        self._entries = 0
        self._ids: set[str] = set()
        self._next_sequence: dict[str, int] = {}
        self._first_time: datetime | None = None
        self._last_time = BEGINNING

    def problem(self, text: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(text)

    def report(self) -> VerificationReport:
        report = VerificationReport(
            origin=self._head.origin,
            size=self._head.size,
            root=self._head.root.hex(),
            entries=self._entries,
            tiles=sum(self._tile_counts),
            tenants=len(self._next_sequence.keys() - {str(None)}),
            first_time=self._first_time,
            last_time=self._last_time if self._entries else None,
            problems=tuple(self._problems),
        )
        return replace(report, last_time=None) if report.first_time is None else report

    def open_head(self) -> Checkpoint:
        note = self._files.read(CHECKPOINT)
        if note is None:
            self.problem(f"There is no checkpoint in {self._files.root}.")
            return self._head
        self._head = open_checkpoint(note, verifier=self._verifier)
        return self._head

    def run(self, head: Checkpoint, saved: Checkpoint | None) -> None:
        if saved is not None and saved.size > head.size:
            self.problem(f"The log was rolled back: it has {head.size} entries and once had {saved.size}.")
        if saved is not None and saved.size == 0:
            self._compare_saved(saved)
        for index in range(-(-head.size // TILE_WIDTH)):
            for leaf in self._read_bundle(index, min(TILE_WIDTH, head.size - index * TILE_WIDTH)):
                self._take(leaf)
                if saved is not None and saved.size == self._entries:
                    self._compare_saved(saved)
        self._finish_tiles()
        if self._root() != head.root:
            self.problem("The root of the entries is not the signed root.")

    def _compare_saved(self, saved: Checkpoint) -> None:
        if self._root() != saved.root:
            self.problem(f"The first {saved.size} entries are not those of the saved checkpoint.")

    def _read_bundle(self, index: int, width: int) -> list[bytes]:
        path = tile_path(None, index=index, width=width)
        data = self._files.read(path)
        if data is None:  # a writer at work may have filled the bundle since the checkpoint was read
            data = self._files.read(tile_path(None, index=index))
        if data is None:
            raise _missing(path)
        leaves = decode_bundle(data)
        if len(leaves) < width or (len(leaves) > width and width == TILE_WIDTH):
            self.problem(f"{path} holds {len(leaves)} entries, not {width}.")
        leaves = leaves[:width]
        self._compare_partial(None, index, leaves)
        return leaves

    def _take(self, leaf: bytes) -> None:
        self._check_entry(leaf, self._entries)
        self._entries += 1
        node = leaf_hash(leaf)
        self._push(0, node)
        height = 0
        while self._spine and self._spine[-1][0] == height:
            node = node_hash(self._spine.pop()[1], node)
            height += 1
        self._spine.append((height, node))

    def _root(self) -> bytes:
        if not self._spine:
            return EMPTY_ROOT
        root = self._spine[-1][1]
        for _, node in reversed(self._spine[:-1]):
            root = node_hash(node, root)
        return root

    def _check_entry(self, leaf: bytes, index: int) -> None:
        try:
            entry = entry_from_dict(json.loads(leaf))
            is_canonical = canonical_json(entry_to_dict(entry)) == leaf
        except (BitNetServiceError, ValueError, RecursionError):
            self.problem(f"Entry {index} cannot be read.")
            return
        if not is_canonical:
            self.problem(f"Entry {index} is not canonical JSON of an audit entry.")
        if not self._is_signed(entry):
            self.problem(f"Entry {index} has a wrong signature.")
        if str(entry.id) in self._ids:
            self.problem(f"Entry {index} repeats the id {entry.id}.")
        self._ids.add(str(entry.id))
        if entry.timestamp < self._last_time:
            self.problem(f"Entry {index} goes back in time.")
        self._first_time = self._first_time or entry.timestamp
        self._last_time = entry.timestamp
        owner = str(entry.tenant_id)
        expected = self._next_sequence.get(owner, 0)
        if entry.tenant_seq != expected:
            name = "no tenant" if entry.tenant_id is None else f"tenant {owner}"
            self.problem(
                f"Entry {index} is number {entry.tenant_seq} of {name}; number {expected} is missing."
            )
        self._next_sequence[owner] = entry.tenant_seq + 1

    def _is_signed(self, entry: AuditLogEntry) -> bool:
        try:
            signature = base64.b64decode(entry.digital_signature, validate=True)
        except (binascii.Error, ValueError):
            return False
        unsigned = canonical_json(entry_to_dict(replace(entry, digital_signature="")))
        return self._verifier.verify(unsigned, signature=signature)

    def _push(self, level: int, node: bytes) -> None:
        if level == len(self._levels):
            self._levels.append([])
            self._tile_counts.append(0)
        nodes = self._levels[level]
        nodes.append(node)
        if len(nodes) == TILE_WIDTH:
            self._compare_tile(level, nodes)
            self._levels[level] = []
            self._push(level + 1, reduce_complete(nodes))

    def _finish_tiles(self) -> None:
        for level, nodes in enumerate(self._levels):
            if nodes:
                self._compare_tile(level, nodes)

    def _compare_tile(self, level: int, nodes: list[bytes]) -> None:
        index = self._tile_counts[level]
        self._tile_counts[level] += 1
        expected = b"".join(nodes)
        path = tile_path(level, index=index, width=len(nodes))
        data = self._files.read(path)
        if data is None and len(nodes) < TILE_WIDTH:
            data = (self._files.read(tile_path(level, index=index)) or b"")[: len(expected)] or None
        if data is None:
            self.problem(_missing(path).message)
        elif data != expected:
            self.problem(f"{path} does not hold the hashes of its entries.")
        self._compare_partial(level, index, nodes)

    def _compare_partial(self, level: int | None, index: int, items: list[bytes]) -> None:
        """Compare the partial tiles that older trees left; wider ones than the tree are a crash's orphans."""
        folder = tile_path(level, index=index) + ".p"
        for name in self._files.names(folder):
            if name.isdigit() and int(name) <= len(items):
                prefix = items[: int(name)]
                expected = encode_bundle(prefix) if level is None else b"".join(prefix)
                if self._files.read(f"{folder}/{name}") not in {expected, None}:
                    self.problem(f"{folder}/{name} is not the beginning of its tile.")


def _missing(path: str) -> BitNetServiceError:
    return BitNetServiceError(f"{path} is missing.")
