"""The customer's request to deploy a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.metering.model import LONGEST_NAME, OperationType
from tritium_platform.serving.model import Consumption, Outcome
from tritium_platform.tenancy.model import Scope

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tritium_platform.serving.deployments import DeploymentService, DeploymentWish, Plan
    from tritium_platform.serving.model import Deployment
    from tritium_platform.tenancy.model import TenantContext


class DeployModel:
    """The customer's request to keep a model running; it is done when the replicas have begun to load."""

    operation = OperationType.DEPLOYMENT
    scope = Scope.DEPLOYMENTS

    def __init__(self, service: DeploymentService, *, wish: DeploymentWish) -> None:
        self.model = wish.model
        self.subject = ResourceIdentifier("model", wish.model[:LONGEST_NAME])
        self._service = service
        self._wish = wish
        self._plan: Plan | None = None

    async def admit(self, context: TenantContext) -> int:
        """Check model, name and tier; a deployment needs no tokens."""
        self._plan = await self._service.plan(context, wish=self._wish)
        self.model = self._plan[1].name
        self.subject = ResourceIdentifier("deployment", str(self._plan[0].id))
        return 0

    async def execute(self) -> AsyncGenerator[Deployment, None]:
        """Create it."""
        assert self._plan is not None  # noqa: S101 - the gateway admits first
        yield await self._service.create(self._plan)

    def is_last(self, piece: Deployment) -> bool:  # noqa: ARG002 - there is only one
        """Whether nothing follows: always."""
        return True

    def consumed(self, outcome: Outcome) -> Consumption:
        """Return nothing but the request itself."""
        return Consumption(is_counted=outcome is Outcome.SUCCESS)

    def release(self) -> None:
        """Nothing is held."""
