"""The OpenAI routes over the gateway: the wire format of the library's own server, with the books kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritium.engine.prompt import ChatMessage
from tritium.errors import PlatformError
from tritium.protocol.calls import ModelCard, ModelNotFoundError
from tritium_platform.api.deps import bearer_token
from tritium_platform.api.ratelimits import headers_of_admission, headers_of_refusal
from tritium_platform.errors import BitNetServiceError, NotFoundError
from tritium_platform.metering.model import OperationType
from tritium_platform.serving.inference import EmbedTexts, GenerateText
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import Request

    from tritium.engine.prompt import TokenizedPrompt
    from tritium.engine.request import EmbeddingOutput, TokenOutput
    from tritium.protocol.calls import EmbeddingCall, GenerationCall, TokenizeCall
    from tritium_platform.compose import Platform
    from tritium_platform.gateway import CustomerRequest, Passage
    from tritium_platform.serving.inference import InferenceService
    from tritium_platform.tenancy.model import TenantContext


@dataclass(frozen=True, kw_only=True)
class HttpCaller:
    """The principal of a wire request: who calls, with which key, and where to tell about the limits."""

    context: TenantContext
    token: str
    request_id: str
    headers: dict[str, str]


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
        return HttpCaller(context=context, token=token, request_id=request.state.request_id, headers=headers)

    async def models(self, principal: object) -> Sequence[ModelCard]:
        """Return the caller's deployments: their names are what `model` may say."""
        caller = _caller(principal)
        deployments = await self._platform.deployments.list(caller.context.tenant_id)
        return [
            ModelCard(
                id=deployment.name,
                created=int(deployment.created_at.timestamp()),
                owned_by=caller.context.organization_name,
            )
            for deployment in deployments
        ]

    async def generate(self, call: GenerationCall) -> Passage[TokenOutput]:
        """Admit one generation; iterating the passage runs it."""
        work = text_work(self._platform.inference, call)
        return await self._process(work, caller=_caller(call.principal))

    async def embed(self, call: EmbeddingCall) -> EmbeddingOutput:
        """Embed the inputs of one call."""
        work = embedding_work(self._platform.inference, call)
        passage = await self._process(work, caller=_caller(call.principal))
        return await anext(passage)

    async def tokenize(self, call: TokenizeCall) -> TokenizedPrompt:
        """Return the tokens of a prompt; whoever may use the model may count, and nothing is charged."""
        context = _caller(call.principal).context
        try:
            return await self._platform.inference.tokenize(context, model=call.model, prompt=call.prompt)
        except NotFoundError:
            raise no_such_model(call.model) from None

    def response_headers(self, principal: object) -> Mapping[str, str]:  # noqa: ARG002 - the protocol's signature
        """Return nothing: the limits are known only when a call is admitted, see `principal_of`."""
        return {}

    async def _process(self, work: CustomerRequest[Any], *, caller: HttpCaller) -> Passage[Any]:
        try:
            passage = await self._platform.gateway.process_customer_request(
                work, token=caller.token, request_id=caller.request_id
            )
        except NotFoundError:
            raise no_such_model(work.model) from None
        except BitNetServiceError as error:
            caller.headers.update(headers_of_refusal(error))
            raise
        caller.headers.update(headers_of_admission(passage.admission))
        return passage


def text_work(inference: InferenceService, call: GenerationCall) -> GenerateText:
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
    )


def embedding_work(inference: InferenceService, call: EmbeddingCall) -> EmbedTexts:
    """Return the work of a call."""
    return EmbedTexts(inference, request_id=uuid7().hex, model=call.model, inputs=call.inputs)


def no_such_model(model: str) -> ModelNotFoundError:
    """Return what is raised for a model that is not there, or not there for this caller."""
    return ModelNotFoundError(
        "There is no such model; GET /v1/models lists those you may use.", param="model", model=model
    )


def _caller(principal: object) -> HttpCaller:
    if not isinstance(principal, HttpCaller):
        raise PlatformError("A call came without its caller.")
    return principal
