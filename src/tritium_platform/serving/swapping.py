"""Gives a deployment another model without a gap: the new one loads beside the old one, then takes over."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tritium_platform.errors import ConflictError, ValidationError
from tritium_platform.serving import policy
from tritium_platform.serving.deployments import no_such_deployment
from tritium_platform.serving.errors import EngineUnavailableError

if TYPE_CHECKING:
    from uuid import UUID

    from tritium_platform.serving.deployments import DeploymentService, DeploymentStore, ModelRegistry
    from tritium_platform.serving.model import Deployment
    from tritium_platform.serving.pool import Lease, Pool
    from tritium_platform.serving.residency import Residency
    from tritium_platform.tenancy.model import TenantContext


@dataclass(slots=True)
class Swap:
    """A new version of a deployment beside the old one; `held` keeps both in memory until it is decided."""

    old: Pool
    new: Pool
    held: list[Lease] = field(default_factory=list)


class SwapService:
    """Swaps models: `prepare`, `commit` in a transaction, then `finish`; or `abandon`: the old one stays."""

    def __init__(
        self,
        *,
        store: DeploymentStore,
        registry: ModelRegistry,
        deployments: DeploymentService,
        residency: Residency,
        load_seconds: float,
    ) -> None:
        self._store = store
        self._registry = registry
        self._deployments = deployments
        self._residency = residency
        self._load_seconds = load_seconds
        self._under_way: set[UUID] = set()

    async def prepare(self, context: TenantContext, name_or_id: str, *, model: str) -> Swap:
        """Load another model for a deployment while the one it has goes on to answer.

        Raises:
            NotFoundError: there is no such deployment, or no such model.
            ValidationError: the model is of another kind.
            ModelSizeExceededError: the model is larger than the tier serves.
            ConflictError: the deployment is being swapped already.
            InsufficientMemoryError: there is no memory for both at once.
            EngineUnavailableError: the model cannot be loaded, or not in time.
        """
        old = self._deployments.pool_of(context.tenant_id, name_or_id)
        deployment = old.deployment
        current = await self._registry.get(context.tenant_id, str(deployment.model_id))
        found = await self._registry.get(context.tenant_id, model)
        policy.require_model_size(found.size_bytes, max_model_size=context.limits.max_model_size)
        if found.kind is not current.kind:
            raise ValidationError(
                f"{found.name} cannot {current.kind}: it is of another kind.", field="model"
            )
        if deployment.id in self._under_way:
            raise ConflictError(f"{deployment.name} is being swapped already: wait until that is over.")
        self._under_way.add(deployment.id)
        try:
            changed = replace(
                deployment, model_id=found.id, memory_limit_bytes=self._deployments.memory_limit(found)
            )
            swap = Swap(old=old, new=await self._deployments.new_pool(changed, model=found))
        except BaseException:
            self._under_way.discard(deployment.id)
            raise
        try:
            await self._load_beside(swap)
        except BaseException:
            self.abandon(swap)
            raise
        return swap

    async def commit(self, swap: Swap) -> Deployment:
        """Remember what the deployment serves from now on.

        Raises:
            NotFoundError: the deployment or the model was deleted meanwhile.
        """
        deployment = replace(swap.new.deployment, is_pinned=swap.old.deployment.is_pinned)
        await self._registry.get(deployment.tenant_id, str(deployment.model_id))
        if not await self._store.change(deployment):
            raise no_such_deployment()
        swap.new.deployment = deployment
        return deployment

    def finish(self, swap: Swap) -> None:
        """Give new requests to the new version, in one step; the old one finishes what it has and goes."""
        self._deployments.show(swap.new)
        self._let_go(swap, leaving=swap.old)

    def abandon(self, swap: Swap) -> None:
        """Let the old version stay and the new one go."""
        self._let_go(swap, leaving=swap.new)

    def _let_go(self, swap: Swap, *, leaving: Pool) -> None:
        self._under_way.discard(swap.old.deployment.id)
        self._deployments.discard(leaving)
        for lease in swap.held:
            lease.release()

    async def _load_beside(self, swap: Swap) -> None:
        self._residency.add(swap.new)
        is_beside = swap.old.is_in_memory
        self._residency.require_room(
            swap.new.required_bytes, of=swap.new, beside=swap.old if is_beside else None
        )
        if is_beside:
            swap.held.append(await self._residency.lease(swap.old))
        swap.held.append(await self._residency.lease(swap.new))
        try:
            async with asyncio.timeout(self._load_seconds):
                await swap.new.wait_ready()
        except TimeoutError:
            raise EngineUnavailableError(
                f"Not every engine of the new version was ready within {self._load_seconds:g} s; "
                "the old version stays.",
                retry_after=1,
            ) from None
