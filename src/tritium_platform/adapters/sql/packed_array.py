"""Columns of fixed width as PostgreSQL's binary arrays: it takes them in as they are, and reads no text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

if TYPE_CHECKING:
    from collections.abc import Sequence

# The types by name: PostgreSQL's number of each, and bytes a value.
TYPES = {"bytea": (17, 32), "bigint": (20, 8), "timestamptz": (1184, 8), "uuid": (2950, 16)}


@dataclass(frozen=True, slots=True)
class PackedArray:
    """A one-dimensional array as PostgreSQL receives it; a parameter to cast to an array of its type."""

    content: bytes


class _PackedArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: PackedArray) -> bytes:
        return obj.content


psycopg.adapters.register_dumper(PackedArray, _PackedArrayDumper)


def packed_bytes(kind: str, values: Sequence[bytes]) -> PackedArray:
    """Pack values that are bytes already: ids of 16, digests of 32."""
    return _packed(kind, b"".join(values), count=len(values))


def packed_integers(kind: str, values: Sequence[int]) -> PackedArray:
    """Pack integers of 64 bits; moments are microseconds since 2000."""
    return _packed(kind, np.array(values, dtype=">i8").tobytes(), count=len(values))


def _packed(kind: str, values: bytes, *, count: int) -> PackedArray:
    number, width = TYPES[kind]
    cells = np.empty(count, dtype=[("length", ">i4"), ("value", f"V{width}")])
    cells["length"] = width
    cells["value"] = np.frombuffer(values, dtype=f"V{width}")
    dimensions, has_nulls, first = 1, 0, 1
    head = np.array([dimensions, has_nulls, number, count, first], dtype=">i4")
    return PackedArray(head.tobytes() + cells.tobytes())
