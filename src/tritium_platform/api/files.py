"""OpenAI's files, of the calling tenant: the input of batches, and what batches wrote."""

from __future__ import annotations

import asyncio
from typing import IO, TYPE_CHECKING, Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from tritium.formats.storage import storage_error
from tritium_platform.api.deps import InferenceCaller, ThePlatform, tenant_key
from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.changes import Change
from tritium_platform.errors import ValidationError
from tritium_platform.serving.file import FilePurpose
from tritium_platform.serving.files import file_not_found

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starlette.datastructures import FormData

    from tritium_platform.compose import Platform
    from tritium_platform.serving.file import StoredFile
    from tritium_platform.serving.files import ReceivedFile
    from tritium_platform.tenancy.model import TenantContext

router = APIRouter(prefix="/v1/files", tags=["OpenAI"], dependencies=[tenant_key])
PREFIX = "file-"
CHUNK_BYTES = 1 << 18
MOST_FIELDS = 4
MAX_PAGE = 10_000
_FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": [FilePurpose.BATCH.value]},
    },
}
_BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
_BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}}


class FileOut(BaseModel):
    """A file; `created_at` is Unix time in whole seconds."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileList(BaseModel):
    """A page of files; more follow `last_id` if `has_more`."""

    object: Literal["list"] = "list"
    data: list[FileOut]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(BaseModel):
    """A file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


@router.post("", openapi_extra=_BODY)
async def create_file(platform: ThePlatform, caller: InferenceCaller, request: Request) -> FileOut:
    """Upload the input of a batch: a form with the fields `file` and `purpose`, which is `batch`."""
    with platform.files.place_for(caller.tenant_id):
        try:
            async with request.form(max_files=1, max_fields=MOST_FIELDS) as form:
                upload = _read_form(form)
                received = await platform.files.receive(
                    caller,
                    chunks=_chunks(upload),
                    filename=upload.filename or "",
                    purpose=FilePurpose.BATCH,
                )
        except ClientDisconnect:
            raise ValidationError("The upload broke off before its end. Send it again.") from None
        except OSError as error:  # forms wait in the machine's directory for temporary files
            raise storage_error(error, path=platform.config.files_dir / "upload") from error
    try:
        file = await _keep(platform, received, caller=caller)
    except BaseException:
        await platform.files.discard(received)
        raise
    return _file_out(file)


@router.get("")
async def list_files(
    platform: ThePlatform,
    caller: InferenceCaller,
    *,
    purpose: FilePurpose | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(max_length=100)] = None,
) -> FileList:
    """List files, page by page."""
    found = await platform.files.list(
        caller.tenant_id,
        limit=limit + 1,
        purpose=purpose,
        after=None if after is None else parse_file_id(after),
        is_oldest_first=order == "asc",
    )
    shown = [_file_out(file) for file in found[:limit]]
    return FileList(
        data=shown,
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
        has_more=len(found) > limit,
    )


@router.get("/{file_id}")
async def get_file(platform: ThePlatform, caller: InferenceCaller, file_id: str) -> FileOut:
    """Show a file."""
    return _file_out(await platform.files.get(caller.tenant_id, parse_file_id(file_id)))


@router.get("/{file_id}/content", response_class=StreamingResponse, responses={200: _BYTES})
async def get_file_content(platform: ThePlatform, caller: InferenceCaller, file_id: str) -> StreamingResponse:
    """Return the bytes of a file."""
    file = await platform.files.get(caller.tenant_id, parse_file_id(file_id))
    try:
        stream = await asyncio.to_thread(platform.files.path(file.tenant_id, file.id).open, "rb")
    except FileNotFoundError:  # it was deleted in this moment
        raise file_not_found() from None
    return StreamingResponse(
        _contents(stream),
        media_type="application/octet-stream",
        headers={"content-length": str(file.size_bytes)},
    )


@router.delete("/{file_id}")
async def delete_file(platform: ThePlatform, caller: InferenceCaller, file_id: str) -> DeletedFile:
    """Delete a file and give its storage back; one that an open batch reads stays."""
    wanted = parse_file_id(file_id)
    file = await platform.gateway.change(
        lambda: platform.files.remove(caller.tenant_id, wanted),
        describe=lambda removed: _change("file.delete", removed, caller=caller),
    )
    await platform.files.erase(file)
    return DeletedFile(id=file_id_of(file.id))


def file_id_of(file_id: UUID) -> str:
    """Write the id of a file as the wire has it."""
    return f"{PREFIX}{file_id.hex}"


def parse_file_id(text: str) -> UUID:
    """Read the id of a file; NotFoundError for what is none."""
    try:
        return UUID(hex=text.removeprefix(PREFIX))
    except ValueError:
        raise file_not_found() from None


async def _keep(platform: Platform, received: ReceivedFile, *, caller: TenantContext) -> StoredFile:
    return await platform.gateway.change(
        lambda: platform.files.keep(received),
        describe=lambda kept: _change("file.create", kept, caller=caller),
    )


def _read_form(form: FormData) -> UploadFile:
    for name in form:
        if name not in {"file", "purpose"}:
            raise ValidationError(f"The field {name[:64]!r} is not supported: leave it out.", param=name[:64])
    if form.get("purpose") != FilePurpose.BATCH.value:
        raise ValidationError("The purpose must be 'batch'; no other files are kept.", param="purpose")
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise ValidationError("The form needs a field 'file' with a file name.", param="file")
    return upload


async def _chunks(upload: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await upload.read(CHUNK_BYTES):
        yield chunk


async def _contents(stream: IO[bytes]) -> AsyncGenerator[bytes, None]:
    with stream:
        while chunk := await asyncio.to_thread(stream.read, CHUNK_BYTES):
            yield chunk


def _file_out(file: StoredFile) -> FileOut:
    return FileOut(
        id=file_id_of(file.id),
        bytes=file.size_bytes,
        created_at=int(file.created_at.timestamp()),
        filename=file.filename,
        purpose=file.purpose.value,
    )


def _change(action: str, file: StoredFile, *, caller: TenantContext) -> Change:
    return Change(
        action=action,
        resource=ResourceIdentifier("file", str(file.id)),
        tenant_id=caller.tenant_id,
        key_id=caller.key_id,
        details={"size_bytes": file.size_bytes},
    )
