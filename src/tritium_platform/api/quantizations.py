"""The quantizations of the calling tenant."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from tritium_platform.api.deps import ModelsCaller, ThePlatform, bearer_token, tenant_key
from tritium_platform.api.schemas import ExpectationOut
from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.changes import Change
from tritium_platform.serving.quantizing import QuantizeModel

if TYPE_CHECKING:
    from tritium_platform.serving.expectation import Expectation
    from tritium_platform.serving.job import QuantizationJob

router = APIRouter(prefix="/api/v1/quantizations", tags=["quantizations"], dependencies=[tenant_key])


class SourceIn(BaseModel):
    """Where the checkpoint is: a directory below an allowed root of the platform's disk, or an upload."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    upload: UUID | None = None


class NewQuantization(BaseModel):
    """A quantization to start; `config` has the fields of the library's QuantizationConfig."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Annotated[str, Field(min_length=1, max_length=100)]
    source: SourceIn
    config: dict[str, Any] = {}


class LayerOut(BaseModel):
    """A finished layer: `loss` is the relative error it was judged by, `seconds` what it took."""

    index: int
    name: str
    strategy: str
    planes: int
    loss: float
    seconds: float


class QuantizationOut(BaseModel):
    """A quantization job; `layers` and `expected` (of an open job) are filled where one job is asked for.

    `expected` is null as long as no job of the same kind has succeeded.
    """

    id: UUID
    name: str
    source: str
    state: str
    total_layers: int | None
    finished_layers: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error_code: str | None
    error_message: str | None
    error_recovery: str | None
    expected: ExpectationOut | None = None
    layers: list[LayerOut] | None = None


@router.post("", status_code=202)
async def create_quantization(
    platform: ThePlatform, request: Request, wish: NewQuantization
) -> QuantizationOut:
    """Start a quantization; a worker does it in the background, one durable step per layer."""
    source = wish.source.model_dump(mode="json", exclude_none=True)
    work = QuantizeModel(platform.quantizations, source=source, name=wish.name, config=wish.config)
    passage = await platform.gateway.process_customer_request(
        work, token=bearer_token(request), request_id=request.state.request_id
    )
    job = await anext(passage)
    return _quantization_out(job, expected=await platform.quantizations.expect(job))


@router.get("")
async def list_quantizations(platform: ThePlatform, caller: ModelsCaller) -> list[QuantizationOut]:
    """List the newest quantizations, without their layers."""
    return [_quantization_out(job) for job in await platform.quantizations.list(caller.tenant_id)]


@router.get("/{quantization}")
async def get_quantization(
    platform: ThePlatform, caller: ModelsCaller, quantization: UUID
) -> QuantizationOut:
    """Show a quantization with its finished layers."""
    job = await platform.quantizations.get(caller.tenant_id, quantization)
    return _quantization_out(
        job,
        layers=[LayerOut(**_fields(layer)) for layer in job.layers],
        expected=await platform.quantizations.expect(job),
    )


@router.delete("/{quantization}", status_code=202)
async def cancel_quantization(
    platform: ThePlatform, caller: ModelsCaller, quantization: UUID
) -> QuantizationOut:
    """Cancel a quantization: it stops before its next layer."""
    job = await platform.gateway.change(
        lambda: platform.quantizations.cancel(caller.tenant_id, quantization),
        describe=lambda cancelled: Change(
            action="quantization.cancel",
            resource=ResourceIdentifier("quantization", str(cancelled.id)),
            tenant_id=caller.tenant_id,
            key_id=caller.key_id,
        ),
    )
    return _quantization_out(job)


def _fields(layer: object) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in LayerOut.model_fields}


def _quantization_out(
    job: QuantizationJob, *, layers: list[LayerOut] | None = None, expected: Expectation | None = None
) -> QuantizationOut:
    return QuantizationOut(
        id=job.id,
        name=job.model_name,
        source=job.source,
        state=job.state.value,
        total_layers=job.total_layers,
        finished_layers=None if layers is None else len(layers),
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        error_code=job.error_code,
        error_message=job.error_message,
        error_recovery=job.error_recovery,
        expected=None if expected is None else ExpectationOut(**asdict(expected)),
        layers=layers,
    )
