"""The deployments of the calling tenant, and what the operator decides about everybody's."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID  # noqa: TC003 - the framework reads it when it makes the routes

from fastapi import APIRouter, Request

from tritium_platform.api.deps import (
    DeploymentsCaller,
    ThePlatform,
    admin,
    admin_key,
    bearer_token,
    tenant_key,
)
from tritium_platform.api.schemas import DeploymentOut, DeploymentPin, ModelSwap, NewDeployment, ReplicaOut
from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.changes import Change
from tritium_platform.serving.deploying import DeployModel
from tritium_platform.serving.deployments import DeploymentWish

if TYPE_CHECKING:
    from tritium_platform.compose import Platform
    from tritium_platform.serving.model import Deployment

router = APIRouter(prefix="/api/v1/deployments", tags=["deployments"], dependencies=[tenant_key])
operator_router = APIRouter(
    prefix="/api/v1/tenants/{tenant_id}/deployments", tags=["deployments"], dependencies=[admin_key, admin]
)


@router.post("", status_code=201)
async def create_deployment(platform: ThePlatform, request: Request, wish: NewDeployment) -> DeploymentOut:
    """Deploy a model; its engine processes load in the background."""
    work = DeployModel(
        platform.deployments,
        wish=DeploymentWish(model=wish.model, name=wish.name, replicas=wish.replicas),
    )
    passage = await platform.gateway.process_customer_request(
        work, token=bearer_token(request), request_id=request.state.request_id
    )
    return _deployment_out(platform, await anext(passage))


@router.get("")
async def list_deployments(platform: ThePlatform, caller: DeploymentsCaller) -> list[DeploymentOut]:
    """List the deployments, oldest first."""
    return [_deployment_out(platform, one) for one in await platform.deployments.list(caller.tenant_id)]


@router.get("/{deployment}")
async def get_deployment(platform: ThePlatform, caller: DeploymentsCaller, deployment: str) -> DeploymentOut:
    """Show a deployment by id or name."""
    return _deployment_out(platform, await platform.deployments.get(caller.tenant_id, deployment))


@router.patch("/{deployment}")
async def swap_model(
    platform: ThePlatform, caller: DeploymentsCaller, deployment: str, wish: ModelSwap
) -> DeploymentOut:
    """Give a deployment another model without a gap; the answer comes when the new one has taken over.

    It is loaded beside the old one, which answers meanwhile, and stays if anything is in the way.
    """
    swap = await platform.swaps.prepare(caller, deployment, model=wish.model)
    try:
        changed = await platform.gateway.change(
            lambda: platform.swaps.commit(swap),
            describe=lambda made: _change("deployment.swap", made, key_id=caller.key_id),
        )
    except BaseException:
        platform.swaps.abandon(swap)
        raise
    platform.swaps.finish(swap)
    return _deployment_out(platform, changed)


@router.delete("/{deployment}", status_code=202)
async def delete_deployment(
    platform: ThePlatform, caller: DeploymentsCaller, deployment: str
) -> DeploymentOut:
    """Take a deployment out of use; what it runs is finished first."""
    async with platform.aliases.names:  # nobody points an alias at it meanwhile
        found = await platform.gateway.change(
            lambda: platform.deployments.delete(caller.tenant_id, deployment),
            describe=lambda gone: _change("deployment.delete", gone, key_id=caller.key_id),
        )
    platform.deployments.retire(found)
    return _deployment_out(platform, found)


@operator_router.patch("/{deployment}")
async def pin_deployment(
    platform: ThePlatform, tenant_id: UUID, deployment: str, wish: DeploymentPin
) -> DeploymentOut:
    """Say whether a tenant's deployment stays in memory whoever else wants the room."""
    changed = await platform.gateway.change(
        lambda: platform.deployments.pin(tenant_id, deployment, is_pinned=wish.is_pinned),
        describe=lambda made: _change("deployment.pin" if made.is_pinned else "deployment.unpin", made),
    )
    platform.deployments.finish_pin(changed)
    return _deployment_out(platform, changed)


def _change(action: str, deployment: Deployment, *, key_id: str | None = None) -> Change:
    return Change(
        action=action,
        resource=ResourceIdentifier("deployment", str(deployment.id)),
        tenant_id=deployment.tenant_id,
        key_id=key_id,
        details={"model_id": str(deployment.model_id)},
    )


def _deployment_out(platform: Platform, deployment: Deployment) -> DeploymentOut:
    replicas = [
        ReplicaOut(
            name=status.name,
            state=status.state.value,
            in_flight=status.in_flight,
            restarts=status.restarts,
            resident_bytes=status.resident_bytes,
            last_error=status.last_error,
        )
        for status in platform.deployments.statuses(deployment)
    ]
    return DeploymentOut(
        id=deployment.id,
        name=deployment.name,
        model_id=deployment.model_id,
        state=platform.deployments.state(deployment).value,
        is_pinned=deployment.is_pinned,
        replicas=replicas,
        created_at=deployment.created_at,
    )
