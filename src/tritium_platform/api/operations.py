"""For those who run the platform and those who check it: health, metrics, the head of the audit log."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING
from uuid import UUID

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from tritium_platform.api.deps import AuditCaller, ThePlatform, tenant_key
from tritium_platform.api.schemas import PROBLEM_RESPONSES, CheckpointOut, HealthStatus
from tritium_platform.audit.note import NoteVerifier
from tritium_platform.audit.verify import CHECKPOINT
from tritium_platform.errors import BitNetServiceError, NotFoundError

if TYPE_CHECKING:
    from tritium_platform.compose import Platform

router = APIRouter()
_NOBODY = UUID(int=0)


@router.get("/health/live", tags=["health"])
async def live() -> HealthStatus:
    """Say that the process answers."""
    return HealthStatus(status="live")


@router.get("/health/ready", tags=["health"], responses={503: {"model": HealthStatus}})
async def ready(platform: ThePlatform) -> Response:
    """Say whether requests are taken: started, not draining, the database answers."""
    database = "ok"
    try:
        await platform.tenancy.get_tenant(_NOBODY)
    except NotFoundError:
        pass
    except BitNetServiceError as error:
        database = error.code
    is_ready = platform.is_ready and database == "ok"
    status = HealthStatus(
        status="ready" if is_ready else "not_ready",
        details={"database": database, "replicas": dict(_replica_states(platform))},
    )
    return JSONResponse(status.model_dump(), status_code=200 if is_ready else 503)


@router.get("/metrics", tags=["health"], response_class=Response)
async def metrics(platform: ThePlatform) -> Response:
    """Show the counters in Prometheus's text form; they are labelled by model and tier, never by tenant."""
    text = platform.metrics.render(
        replica_states=_replica_states(platform), engines=platform.deployments.engines()
    )
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get(
    "/api/v1/audit/checkpoint", tags=["audit"], dependencies=[tenant_key], responses=PROBLEM_RESPONSES
)
async def get_checkpoint(platform: ThePlatform, caller: AuditCaller) -> CheckpointOut:  # noqa: ARG001 - it is checked
    """Show the signed head of the audit log; keep it to find out later if history was rewritten."""
    path = platform.config.audit_dir / CHECKPOINT
    try:
        note = await asyncio.to_thread(path.read_bytes)
    except FileNotFoundError:
        raise NotFoundError("The audit log has no entry yet.") from None
    text = NoteVerifier.from_vkey(platform.verifier_key).open_note(note)
    origin, size, root = text.splitlines()[:3]
    return CheckpointOut(
        origin=origin,
        size=int(size),
        root_hash=root,
        note=note.decode(),
        verifier_key=platform.verifier_key,
    )


def _replica_states(platform: Platform) -> Counter[str]:
    return Counter(status.state.value for status in platform.deployments.all_statuses())
