"""The OpenAI routes over the gateway: the wire format of the library's own server, with the books kept."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from tritium.engine.prompt import ChatMessage
from tritium.errors import PlatformError
from tritium.protocol.calls import ModelCard, ModelNotFoundError
from tritium_platform.api.deps import bearer_token
from tritium_platform.api.ratelimits import REFUSALS_BY_LIMIT, limit_headers, month_after
from tritium_platform.errors import NotFoundError
from tritium_platform.metering.model import OperationType
from tritium_platform.passage import Passage
from tritium_platform.serving.engine_work import EmbedTexts, GenerateText
from tritium_platform.serving.idempotency import event_id_of
from tritium_platform.serving.pool import Version
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from fastapi import Request

    from tritium.engine.prompt import TokenizedPrompt
    from tritium.engine.request import EmbeddingOutput, TokenOutput
    from tritium.protocol.calls import EmbeddingCall, GenerationCall, TokenizeCall
    from tritium_platform.api.traffic import HttpTraffic
    from tritium_platform.compose import Platform
    from tritium_platform.passage import CustomerRequest
    from tritium_platform.serving.inference import InferenceService
    from tritium_platform.tenancy.model import TenantContext


Call = TypeVar("Call", "GenerationCall", "EmbeddingCall")


@dataclass(frozen=True, kw_only=True)
class HttpCaller:
    """The principal of a wire request: who calls, with which key, and where to tell about limits and work.

    `kept_request_id` is that of a request with an idempotency key: however often it runs, it counts once.
    `names` and `version` hold what the request's model stood for when it was first asked: a request with
    several prompts or choices is one, and neither an alias that is turned nor a swap parts them.
    """

    context: TenantContext
    token: str
    request_id: str
    headers: dict[str, str]
    passages: list[Passage[Any]]
    traffic: HttpTraffic
    kept_request_id: UUID | None = None
    names: dict[str, str] = field(default_factory=dict)
    version: Version = field(default_factory=Version)


class GatewayBackend:
    """Runs the calls of the OpenAI routes through the gateway."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def principal_of(self, request: Request) -> HttpCaller:
        """Return who calls; raises AuthenticationError."""
        token = bearer_token(request)
        context = await self._platform.gateway.authenticate(token)
        request.state.caller = context
        # The outermost layer adds these to whatever the answer is, a refusal included.
        request.state.rate_limit_headers = headers = dict[str, str]()
        request.state.passages = passages = list[Passage[Any]]()
        return HttpCaller(
            context=context,
            token=token,
            request_id=request.state.request_id,
            headers=headers,
            passages=passages,
            traffic=request.state.traffic,
            kept_request_id=getattr(request.state, "kept_request_id", None),
        )

    async def models(self, principal: object) -> Sequence[ModelCard]:
        """Return the caller's deployments and aliases: their names are what `model` may say."""
        context = _caller(principal).context
        deployments = await self._platform.deployments.list(context.tenant_id)
        cards = [
            ModelCard(
                id=deployment.name,
                created=int(deployment.created_at.timestamp()),
                owned_by=context.organization_name,
            )
            for deployment in deployments
        ]
        cards += [
            ModelCard(
                id=alias.name,
                created=int(alias.changed_at.timestamp()),
                owned_by=context.organization_name,
                root=self._platform.inference.name_of(context, alias.name),
            )
            for alias in await self._platform.aliases.list(context.tenant_id)
        ]
        return cards

    async def generate(self, calls: Sequence[GenerationCall]) -> Sequence[Passage[TokenOutput]]:
        """Admit the generations together; iterating a passage runs it."""
        caller = _caller(calls[0].principal)
        works = [
            text_work(self._platform.inference, self._renamed(call), version=caller.version) for call in calls
        ]
        return await self._process(works, caller=caller)

    async def embed(self, call: EmbeddingCall) -> EmbeddingOutput:
        """Embed the inputs of one call."""
        caller = _caller(call.principal)
        work = embedding_work(self._platform.inference, self._renamed(call), version=caller.version)
        (passage,) = await self._process([work], caller=caller)
        return await anext(passage)

    async def settle(self, request: Request, num_bytes: int) -> None:
        """Settle what the answer was made of, before the last bytes of its body go out, which are so many."""
        traffic: HttpTraffic = request.state.traffic
        traffic.announced = num_bytes
        passages: list[Passage[Any]] = request.state.passages
        if len(passages) > 1:  # side by side: what is kept durably together costs as much as one
            await asyncio.gather(*(passage.finish() for passage in passages))
        elif passages:
            await passages[0].finish()

    async def tokenize(self, call: TokenizeCall) -> TokenizedPrompt:
        """Return the tokens of a prompt; whoever may use the model may count, and nothing is charged."""
        context = _caller(call.principal).context
        try:
            return await self._platform.inference.tokenize(context, model=call.model, prompt=call.prompt)
        except NotFoundError:
            raise no_such_model(call.model) from None

    def served_name(self, principal: object, model: str) -> str:
        """Return the deployment this request gets: of an alias, what it stood for when first asked."""
        caller = _caller(principal)
        if model not in caller.names:
            caller.names[model] = self._platform.inference.name_of(caller.context, model)
        return caller.names[model]

    def _renamed(self, call: Call) -> Call:
        return replace(call, model=self.served_name(call.principal, call.model))

    def response_headers(self, principal: object) -> Mapping[str, str]:  # noqa: ARG002 - the protocol's signature
        """Return nothing: the limits are known only when a call is admitted, see `principal_of`."""
        return {}

    async def _process(
        self, works: Sequence[CustomerRequest[Any]], *, caller: HttpCaller
    ) -> Sequence[Passage[Any]]:
        kept = caller.kept_request_id
        event_ids = None if kept is None else [event_id_of(kept, index=place) for place in range(len(works))]
        try:
            passages = await self._platform.gateway.process_customer_requests(
                works,
                token=caller.token,
                request_id=caller.request_id,
                event_ids=event_ids,
                traffic=caller.traffic,
            )
        except NotFoundError:
            raise no_such_model(works[0].model) from None
        except REFUSALS_BY_LIMIT as error:
            allowance = self._platform.books.quotas.allowance(caller.context)
            caller.headers.update(limit_headers(replace(allowance, month=month_after(error))))
            raise
        caller.headers.update(limit_headers(passages[0].admission.allowance))
        caller.passages.extend(passages)
        return passages


def text_work(
    inference: InferenceService, call: GenerationCall, *, version: Version | None = None
) -> GenerateText:
    """Return the work of a call."""
    is_chat = isinstance(call.prompt, tuple) and isinstance(call.prompt[0], ChatMessage)
    return GenerateText(
        inference,
        operation=OperationType.CHAT if is_chat else OperationType.COMPLETION,
        # The wire's id may be the client's choice; two clients may choose the same.
        request_id=uuid7().hex,
        model=call.model,
        prompt=call.prompt,
        sampling=call.sampling,
        tool_use=call.tool_use,
        priority=call.priority,
        version=version,
    )


def embedding_work(
    inference: InferenceService, call: EmbeddingCall, *, version: Version | None = None
) -> EmbedTexts:
    """Return the work of a call."""
    return EmbedTexts(
        inference, request_id=uuid7().hex, model=call.model, inputs=call.inputs, version=version
    )


def no_such_model(model: str) -> ModelNotFoundError:
    """Return what is raised for a model that is not there, or not there for this caller."""
    return ModelNotFoundError(
        "There is no such model; GET /v1/models lists those you may use.", param="model", model=model
    )


def _caller(principal: object) -> HttpCaller:
    if not isinstance(principal, HttpCaller):
        raise PlatformError("A call came without its caller.")
    return principal
