"""The nouns of batches: what was asked, how far it is, what became of each line."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

NO_METADATA: Mapping[str, str] = MappingProxyType({})
# The wire format knows one window and calls it "24h".
WINDOW = timedelta(hours=24)


class BatchStatus(StrEnum):
    """Where a batch is in its life, in the words of the wire format."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


OPEN_STATUSES = frozenset(
    {BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.CANCELLING}
)


class BatchEndpoint(StrEnum):
    """Which route the lines of a batch are for."""

    CHAT_COMPLETIONS = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"


@dataclass(frozen=True, kw_only=True, slots=True)
class InputProblem:
    """Why an input file cannot be worked on; `line` counts from 1, None: it is about the whole file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class InputLine:
    """One request of an input file: its line from 1 on, its name, and the body as a value of JSON."""

    number: int
    custom_id: str
    body: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptLine:
    """What became of a line: the line of the output file, or of the error file if `is_error`."""

    number: int
    content: str
    is_error: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One batch that a tenant asked for.

    Attributes:
        key_id: the API key it was created with; revoking it ends the batch.
        expires_at: when what is not answered yet is given up.
        total, completed, failed: lines; the last two count what is kept, and only the store counts them.
        kept_bytes: of the kept lines; only the store counts them.
        problems: why the input file was refused.
    """

    id: UUID
    tenant_id: UUID
    key_id: str
    endpoint: BatchEndpoint
    input_file_id: UUID
    created_at: datetime
    expires_at: datetime
    metadata: Mapping[str, str] = field(default_factory=lambda: NO_METADATA)
    status: BatchStatus = BatchStatus.VALIDATING
    in_progress_at: datetime | None = None
    finalizing_at: datetime | None = None
    completed_at: datetime | None = None
    failed_at: datetime | None = None
    expired_at: datetime | None = None
    cancelling_at: datetime | None = None
    cancelled_at: datetime | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    kept_bytes: int = 0
    output_file_id: UUID | None = None
    error_file_id: UUID | None = None
    problems: tuple[InputProblem, ...] = ()

    def moved(self, status: BatchStatus, *, at: datetime, **changes: Any) -> Batch:
        """Return this batch in another status, with the moment under the status's name."""
        changes[f"{status.value}_at"] = at
        return replace(self, status=status, **changes)

    def line_id(self, number: int) -> UUID:
        """Return the id under which a line is answered, counted and billed: the same at every attempt."""
        return uuid5(self.id, f"line {number}")
