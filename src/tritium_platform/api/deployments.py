"""The deployments of the calling tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request

from tritium_platform.api.deps import DeploymentsCaller, ThePlatform, bearer_token, tenant_key
from tritium_platform.api.schemas import DeploymentOut, NewDeployment, ReplicaOut
from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.gateway import Change
from tritium_platform.serving.deployments import DeploymentWish, DeployModel

if TYPE_CHECKING:
    from tritium_platform.compose import Platform
    from tritium_platform.serving.model import Deployment

router = APIRouter(prefix="/api/v1/deployments", tags=["deployments"], dependencies=[tenant_key])


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


@router.delete("/{deployment}", status_code=202)
async def delete_deployment(
    platform: ThePlatform, caller: DeploymentsCaller, deployment: str
) -> DeploymentOut:
    """Take a deployment out of use; what it runs is finished first."""
    async with platform.aliases.names:  # nobody points an alias at it meanwhile
        found = await platform.gateway.change(
            lambda: platform.deployments.delete(caller.tenant_id, deployment),
            describe=lambda gone: Change(
                action="deployment.delete",
                resource=ResourceIdentifier("deployment", str(gone.id)),
                tenant_id=caller.tenant_id,
                key_id=caller.key_id,
            ),
        )
    platform.deployments.retire(found)
    return _deployment_out(platform, found)


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
        replicas=replicas,
        created_at=deployment.created_at,
    )
