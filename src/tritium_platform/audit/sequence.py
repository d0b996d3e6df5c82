"""The place of the next entry: its number within its tenant and a time that never goes backwards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tritium_platform.audit.model import AuditLogEntry, format_time, parse_time

if TYPE_CHECKING:
    from uuid import UUID

# A snapshot only saves reading the log at the start; it is written once per so many entries.
SNAPSHOT_INTERVAL = 4096
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry goes: its count within the tenant, from 0, and its time."""

    tenant_seq: int
    timestamp: datetime


class Sequences:
    """How many entries each tenant (or no tenant) has among the first `size` entries of the log."""

    def __init__(self) -> None:
        self.size = 0
        self._last_timestamp = BEGINNING
        self._next: dict[str, int] = {}

    def next_place(self, tenant_id: UUID | None, *, now: datetime) -> Place:
        """Return the place of the tenant's next entry; a clock set back cannot turn the log's time back."""
        return Place(self._next.get(str(tenant_id), 0), max(now, self._last_timestamp))

    def take(self, entry: AuditLogEntry) -> None:
        """Count an entry as logged."""
        self.size += 1
        self._next[str(entry.tenant_id)] = entry.tenant_seq + 1
        self._last_timestamp = entry.timestamp

    def copy(self) -> Sequences:
        """Return an independent copy."""
        copy = Sequences()
        copy.size, copy._last_timestamp, copy._next = self.size, self._last_timestamp, dict(self._next)
        return copy

    def to_json(self) -> bytes:
        """Spell a snapshot."""
        state = {"size": self.size, "last_timestamp": format_time(self._last_timestamp), "next": self._next}
        return json.dumps(state).encode()

    @classmethod
    def from_json(cls, data: bytes | None, *, limit: int) -> Sequences:
        """Read a snapshot; one that is absent, damaged or ahead of the log counts as the empty one."""
        sequences = cls()
        try:
            state = json.loads(data or b"")
            if state["size"] <= limit:
                sequences._last_timestamp = parse_time(state["last_timestamp"])
                sequences._next = {str(tenant): int(count) for tenant, count in state["next"].items()}
                sequences.size = int(state["size"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()
        return sequences
