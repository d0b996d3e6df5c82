"""The library's own server: one model behind the OpenAI routes, and no books."""

from __future__ import annotations

import hmac
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tritium.engine.loading import load_engine
from tritium.engine.request import no_generator
from tritium.errors import AuthenticationError, ValidationError
from tritium.protocol.backend import LocalBackend
from tritium.protocol.decoding import RequestDecoding
from tritium.protocol.encoding import AnswerEncoding
from tritium.protocol.routes import MAX_BODY_BYTES, build_router, error_response, no_principal, request_id_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from tritium.engine.config import EngineConfig

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 30.0
MOST_WAITING_SECONDS = 60.0  # people have left by then, and programs try again


def create_app(
    model_path: str | Path,
    *,
    api_key: str | Sequence[str] | None = None,
    served_name: str | None = None,
    threads: int | None = None,
    config: EngineConfig | None = None,
    drain_seconds: float = DRAIN_SECONDS,
    trace: Path | None = None,
) -> FastAPI:
    """Load a model and return the server for it.

    Args:
        model_path: what `LLM` takes.
        api_key: what callers must send as bearer token; of several each is a tenant that has its share of
            the engine and its own prefixes. None lets everybody in.
        served_name: the model's name in requests; None = the last part of the path.
        threads: processor threads; None = as many as the machine has.
        config: budgets of the engine.
        drain_seconds: how long running answers may go on after the server is told to stop.
        trace: the file that a trace of the engine's work is written to.

    Raises:
        ValidationError: the model cannot be loaded, the key is empty, or the trace cannot be written.
    """
    keys = [api_key] if isinstance(api_key, str) else list(api_key or ())
    if not all(key.strip() for key in keys):
        raise ValidationError(
            "The API key is empty: give one, or leave it out to let everybody in.", param="api_key"
        )
    loaded = load_engine(model_path, threads=threads, config=config, trace=trace)
    if trace is not None and loaded.engine is None:
        raise no_generator()
    backend = LocalBackend(loaded, served_name=served_name)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001 - FastAPI's signature
        backend.thread.start()
        yield
        if not await backend.thread.drain(timeout=drain_seconds):
            logger.warning(
                "some answers were cut off: they were not finished %s s after the stop", drain_seconds
            )

    app = FastAPI(title="Tritium", lifespan=lifespan)
    app.state.backend = backend
    app.state.is_ready = True
    app.include_router(build_router(backend, principal_of=_bearer_check(keys)))
    app.add_middleware(RequestDecoding, path="/v1/", limit=MAX_BODY_BYTES, refuse=_refusal)
    app.add_middleware(AnswerEncoding, path="/v1/")
    app.add_middleware(RequestIds)
    app.add_exception_handler(HTTPException, _unknown_route)

    async def health() -> JSONResponse:
        is_ready = app.state.is_ready and backend.thread.is_alive
        return JSONResponse(
            {"status": "ok" if is_ready else "stopping"}, status_code=200 if is_ready else 503
        )

    app.add_api_route("/health", health, methods=["GET"])
    return app


def stop_being_ready(app: FastAPI) -> None:
    """Let `/health` say from now on that the server stops, so that no balancer sends it more."""
    app.state.is_ready = False


class RequestIds:
    """Gives every request an id of its own, and tells it on every answer, whoever wrote it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(Request(scope)).encode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [each for each in message["headers"] if each[0].lower() != b"x-request-id"]
                message = {**message, "headers": [*others, (b"x-request-id", request_id)]}
            await send(message)

        await self._app(scope, receive, send_with_id)


def _bearer_check(keys: Sequence[str]) -> Callable[[Request], Awaitable[object]]:
    if not keys:
        return no_principal
    tenants = {f"bearer {key}".encode(): f"key {place}" for place, key in enumerate(keys, start=1)}

    async def check(request: Request) -> str:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        sent = f"{scheme.lower()} {token.strip()}".encode()
        # Compared in constant time, with all of them: the time of an answer says nothing about the keys.
        found = [tenant for expected, tenant in tenants.items() if hmac.compare_digest(sent, expected)]
        if not found:
            raise AuthenticationError("The API key is missing or wrong: send Authorization: Bearer <key>.")
        return found[0]

    return check


def _refusal(scope: Scope, error: BaseException) -> Response:
    return error_response(Request(scope), error)


async def _unknown_route(request: Request, error: Exception) -> Response:
    """Write the framework's own refusals (no such route, wrong method) in the envelope too."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    detail = str(error.detail) if isinstance(error, HTTPException) else "The server failed."
    code = detail.lower().replace(" ", "_")
    body = {
        "error": {
            "message": f"{detail}: {request.method} {request.url.path}",
            "type": "invalid_request_error",
            "param": None,
            "code": code,
        }
    }
    return JSONResponse(body, status_code=status, headers=headers)
