"""The customer's request to quantize a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.errors import ConflictError
from tritium_platform.metering.model import OperationType
from tritium_platform.serving.model import Consumption, Outcome
from tritium_platform.tenancy.model import Scope

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from tritium_platform.serving.job import QuantizationJob
    from tritium_platform.serving.quantization import PlannedQuantization, QuantizationService
    from tritium_platform.tenancy.model import TenantContext


class QuantizeModel:
    """A tenant's wish for a quantization, as the gateway carries it out; a worker does the work."""

    operation = OperationType.QUANTIZATION
    scope = Scope.MODELS

    def __init__(
        self,
        quantizations: QuantizationService,
        *,
        source: Mapping[str, Any],
        name: str,
        config: Mapping[str, Any],
    ) -> None:
        self._quantizations = quantizations
        self._source = source
        self._config = config
        self.model = name
        self.subject = ResourceIdentifier("model", name)
        self._accepted: tuple[TenantContext, PlannedQuantization] | None = None

    async def admit(self, context: TenantContext) -> int:
        """Check everything that can be known before the work; no tokens are used."""
        planned = await self._quantizations.plan(
            context, source=self._source, name=self.model, config=self._config
        )
        self._accepted = context, planned
        return 0

    async def execute(self) -> AsyncGenerator[QuantizationJob, None]:
        """Keep the job; raises ConflictError if it was not admitted."""
        if self._accepted is None:
            raise ConflictError("A quantization is admitted before it is executed.")
        context, planned = self._accepted
        yield await self._quantizations.submit(context, planned=planned)

    def is_last(self, piece: QuantizationJob) -> bool:  # noqa: ARG002 - the job is the only piece
        """Whether nothing comes after this piece."""
        return True

    def release(self) -> None:
        """Nothing is held."""

    def consumed(self, outcome: Outcome) -> Consumption:
        """Count one request if the job was accepted; what the job itself uses, the worker counts."""
        return Consumption(is_counted=outcome is Outcome.SUCCESS)
