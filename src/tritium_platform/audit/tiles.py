"""Where the hashes and leaves of a Merkle log lie in files: C2SP tlog-tiles.

A hash tile holds up to 256 hashes of one level; an entry bundle holds up to 256 leaves, each after its
16-bit big-endian length. The rightmost, unfinished tile is written once per tree size under `.p/<width>`.
"""

from __future__ import annotations

from typing import Protocol

from tritium_platform.audit.merkle import HASH_BYTES, leaf_hash, node_hash, reduce_complete
from tritium_platform.errors import PlatformError

TILE_WIDTH = 256
TILE_HEIGHT = 8
CACHED_TILES = 64


class FileReader(Protocol):
    """Reads a file of the log by its path below the log's directory."""

    def read(self, path: str) -> bytes | None:
        """Return the whole file, or None if there is none."""
        ...


def tile_path(level: int | None, *, index: int, width: int = TILE_WIDTH) -> str:
    """Name a tile: `tile/0/x001/x234/067`; level None is an entry bundle; a width below 256 is partial."""
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:  # noqa: PLR2004 - three decimal digits to a folder
        index //= 1000
        groups.insert(0, f"x{index % 1000:03d}")
    folder = "entries" if level is None else str(level)
    path = f"tile/{folder}/" + "/".join(groups)
    return path if width == TILE_WIDTH else f"{path}.p/{width}"


def tile_width(*, size: int, level: int, index: int) -> int:
    """Count the hashes of a tile in a tree of `size` leaves (0 if the tree does not reach it)."""
    nodes = size >> (TILE_HEIGHT * level)
    return max(0, min(TILE_WIDTH, nodes - index * TILE_WIDTH))


def encode_bundle(leaves: list[bytes]) -> bytes:
    """Join leaves, each after its 16-bit length."""
    return b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in leaves)


def decode_bundle(data: bytes) -> list[bytes]:
    """Split what `encode_bundle` joined; PlatformError if it is truncated."""
    leaves, position = [], 0
    while position < len(data):
        end = position + 2 + int.from_bytes(data[position : position + 2], "big")
        if position + 2 > len(data) or end > len(data):
            raise PlatformError("An entry bundle of the audit log is truncated.")
        leaves.append(data[position + 2 : end])
        position = end
    return leaves


class TileReader:
    """Reads hashes and leaves of a tree of a given size from its files; a `merkle.HashReader`."""

    def __init__(self, files: FileReader, *, size: int) -> None:
        self._files = files
        self.size = size
        self._cache: dict[tuple[int | None, int], list[bytes]] = {}

    def read_hash(self, *, level: int, index: int) -> bytes:
        """Return the root of the complete subtree of 2^level leaves at `index`; 32 bytes."""
        tile_level, height = divmod(level, TILE_HEIGHT)
        start = index << height
        tile_index, offset = divmod(start, TILE_WIDTH)
        hashes = self.read_tile(tile_level, index=tile_index)[offset : offset + (1 << height)]
        if len(hashes) != 1 << height:
            raise PlatformError(
                "The audit log was asked for a hash beyond its end.", level=level, index=index
            )
        return reduce_complete(hashes)

    def read_tile(self, level: int, *, index: int) -> list[bytes]:
        """Return the hashes of a tile as far as this tree reaches."""
        width = tile_width(size=self.size, level=level, index=index)
        return self._cached(level, index=index, width=width)

    def read_bundle(self, *, index: int) -> list[bytes]:
        """Return the leaves of an entry bundle as far as this tree reaches."""
        return self._cached(None, index=index, width=tile_width(size=self.size, level=0, index=index))

    def read_leaf(self, index: int) -> bytes:
        """Return the data of one leaf."""
        if not 0 <= index < self.size:
            raise PlatformError(f"The audit log has {self.size} entries; there is no entry {index}.")
        return self.read_bundle(index=index // TILE_WIDTH)[index % TILE_WIDTH]

    def _cached(self, level: int | None, *, index: int, width: int) -> list[bytes]:
        key = (level, index)
        if key not in self._cache:
            if len(self._cache) >= CACHED_TILES:
                self._cache.pop(next(iter(self._cache)))
            self._cache[key] = self._load(level, index=index, width=width)
        return self._cache[key]

    def _load(self, level: int | None, *, index: int, width: int) -> list[bytes]:
        if width == 0:
            return []
        path = tile_path(level, index=index, width=width)
        data = self._files.read(path)
        if data is None and width < TILE_WIDTH:
            # A log may drop a partial tile once the full one, which begins with it, is there.
            path = tile_path(level, index=index)
            data = self._files.read(path)
        if data is None:
            raise PlatformError(f"The audit log lacks {path}.", file=path)
        items = decode_bundle(data) if level is None else split_hashes(data)
        full = path == tile_path(level, index=index)
        if len(items) < width or (len(items) > width and not (full and width < TILE_WIDTH)):
            raise PlatformError(f"{path} of the audit log holds {len(items)} items, not {width}.", file=path)
        return items[:width]


def split_hashes(data: bytes) -> list[bytes]:
    """Split a hash tile; PlatformError if it is not a whole number of hashes."""
    if len(data) % HASH_BYTES:
        raise PlatformError("A hash tile of the audit log is truncated.")
    return [data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)]


class TreeEdge:
    """The right edge of a growing tree: its unfinished bundle and, per tile level, its unfinished tile."""

    def __init__(self) -> None:
        self.size = 0
        self.bundle: list[bytes] = []
        self.levels: list[list[bytes]] = []

    @classmethod
    def load(cls, reader: TileReader) -> TreeEdge:
        """Read the edge of the tree that `reader` sees."""
        edge = cls()
        edge.size = reader.size
        edge.bundle = list(reader.read_bundle(index=reader.size // TILE_WIDTH))
        level = 0
        while reader.size >> (TILE_HEIGHT * level):
            nodes = reader.size >> (TILE_HEIGHT * level)
            edge.levels.append(list(reader.read_tile(level, index=nodes // TILE_WIDTH)))
            level += 1
        return edge

    def root(self) -> bytes | None:
        """Return the root of the tree, or None for the empty tree."""
        right: bytes | None = None
        for nodes in self.levels:
            end = len(nodes)
            while end:
                width = end & -end
                complete = reduce_complete(nodes[end - width : end])
                right = complete if right is None else node_hash(complete, right)
                end -= width
        return right

    def append(self, leaves: list[bytes]) -> dict[str, bytes]:
        """Grow by leaves; return every file that must be there for the grown tree (path -> content)."""
        old_size, files = self.size, dict[str, bytes]()
        for leaf in leaves:
            self.bundle.append(leaf)
            if len(self.bundle) == TILE_WIDTH:
                files[tile_path(None, index=self.size // TILE_WIDTH)] = encode_bundle(self.bundle)
                self.bundle = []
            self.size += 1
            self._push(0, leaf_hash(leaf), files)
        self._add_partial_tiles(old_size, files)
        return files

    def copy(self) -> TreeEdge:
        """Return an independent copy, so that a failed write leaves the original as it was."""
        copy = TreeEdge()
        copy.size = self.size
        copy.bundle = list(self.bundle)
        copy.levels = [list(nodes) for nodes in self.levels]
        return copy

    def _push(self, level: int, node: bytes, files: dict[str, bytes]) -> None:
        if level == len(self.levels):
            self.levels.append([])
        nodes = self.levels[level]
        nodes.append(node)
        if len(nodes) == TILE_WIDTH:
            count = self.size >> (TILE_HEIGHT * level)
            files[tile_path(level, index=(count - 1) // TILE_WIDTH)] = b"".join(nodes)
            self.levels[level] = []
            self._push(level + 1, reduce_complete(nodes), files)

    def _add_partial_tiles(self, old_size: int, files: dict[str, bytes]) -> None:
        if self.bundle:
            path = tile_path(None, index=self.size // TILE_WIDTH, width=len(self.bundle))
            files[path] = encode_bundle(self.bundle)
        for level, nodes in enumerate(self.levels):
            count = self.size >> (TILE_HEIGHT * level)
            if nodes and count != old_size >> (TILE_HEIGHT * level):
                files[tile_path(level, index=count // TILE_WIDTH, width=len(nodes))] = b"".join(nodes)
