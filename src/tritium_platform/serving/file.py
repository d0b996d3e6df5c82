"""The nouns of files: what a tenant brought for a batch, and what a batch wrote for its tenant."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


class FilePurpose(StrEnum):
    """What a file is for."""

    BATCH = "batch"
    BATCH_OUTPUT = "batch_output"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """A file of a tenant; `filename` is only shown, its place on the disk is named after `id`."""

    id: UUID
    tenant_id: UUID
    purpose: FilePurpose
    filename: str
    size_bytes: int
    created_at: datetime
