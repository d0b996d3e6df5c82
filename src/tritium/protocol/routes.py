"""The OpenAI routes: read the wire form, ask the backend, write the wire form."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from tritium.errors import BitNetServiceError
from tritium.protocol.calls import model_not_found
from tritium.protocol.chat import ChatAnswer, chat_calls
from tritium.protocol.completions import CompletionAnswer, completion_calls
from tritium.protocol.embeddings import embedding_answer, embedding_call
from tritium.protocol.encoding import length_as_sent
from tritium.protocol.envelope import error_envelope
from tritium.protocol.responses import ResponsesAnswer
from tritium.protocol.responses_request import ResponsesRequest
from tritium.protocol.schemas import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationBody,
    RequestTooLargeError,
    TokenizeRequest,
    WireRequest,
    parse_body,
)
from tritium.protocol.stream import EventStream, Fanout, run_until_client_leaves
from tritium.protocol.tokenize import tokenize_answer, tokenize_call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from tritium.protocol.calls import GenerationCall, InferenceBackend, ModelCard
    from tritium.protocol.stream import AnswerForm, Envelope

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 8 * 2**20
CLIENT_CLOSED_REQUEST = 499  # nobody reads it; it only appears in an access log
_Body = TypeVar("_Body", bound=WireRequest)
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_Responses = dict[int | str, dict[str, Any]]
_REFUSAL = {
    "description": "What is wrong with the request",
    "content": {"application/json": {"schema": _ERROR}},
}
_FAILURE = {"description": "What went wrong here", "content": {"application/json": {"schema": _ERROR}}}
_STREAM: _Responses = {200: {"content": {"text/event-stream": {}}}}


async def no_principal(request: Request) -> object:  # noqa: ARG001 - the signature of a `principal_of`
    """Let everybody in."""
    return None


async def nothing_to_do(request: Request, num_bytes: int) -> None:
    """Let the end of the answer go out."""


def request_id_of(request: Request) -> str:
    """Return the id of a request; `request.state.request_id` if a layer above has given one."""
    if not hasattr(request.state, "request_id"):
        request.state.request_id = uuid.uuid4().hex
    return str(request.state.request_id)


def build_router(
    backend: InferenceBackend,
    *,
    principal_of: Callable[[Request], Awaitable[object]] = no_principal,
    before_end: Callable[[Request, int], Awaitable[None]] = nothing_to_do,
    envelope: Envelope = error_envelope,
) -> APIRouter:
    """Return the routes under /v1.

    Args:
        backend: runs the models.
        principal_of: says who calls (raises AuthenticationError); its answer goes into every call untouched.
        before_end: is waited for before the last bytes of a whole answer's or a stream's body go out, and is
            told how many they are; what it raises goes out instead.
        envelope: turns an error into (status, body, headers).
    """
    return OpenAIRoutes(backend, principal_of=principal_of, before_end=before_end, envelope=envelope).router


class OpenAIRoutes:
    """The routes over one backend."""

    def __init__(
        self,
        backend: InferenceBackend,
        *,
        principal_of: Callable[[Request], Awaitable[object]],
        before_end: Callable[[Request, int], Awaitable[None]],
        envelope: Envelope,
    ) -> None:
        self._backend = backend
        self._principal_of = principal_of
        self._before_end = before_end
        self._envelope = envelope
        self.router = APIRouter(
            prefix="/v1", route_class=_envelope_route(envelope), responses={"4XX": _REFUSAL, "5XX": _FAILURE}
        )
        add = self.router.add_api_route
        add("/models", self.list_models, methods=["GET"], response_model=None)
        add("/models/{model_id:path}", self.get_model, methods=["GET"], response_model=None)
        for path, endpoint, schema in (
            ("/chat/completions", self.chat_completions, ChatCompletionRequest),
            ("/completions", self.completions, CompletionRequest),
            ("/responses", self.responses, ResponsesRequest),
            ("/embeddings", self.embeddings, EmbeddingRequest),
            ("/tokenize", self.tokenize, TokenizeRequest),
        ):
            add(
                path,
                endpoint,
                methods=["POST"],
                response_model=None,
                responses=_STREAM if "stream" in schema.model_fields else None,
                openapi_extra=_body_schema(schema),
            )

    async def list_models(self, request: Request) -> Response:
        """List the models this caller may use."""
        principal = await self._principal_of(request)
        cards = await self._backend.models(principal)
        return await self._json(
            request, {"object": "list", "data": [_card_object(card) for card in cards]}, principal
        )

    async def get_model(self, request: Request, model_id: str) -> Response:
        """Show one model."""
        principal = await self._principal_of(request)
        for card in await self._backend.models(principal):
            if card.id == model_id:
                return await self._json(request, _card_object(card), principal)
        raise model_not_found()

    async def chat_completions(self, request: Request) -> Response:
        """Answer a chat."""
        principal, body = await self._read(request, ChatCompletionRequest)
        request_id = request_id_of(request)
        calls = chat_calls(body, request_id=request_id, principal=principal)
        form = ChatAnswer(
            request_id=request_id,
            model=self._backend.served_name(principal, body.model),
            created=int(time.time()),
            tool_use=body.tool_use,
            includes_usage=body.includes_usage,
        )
        return await self._answer(request, body, calls, form)

    async def completions(self, request: Request) -> Response:
        """Continue one or more prompts."""
        principal, body = await self._read(request, CompletionRequest)
        request_id = request_id_of(request)
        calls = completion_calls(body, request_id=request_id, principal=principal)
        form = CompletionAnswer(
            request_id=request_id,
            model=self._backend.served_name(principal, body.model),
            created=int(time.time()),
            includes_usage=body.includes_usage,
        )
        return await self._answer(request, body, calls, form)

    async def responses(self, request: Request) -> Response:
        """Answer a chat in the form of the Responses API; nothing is stored."""
        principal, body = await self._read(request, ResponsesRequest)
        request_id, chat = request_id_of(request), body.as_chat()
        calls = chat_calls(chat, request_id=request_id, principal=principal)
        served = body.model_copy(update={"model": self._backend.served_name(principal, body.model)})
        form = ResponsesAnswer(
            served, request_id=request_id, created=int(time.time()), tool_use=chat.tool_use
        )
        return await self._answer(request, chat, calls, form)

    async def embeddings(self, request: Request) -> Response:
        """Turn texts into vectors."""
        principal, body = await self._read(request, EmbeddingRequest)
        call = embedding_call(body, request_id=request_id_of(request), principal=principal)
        output = await run_until_client_leaves(self._backend.embed(call), request.receive)
        if output is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        model = self._backend.served_name(principal, body.model)
        return await self._json(request, embedding_answer(body, output, model=model), principal)

    async def tokenize(self, request: Request) -> Response:
        """Count the tokens of a prompt or a chat, and list them; nothing is charged."""
        principal, body = await self._read(request, TokenizeRequest)
        prompt = await self._backend.tokenize(tokenize_call(body, principal=principal))
        return await self._json(request, tokenize_answer(body, prompt), principal)

    async def _answer(
        self, request: Request, body: GenerationBody, calls: Sequence[GenerationCall], form: AnswerForm
    ) -> Response:
        principal = calls[0].principal
        fanout = Fanout(self._backend, calls, choices_per_prompt=body.n or 1)
        is_handed_over = False
        try:
            if body.stream:
                is_handed_over = bool(await run_until_client_leaves(fanout.begin(), request.receive))
                if not is_handed_over:
                    return Response(status_code=CLIENT_CLOSED_REQUEST)
                return EventStream(
                    fanout,
                    form,
                    # Asked for now: the backend knows the caller's limits once it has admitted the call.
                    headers=self._headers(request, principal),
                    before_end=partial(self._before_end, request),
                    envelope=self._envelope,
                )
            choices = await run_until_client_leaves(fanout.drain(), request.receive)
            if choices is None:
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            return await self._json(
                request,
                form.whole(choices, prompt_tokens=fanout.prompt_tokens, cached_tokens=fanout.cached_tokens),
                principal,
            )
        finally:
            if not is_handed_over:
                await asyncio.shield(fanout.aclose())

    async def _read(self, request: Request, schema: type[_Body]) -> tuple[object, _Body]:
        # The caller is known before the body is looked at: strangers learn nothing and cost nothing.
        principal = await self._principal_of(request)
        return principal, parse_body(schema, await _bounded_body(request))

    async def _json(self, request: Request, content: object, principal: object) -> Response:
        body = msgspec.json.encode(content)
        await self._before_end(request, await length_as_sent(request.scope, body))
        return Response(
            body,
            headers=self._headers(request, principal),
            media_type="application/json",
        )

    def _headers(self, request: Request, principal: object) -> dict[str, str]:
        return {**self._backend.response_headers(principal), "x-request-id": request_id_of(request)}


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise RequestTooLargeError(
                f"The body is larger than {MAX_BODY_BYTES} bytes.", limit=MAX_BODY_BYTES
            )
    return bytes(body)


def _card_object(card: ModelCard) -> dict[str, object]:
    shown = {"id": card.id, "object": "model", "created": card.created, "owned_by": card.owned_by}
    return shown if card.root is None else {**shown, "root": card.root}


def _body_schema(schema: type[WireRequest]) -> dict[str, object]:
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _inlined(schema.model_json_schema(), {})}},
        }
    }


def _inlined(part: Any, definitions: Mapping[str, object]) -> Any:
    """Return a schema with each definition where it is used: references would point outside of it."""
    if isinstance(part, list):
        return [_inlined(each, definitions) for each in part]
    if not isinstance(part, dict):
        return part
    definitions = part.get("$defs", definitions)
    if "$ref" in part:
        return _inlined(definitions[part["$ref"].removeprefix("#/$defs/")], definitions)
    return {
        name: _inlined(value, definitions)
        for name, value in part.items()
        if name not in {"$defs", "discriminator"}
    }


def _envelope_route(envelope: Envelope) -> type[APIRoute]:
    """Return a route class that turns every error into the wire's envelope."""

    class EnvelopeRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            async def answer(request: Request) -> Response:
                try:
                    # Called as it is: these routes read the request themselves, there is nothing to inject.
                    return cast("Response", await self.endpoint(request, **request.path_params))
                except Exception as error:
                    if not isinstance(error, BitNetServiceError):
                        logger.exception("request %s failed", request_id_of(request))
                    return error_response(request, error, envelope=envelope)

            return answer

    return EnvelopeRoute


def error_response(
    request: Request, error: BaseException, *, envelope: Envelope = error_envelope
) -> JSONResponse:
    """Write an error as the envelope, with the request's id; `request.state.refusal` tells layers above."""
    request.state.refusal = error
    status, body, headers = envelope(error)
    return JSONResponse(body, status_code=status, headers={**headers, "x-request-id": request_id_of(request)})
