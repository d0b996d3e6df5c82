"""Inference for tenants: from a call to exact prompt tokens, to a replica, to counted output."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.engine.prompt import encode_prompt, tokenized
from tritium.engine.request import GenerationRequest
from tritium.engine.tools import require_call
from tritium_platform.errors import ValidationError
from tritium_platform.serving import policy
from tritium_platform.serving.model import ModelKind
from tritium_platform.serving.pool import Version
from tritium_platform.tenancy.model import TIER_WEIGHTS, Scope

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from uuid import UUID

    from tritium.engine.prompt import Prompt, TokenizedPrompt
    from tritium.engine.request import EmbeddingOutput, SamplingParams, TokenOutput
    from tritium.engine.tools import ToolUse
    from tritium.model.tokenizer import Tokenizer
    from tritium_platform.serving.aliases import AliasService
    from tritium_platform.serving.deployments import DeploymentService, ModelRegistry
    from tritium_platform.serving.model import Deployment, ModelFacts
    from tritium_platform.serving.pool import Lease
    from tritium_platform.tenancy.model import TenantContext

# Longer texts are tokenised beside the event loop, so that one caller's book does not stall the others.
_LONG_PROMPT_CHARACTERS = 16_384
_MOST_TOKENIZERS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduledGeneration:
    """A generation that may run: the engines it holds, its exact prompt, and the most tokens it can use."""

    lease: Lease
    request: GenerationRequest
    largest_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduledEmbedding:
    """An embedding that may run: the engines it holds and its exact inputs."""

    lease: Lease
    request_id: str
    token_ids: tuple[tuple[int, ...], ...]

    @property
    def largest_tokens(self) -> int:
        """The tokens of all inputs together."""
        return sum(len(ids) for ids in self.token_ids)


class InferenceService:
    """Schedules and executes inference on the deployments of tenants."""

    def __init__(
        self,
        *,
        deployments: DeploymentService,
        registry: ModelRegistry,
        aliases: AliasService,
        load_tokenizer: Callable[[str], Tokenizer],
    ) -> None:
        self._deployments = deployments
        self._registry = registry
        self._aliases = aliases
        self._load_tokenizer = load_tokenizer
        self._tokenizers: dict[UUID, asyncio.Future[Tokenizer]] = {}

    def name_of(self, context: TenantContext, model: str) -> str:
        """Return what an alias of the tenant stands for now; any other name stands for itself."""
        return self._aliases.resolve(context.tenant_id, model)

    async def hold(self, context: TenantContext, *, model: str, version: Version | None = None) -> Lease:
        """Find the deployment of a request and hold its engines, loaded if they were not; release it later.

        `version` is shared by the parts of one request: all of them get the engines of the first.

        Raises:
            NotFoundError: the tenant has no such deployment.
            InsufficientMemoryError: it does not fit into memory beside what is pinned.
            EngineUnavailableError: it cannot be loaded, or not in time.
        """
        name = self.name_of(context, model)
        lease = await self._deployments.lease(context.tenant_id, name, version=version or Version())
        lease.pool.note_tier(context.tier)
        return lease

    async def schedule_generation(
        self,
        context: TenantContext,
        *,
        lease: Lease,
        request_id: str,
        prompt: Prompt,
        sampling: SamplingParams,
        tool_use: ToolUse | None = None,
        priority: int = 0,
    ) -> ScheduledGeneration:
        """Count the prompt exactly, before anything is reserved.

        Among the tenant's own requests the lower priority comes first; its tier is its weight among tenants.

        Raises:
            ValidationError: the model does not generate, or the prompt is empty or too long.
            EngineUnavailableError: no replica is ready.
        """
        facts, tokenizer = await self._know(context, lease, kind=ModelKind.GENERATE)
        sampling.require_vocabulary(facts.vocabulary_size)
        sampling = require_call(sampling, tool_use, tokenizer=tokenizer)
        token_ids = await _encode(tokenizer, prompt, context_limit=facts.maximum_positions, tool_use=tool_use)
        largest = policy.require_context(
            prompt_tokens=len(token_ids),
            max_tokens=sampling.max_tokens,
            context_limit=facts.maximum_positions,
        )
        request = GenerationRequest(
            request_id=request_id,
            prompt_token_ids=token_ids,
            sampling=sampling,
            cache_salt=str(context.tenant_id),  # a tenant shares prefixes with itself alone
            tenant=str(context.tenant_id),
            weight=TIER_WEIGHTS[context.tier],
            priority=priority,
        )
        return ScheduledGeneration(lease=lease, request=request, largest_tokens=largest)

    async def schedule_embedding(
        self,
        context: TenantContext,
        *,
        lease: Lease,
        request_id: str,
        inputs: tuple[str | tuple[int, ...], ...],
    ) -> ScheduledEmbedding:
        """Count the inputs exactly; raises as `schedule_generation` does."""
        facts, tokenizer = await self._know(context, lease, kind=ModelKind.EMBED)
        limit = facts.maximum_positions
        token_ids = tuple([await _encode(tokenizer, text, context_limit=limit) for text in inputs])
        longest = max(map(len, token_ids), default=0)
        if longest > facts.maximum_positions:
            raise policy.context_exceeded("An input", tokens=longest, context_limit=facts.maximum_positions)
        return ScheduledEmbedding(lease=lease, request_id=request_id, token_ids=token_ids)

    async def tokenize(self, context: TenantContext, *, model: str, prompt: Prompt) -> TokenizedPrompt:
        """Return the tokens that a deployment reads for a prompt; raises as `hold` and scheduling do."""
        context.require(Scope.INFERENCE)
        lease = await self.hold(context, model=model)
        try:
            facts, tokenizer = await self._know(context, lease)
        finally:
            lease.release()
        token_ids = await _encode(tokenizer, prompt, context_limit=facts.maximum_positions)
        return tokenized(tokenizer, token_ids, context_limit=facts.maximum_positions)

    async def execute_generation(self, scheduled: ScheduledGeneration) -> AsyncGenerator[TokenOutput, None]:
        """Yield the tokens; closing the iterator cancels the work in the engine."""
        async with contextlib.aclosing(scheduled.lease.pool.generate(scheduled.request)) as outputs:
            async for output in outputs:
                yield output

    async def execute_embedding(self, scheduled: ScheduledEmbedding) -> EmbeddingOutput:
        """Return the vectors."""
        return await scheduled.lease.pool.embed(scheduled.request_id, token_ids=scheduled.token_ids)

    async def _know(
        self, context: TenantContext, lease: Lease, *, kind: ModelKind | None = None
    ) -> tuple[ModelFacts, Tokenizer]:
        deployment = lease.pool.deployment
        facts = lease.pool.choose().status.facts
        if facts is None or kind not in {None, facts.kind}:
            raise ValidationError(
                f"The model {deployment.name} cannot {kind or 'answer'}: it is of another kind.",
                param="model",
            )
        return facts, await self._tokenizer_of(context, deployment)

    async def _tokenizer_of(self, context: TenantContext, deployment: Deployment) -> Tokenizer:
        loading = self._tokenizers.get(deployment.model_id)
        if loading is None:
            registered = await self._registry.get(context.tenant_id, str(deployment.model_id))
            loading = asyncio.ensure_future(asyncio.to_thread(self._load_tokenizer, registered.path))
            self._tokenizers[deployment.model_id] = loading
            while len(self._tokenizers) > _MOST_TOKENIZERS:
                self._tokenizers.pop(next(iter(self._tokenizers)))
        try:
            return await asyncio.shield(loading)
        except Exception:  # whatever it was: the next request tries again
            self._tokenizers.pop(deployment.model_id, None)
            raise


async def _encode(
    tokenizer: Tokenizer, prompt: Prompt, *, context_limit: int, tool_use: ToolUse | None = None
) -> tuple[int, ...]:
    length = len(prompt) if isinstance(prompt, str) else sum(len(str(part)) for part in prompt)
    if length > _LONG_PROMPT_CHARACTERS:
        return await asyncio.to_thread(
            encode_prompt, tokenizer, prompt, context_limit=context_limit, tool_use=tool_use
        )
    return encode_prompt(tokenizer, prompt, context_limit=context_limit, tool_use=tool_use)
