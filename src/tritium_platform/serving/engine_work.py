"""What customers ask of engines, as the gateway walks it: text to continue, texts to turn into vectors."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.metering.model import LONGEST_NAME, OperationType, ResourceUsage, UsageQuantities
from tritium_platform.serving.model import Consumption, Course, Outcome
from tritium_platform.tenancy.model import Scope

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tritium.engine.prompt import Prompt
    from tritium.engine.request import EmbeddingOutput, SamplingParams, TokenOutput
    from tritium.engine.tools import ToolUse
    from tritium_platform.serving.inference import InferenceService, ScheduledEmbedding, ScheduledGeneration
    from tritium_platform.serving.pool import Lease, Version
    from tritium_platform.tenancy.model import TenantContext


class OnEngines:
    """What generating and embedding share: engines that are held from admission to the end of the work."""

    def __init__(self, service: InferenceService, *, model: str, version: Version | None) -> None:
        self.model = model
        self.subject = ResourceIdentifier("deployment", model[:LONGEST_NAME])
        self._service = service
        self._version = version
        self._lease: Lease | None = None

    async def _hold(self, context: TenantContext) -> Lease:
        self._lease = lease = await self._service.hold(context, model=self.model, version=self._version)
        # The books name what runs, not the alias or id that was asked for.
        deployment = lease.pool.deployment
        self.model, self.subject = deployment.name, ResourceIdentifier("deployment", str(deployment.id))
        return lease

    def release(self) -> None:
        """Let go of the engines."""
        if self._lease is not None:
            self._lease.release()


class GenerateText(OnEngines):
    """The customer's request to continue a prompt; the gateway admits, runs and counts it."""

    scope = Scope.INFERENCE

    def __init__(
        self,
        service: InferenceService,
        *,
        operation: OperationType,
        request_id: str,
        model: str,
        prompt: Prompt,
        sampling: SamplingParams,
        tool_use: ToolUse | None = None,
        priority: int = 0,
        version: Version | None = None,
    ) -> None:
        super().__init__(service, model=model, version=version)
        self.operation = operation
        self._request_id = request_id
        self._prompt = prompt
        self._sampling = sampling
        self._tool_use = tool_use
        self._priority = priority
        self._scheduled: ScheduledGeneration | None = None
        self._last: TokenOutput | None = None

    async def admit(self, context: TenantContext) -> int:
        """Count the prompt; return prompt and longest answer in tokens."""
        self._scheduled = await self._service.schedule_generation(
            context,
            lease=await self._hold(context),
            request_id=self._request_id,
            prompt=self._prompt,
            sampling=self._sampling,
            tool_use=self._tool_use,
            priority=self._priority,
        )
        return self._scheduled.largest_tokens

    async def execute(self) -> AsyncGenerator[TokenOutput, None]:
        """Yield the tokens."""
        assert self._scheduled is not None  # noqa: S101 - the gateway admits first
        async with contextlib.aclosing(self._service.execute_generation(self._scheduled)) as outputs:
            async for output in outputs:
                self._last = output
                yield output

    def is_last(self, piece: TokenOutput) -> bool:
        """Whether the text ends with this piece."""
        return piece.finish_reason is not None

    def consumed(self, outcome: Outcome) -> Consumption:
        """Return the tokens so far; the prompt counts unless the engine failed before it gave anything."""
        scheduled, last = self._scheduled, self._last
        if scheduled is None or (last is None and outcome is Outcome.FAILED):
            return Consumption(is_counted=False)
        prompt = len(scheduled.request.prompt_token_ids)
        completion = last.completion_tokens if last else 0
        resources = ResourceUsage()
        if last is not None:
            compute = round(last.compute_seconds * 1000)
            resources = ResourceUsage(compute_time_ms=compute, memory_peak_bytes=last.peak_kv_bytes)
        return Consumption(
            quantities=UsageQuantities(input_tokens=prompt, output_tokens=completion),
            resources=resources,
            tokens=prompt + completion,
            course=_course(last),
        )


def _course(last: TokenOutput | None) -> Course | None:
    if last is None:
        return None
    return Course(
        queue_seconds=last.queue_seconds,
        prompt_tokens=last.prompt_tokens,
        cached_tokens=last.cached_tokens,
        finish_reason=last.finish_reason,
    )


class EmbedTexts(OnEngines):
    """The customer's request to turn texts into vectors."""

    operation = OperationType.EMBEDDING
    scope = Scope.INFERENCE

    def __init__(
        self,
        service: InferenceService,
        *,
        request_id: str,
        model: str,
        inputs: tuple[str | tuple[int, ...], ...],
        version: Version | None = None,
    ) -> None:
        super().__init__(service, model=model, version=version)
        self._request_id = request_id
        self._inputs = inputs
        self._scheduled: ScheduledEmbedding | None = None
        self._output: EmbeddingOutput | None = None

    async def admit(self, context: TenantContext) -> int:
        """Count the inputs in tokens."""
        self._scheduled = await self._service.schedule_embedding(
            context, lease=await self._hold(context), request_id=self._request_id, inputs=self._inputs
        )
        return self._scheduled.largest_tokens

    async def execute(self) -> AsyncGenerator[EmbeddingOutput, None]:
        """Yield the one answer."""
        assert self._scheduled is not None  # noqa: S101 - the gateway admits first
        self._output = await self._service.execute_embedding(self._scheduled)
        yield self._output

    def is_last(self, piece: EmbeddingOutput) -> bool:  # noqa: ARG002 - there is only one
        """Whether nothing follows: always."""
        return True

    def consumed(self, outcome: Outcome) -> Consumption:
        """Return the tokens; nothing counts if it failed."""
        if self._scheduled is None or outcome is Outcome.FAILED:
            return Consumption(is_counted=False)
        tokens = self._scheduled.largest_tokens
        compute = round(self._output.compute_seconds * 1000) if self._output else 0
        return Consumption(
            quantities=UsageQuantities(embedding_tokens=tokens),
            resources=ResourceUsage(compute_time_ms=compute),
            tokens=tokens,
        )
