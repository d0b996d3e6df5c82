"""Checkpoints that the calling tenant uploads."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from tritium_platform.api.deps import ModelsCaller, ThePlatform, tenant_key
from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.changes import Change
from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from tritium_platform.serving.uploads import Upload
    from tritium_platform.tenancy.model import TenantContext

router = APIRouter(prefix="/api/v1/uploads", tags=["uploads"], dependencies=[tenant_key])
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ARCHIVE = {"required": True, "content": {"application/zip": _BINARY}}


class UploadOut(BaseModel):
    """An upload; a quantization names it by its id."""

    id: UUID
    size_bytes: int


@router.post("", status_code=201, openapi_extra={"requestBody": _ARCHIVE})
async def create_upload(platform: ThePlatform, caller: ModelsCaller, request: Request) -> UploadOut:
    """Upload a checkpoint directory as one ZIP archive: the request's body."""
    try:
        received = await platform.uploads.receive(caller, chunks=request.stream())
    except ClientDisconnect:
        raise ValidationError("The upload broke off before its end. Send it again.") from None
    try:
        upload = await platform.gateway.change(
            lambda: platform.uploads.keep(received),
            describe=lambda kept: _change("upload.create", kept, caller=caller),
        )
    except BaseException:
        await platform.uploads.discard(received)
        raise
    return UploadOut(id=upload.id, size_bytes=upload.size_bytes)


@router.delete("/{upload}", status_code=204)
async def delete_upload(platform: ThePlatform, caller: ModelsCaller, upload: UUID) -> None:
    """Delete an upload and give its storage back; a quantization that still reads it fails."""
    await platform.gateway.change(
        lambda: platform.uploads.remove(caller.tenant_id, upload),
        describe=lambda removed: _change("upload.delete", removed, caller=caller),
    )


def _change(action: str, upload: Upload, *, caller: TenantContext) -> Change:
    return Change(
        action=action,
        resource=ResourceIdentifier("upload", str(upload.id)),
        tenant_id=caller.tenant_id,
        key_id=caller.key_id,
        details={"size_bytes": upload.size_bytes},
    )
