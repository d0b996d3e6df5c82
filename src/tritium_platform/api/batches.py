"""OpenAI's batches, of the calling tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from tritium_platform.api.deps import InferenceCaller, ThePlatform, tenant_key
from tritium_platform.api.files import file_id_of, parse_file_id
from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.changes import Change
from tritium_platform.serving.batch import BatchEndpoint
from tritium_platform.serving.batches import batch_not_found
from tritium_platform.serving.expectation import expect_batch

if TYPE_CHECKING:
    from datetime import datetime

    from tritium_platform.serving.batch import Batch
    from tritium_platform.serving.expectation import Expectation
    from tritium_platform.tenancy.model import TenantContext

router = APIRouter(prefix="/v1/batches", tags=["OpenAI"], dependencies=[tenant_key])
PREFIX = "batch_"
MAX_PAGE = 100
MetadataKey = Annotated[str, Field(min_length=1, max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class NewBatch(BaseModel):
    """A batch to create."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    input_file_id: Annotated[str, Field(min_length=1, max_length=100)]
    endpoint: BatchEndpoint
    completion_window: Literal["24h"]
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None


class BatchProblem(BaseModel):
    """What is wrong with an input file; `line` counts from 1."""

    code: str
    line: int | None
    message: str
    param: str | None


class BatchProblems(BaseModel):
    """Everything that is wrong with an input file, or the first of it."""

    object: Literal["list"] = "list"
    data: list[BatchProblem]


class RequestCounts(BaseModel):
    """How many lines there are, were answered, and have errors."""

    total: int
    completed: int
    failed: int


class ExpectedEnd(BaseModel):
    """When a batch is expected to be answered, and the interval that holds it in about four of five cases."""

    at: int
    earliest: int
    latest: int


class BatchOut(BaseModel):
    """A batch; moments are Unix time in whole seconds.

    `expected` is ours: the end at the pace of the lines until now, once ten are answered.
    """

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchProblems | None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None
    expected: ExpectedEnd | None


class BatchList(BaseModel):
    """A page of batches; more follow `last_id` if `has_more`."""

    object: Literal["list"] = "list"
    data: list[BatchOut]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.post("")
async def create_batch(platform: ThePlatform, caller: InferenceCaller, wish: NewBatch) -> BatchOut:
    """Create a batch of an uploaded file; it is worked on in the background."""
    file_id = parse_file_id(wish.input_file_id)
    batch = await platform.gateway.change(
        lambda: platform.batches.create(
            caller, endpoint=wish.endpoint, input_file_id=file_id, metadata=wish.metadata or {}
        ),
        describe=lambda created: _change("batch.create", created, caller=caller),
    )
    return _batch_out(batch, now=platform.clock.now())


@router.get("")
async def list_batches(
    platform: ThePlatform,
    caller: InferenceCaller,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    after: Annotated[str | None, Query(max_length=100)] = None,
) -> BatchList:
    """List batches, newest first, page by page."""
    found = await platform.batches.list(
        caller.tenant_id, limit=limit + 1, after=None if after is None else _parse_batch_id(after)
    )
    shown = [_batch_out(batch, now=platform.clock.now()) for batch in found[:limit]]
    return BatchList(
        data=shown,
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
        has_more=len(found) > limit,
    )


@router.get("/{batch_id}")
async def get_batch(platform: ThePlatform, caller: InferenceCaller, batch_id: str) -> BatchOut:
    """Show a batch."""
    batch = await platform.batches.get(caller.tenant_id, _parse_batch_id(batch_id))
    return _batch_out(batch, now=platform.clock.now())


@router.post("/{batch_id}/cancel")
async def cancel_batch(platform: ThePlatform, caller: InferenceCaller, batch_id: str) -> BatchOut:
    """Cancel a batch: lines on their way are finished, and what is answered can be read."""
    wanted = _parse_batch_id(batch_id)
    batch = await platform.gateway.change(
        lambda: platform.batches.cancel(caller.tenant_id, wanted),
        describe=lambda cancelled: _change("batch.cancel", cancelled, caller=caller),
    )
    return _batch_out(batch, now=platform.clock.now())


def _parse_batch_id(text: str) -> UUID:
    try:
        return UUID(hex=text.removeprefix(PREFIX))
    except ValueError:
        raise batch_not_found() from None


def _batch_out(batch: Batch, *, now: datetime) -> BatchOut:
    expected = expect_batch(batch, now=now)
    problems = [
        BatchProblem(code=each.code, line=each.line, message=each.message, param=each.param)
        for each in batch.problems
    ]
    return BatchOut(
        id=f"{PREFIX}{batch.id.hex}",
        endpoint=batch.endpoint.value,
        errors=BatchProblems(data=problems) if problems else None,
        input_file_id=file_id_of(batch.input_file_id),
        status=batch.status.value,
        output_file_id=None if batch.output_file_id is None else file_id_of(batch.output_file_id),
        error_file_id=None if batch.error_file_id is None else file_id_of(batch.error_file_id),
        created_at=int(batch.created_at.timestamp()),
        in_progress_at=_seconds(batch.in_progress_at),
        expires_at=int(batch.expires_at.timestamp()),
        finalizing_at=_seconds(batch.finalizing_at),
        completed_at=_seconds(batch.completed_at),
        failed_at=_seconds(batch.failed_at),
        expired_at=_seconds(batch.expired_at),
        cancelling_at=_seconds(batch.cancelling_at),
        cancelled_at=_seconds(batch.cancelled_at),
        request_counts=RequestCounts(total=batch.total, completed=batch.completed, failed=batch.failed),
        metadata=dict(batch.metadata) or None,
        expected=None if expected is None else _expected_end(expected),
    )


def _expected_end(expected: Expectation) -> ExpectedEnd:
    return ExpectedEnd(
        at=int(expected.at.timestamp()),
        earliest=int(expected.earliest.timestamp()),
        latest=int(expected.latest.timestamp()),
    )


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def _change(action: str, batch: Batch, *, caller: TenantContext) -> Change:
    return Change(
        action=action,
        resource=ResourceIdentifier("batch", str(batch.id)),
        tenant_id=caller.tenant_id,
        key_id=caller.key_id,
        details={"endpoint": batch.endpoint.value, "status": batch.status.value},
    )
