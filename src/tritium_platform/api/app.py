"""The HTTP door: OpenAI's routes under /v1, management under /api/v1, health and metrics beside them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from tritium import __version__
from tritium.protocol.decoding import RequestDecoding
from tritium.protocol.direct import DirectRoutes
from tritium.protocol.encoding import AnswerEncoding
from tritium.protocol.routes import build_router, error_response
from tritium.protocol.schemas import InvalidJsonError
from tritium_platform.api import (
    account,
    aliases,
    batches,
    billing,
    capacity,
    deployments,
    events,
    fairuse,
    files,
    insight,
    invoices,
    models,
    operations,
    payments,
    quantizations,
    recommendations,
    reconciliation,
    security,
    spending,
    tenants,
    uploads,
    webhooks,
)
from tritium_platform.api.batch_lines import BatchDoor
from tritium_platform.api.guard import Guard
from tritium_platform.api.idempotency import KEY_HEADER, IdempotentAnswers
from tritium_platform.api.inference import GatewayBackend
from tritium_platform.api.middleware import RequestEnvelope
from tritium_platform.api.problems import (
    IdempotencyKeyMissingError,
    MethodNotAllowedError,
    openai_envelope,
    problem_response,
    refusal_response,
)
from tritium_platform.api.schemas import PROBLEM_RESPONSES
from tritium_platform.errors import BitNetServiceError, NotFoundError, ValidationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from fastapi import APIRouter, Response

    from tritium_platform.compose import Platform

_OPENAI_ERROR = {"description": "What went wrong, in OpenAI's envelope", "content": {"application/json": {}}}


def create_app(platform: Platform, *, routers: Sequence[APIRouter] = ()) -> FastAPI:
    """Build the app of a platform; it starts the platform when it starts, and stops it when it stops.

    `routers` are other doors on the same port, such as the console.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await platform.start()
        if platform.books.audit is not None:  # one server runs the lines of batches
            platform.batch_work.start(BatchDoor(platform))
        try:
            yield
        finally:
            await platform.batch_work.stop()
            await platform.stop()

    app = FastAPI(
        title="Tritium",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
        # The spans and metrics are ours; asking for each request whether the framework's are wanted costs.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.platform = platform
    backend = GatewayBackend(platform)
    openai = build_router(
        backend,
        principal_of=backend.principal_of,
        before_end=backend.settle,
        envelope=openai_envelope,
    )
    app.include_router(openai, tags=["OpenAI"])
    for resource in (files, batches):
        app.include_router(resource.router, responses={"4XX": _OPENAI_ERROR})
    resources = (
        *(tenants, account, invoices, models, uploads, quantizations, deployments, aliases),
        *(security, spending, billing, payments, reconciliation, recommendations, capacity, fairuse, events),
    )
    for router in (
        *(resource.router for resource in resources),
        aliases.operator_router,
        deployments.operator_router,
        events.operator_router,
        fairuse.operator_router,
        insight.router,
        insight.operator_router,
        insight.customers_router,
        payments.operator_router,
        spending.operator_router,
    ):
        app.include_router(router, responses=PROBLEM_RESPONSES)
    for router in (operations.router, webhooks.router, *routers):
        app.include_router(router)
    app.add_middleware(DirectRoutes, routes=openai.routes)
    app.add_middleware(IdempotentAnswers, platform=platform)
    limit = platform.config.max_request_bytes
    compressed = ("/v1/", *events.PATHS)
    app.add_middleware(RequestDecoding, path=compressed, limit=limit, refuse=refusal_response)
    app.add_middleware(AnswerEncoding, path="/v1/")
    app.add_middleware(Guard, platform=platform)
    app.add_middleware(
        RequestEnvelope,
        max_body_bytes=limit,
        max_upload_bytes=platform.config.max_upload_bytes,
        max_file_bytes=platform.config.max_file_bytes,
    )
    app.add_exception_handler(BitNetServiceError, _answer)
    app.add_exception_handler(RequestValidationError, _answer_wrong_request)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer)
    return app


async def _answer(request: Request, error: Exception) -> Response:
    if request.url.path.startswith("/v1/"):
        return error_response(request, error, envelope=openai_envelope)
    return problem_response(request, error)


async def _answer_wrong_request(request: Request, error: Exception) -> Response:
    """Name the first wrong field; the input is not repeated, for it may be a secret."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    first = problems[0] if problems else {"loc": (), "msg": "the request is wrong", "type": ""}
    place = ".".join(str(part) for part in first["loc"] if part != "body")[:200]
    if first["type"] == "json_invalid":
        return await _answer(request, InvalidJsonError("The body is not valid JSON."))
    if first["type"] == "missing" and first["loc"] == ("header", KEY_HEADER):
        missing = f"This request moves money: it needs the header {KEY_HEADER}, a fresh one for each wish."
        return problem_response(request, IdempotencyKeyMissingError(missing, field=KEY_HEADER))
    message = f"{place or 'body'}: {first['msg']}."
    if request.url.path.startswith("/v1/"):
        return await _answer(request, ValidationError(message, param=place))
    return problem_response(request, ValidationError(message, field=place))


async def _answer_http(request: Request, error: Exception) -> Response:
    """Answer what the framework refuses by itself: no such address, no such method, an unreadable body."""
    status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    if status == HTTPStatus.NOT_FOUND:
        return await _answer(request, NotFoundError("There is nothing at this address."))
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        response = await _answer(request, MethodNotAllowedError("This address does not take that method."))
        response.headers.update(getattr(error, "headers", None) or {})
        return response
    return await _answer(request, ValidationError("The request could not be read."))
