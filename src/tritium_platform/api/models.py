"""The models of the calling tenant."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter

from tritium_platform.api.deps import ModelsCaller, ThePlatform, tenant_key
from tritium_platform.api.schemas import ModelOut, NewModel, ReportOut
from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.changes import Change
from tritium_platform.errors import ConflictError
from tritium_platform.serving.registry import read_report

if TYPE_CHECKING:
    from tritium_platform.compose import Platform
    from tritium_platform.serving.model import RegisteredModel
    from tritium_platform.tenancy.model import TenantContext

router = APIRouter(prefix="/api/v1/models", tags=["models"], dependencies=[tenant_key])


@router.post("", status_code=201)
async def register_model(platform: ThePlatform, caller: ModelsCaller, wish: NewModel) -> ModelOut:
    """Register a checkpoint directory that lies below an allowed root of the platform's disk."""
    checked = await asyncio.to_thread(platform.registry.check_path, caller, name=wish.name, path=wish.path)
    model = await platform.gateway.change(
        lambda: platform.registry.register(caller.tenant_id, name=wish.name, checked=checked),
        describe=lambda made: _change("model.register", made, caller=caller),
    )
    return _model_out(model)


@router.get("")
async def list_models(platform: ThePlatform, caller: ModelsCaller) -> list[ModelOut]:
    """List the models, oldest first."""
    return [_model_out(model) for model in await platform.registry.list(caller.tenant_id)]


@router.get("/{model}")
async def get_model(platform: ThePlatform, caller: ModelsCaller, model: str) -> ModelOut:
    """Show a model by id or name."""
    return _model_out(await platform.registry.get(caller.tenant_id, model))


@router.get("/{model}/report")
async def get_report(platform: ThePlatform, caller: ModelsCaller, model: str) -> ReportOut:
    """Show what the quantization of a model measured: sizes, bits per weight, quality against its source."""
    found = await platform.registry.get(caller.tenant_id, model)
    return ReportOut(**await asyncio.to_thread(read_report, found))


@router.delete("/{model}", status_code=204)
async def delete_model(platform: ThePlatform, caller: ModelsCaller, model: str) -> None:
    """Forget a model that is not deployed; the files of one that was quantized here are deleted."""
    found = await platform.registry.get(caller.tenant_id, model)
    if any(one.model_id == found.id for one in await platform.deployments.list(caller.tenant_id)):
        raise ConflictError("The model is deployed: delete its deployments first.")
    gone = await platform.gateway.change(
        lambda: _forget(platform, caller, model),
        describe=lambda forgotten: _change("model.delete", forgotten, caller=caller),
    )
    # After the commit: files without a model can be swept, a model without files cannot be mended.
    await platform.quantizations.delete_files(gone)


async def _forget(platform: Platform, caller: TenantContext, model: str) -> RegisteredModel:
    gone = await platform.registry.remove(caller.tenant_id, model)
    await platform.quantizations.release(gone)
    return gone


def _change(action: str, model: RegisteredModel, *, caller: TenantContext) -> Change:
    return Change(
        action=action,
        resource=ResourceIdentifier("model", str(model.id)),
        tenant_id=caller.tenant_id,
        key_id=caller.key_id,
        details={"size_bytes": model.size_bytes, "kind": model.kind.value},
    )


def _model_out(model: RegisteredModel) -> ModelOut:
    return ModelOut(
        id=model.id,
        name=model.name,
        kind=model.kind.value,
        size_bytes=model.size_bytes,
        source=model.source,
        created_at=model.created_at,
    )
