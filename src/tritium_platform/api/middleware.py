"""What surrounds every request: an id, a bound on the body, headers about limits and time, one log line."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

import structlog

from tritium_platform.adapters.tracing import end_request_span, request_span, trace_id_of
from tritium_platform.api.overhead import overhead_headers
from tritium_platform.api.problems import refusal_response
from tritium_platform.api.traffic import HttpTraffic
from tritium_platform.errors import RequestTooLargeError
from tritium_platform.tenancy.acting import act_for
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = structlog.get_logger(__name__)
UPLOADS = "/api/v1/uploads"
FILES = "/v1/files"
NOTICES = "/webhooks/stripe"
# A notice repeats one object; Stripe's are some thousand bytes.
NOTICE_BYTES = 262_144
# What a form needs besides its file.
FORM_BYTES = 65_536
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestEnvelope:
    """Gives every request an id, bounds its body, and writes one line of log when it is over.

    A client may choose the id by `x-request-id`; for our own books it is only a label, never a key.
    """

    def __init__(
        self, app: ASGIApp, *, max_body_bytes: int, max_upload_bytes: int, max_file_bytes: int
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_bytes_of = {
            UPLOADS: max_upload_bytes,
            FILES: max_file_bytes + FORM_BYTES,
            NOTICES: min(NOTICE_BYTES, max_body_bytes),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode("ascii") if _SANE_ID.fullmatch(given) else uuid7().hex
        traffic = HttpTraffic()
        scope.setdefault("state", {}).update(request_id=request_id, traffic=traffic)
        act_for(None)  # a request on a connection may begin in the context of the one before
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        answer = _Answer(send, scope=scope, request_id=request_id, traffic=traffic)
        with request_span(headers, request_id=request_id, method=scope["method"]) as span:
            trace_id = trace_id_of(span)
            if trace_id is not None:
                structlog.contextvars.bind_contextvars(trace_id=trace_id)
            await self._log(scope, receive, answer, traffic=traffic)
            route = _route_of(scope)
            end_request_span(span, method=scope["method"], route=route, status=answer.status)

    async def _log(self, scope: Scope, receive: Receive, answer: _Answer, *, traffic: HttpTraffic) -> None:
        try:
            await self._serve(scope, receive, answer, traffic=traffic)
        finally:
            _log.info(
                "request",
                method=scope["method"],
                path=_route_of(scope),
                status=answer.status,
                milliseconds=round((time.monotonic() - answer.started) * 1000, 2),
            )

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer, *, traffic: HttpTraffic) -> None:
        limit = self._max_bytes_of.get(scope["path"], self._max_body_bytes)
        bounded = _BoundedBody(receive, limit=limit, traffic=traffic)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            await _refuse(bounded.error(int(declared)), scope, receive, answer)
            return
        try:
            await self._app(scope, bounded, answer)
        except RequestTooLargeError as error:
            if answer.status == 0:
                await _refuse(error, scope, receive, answer)
        finally:
            for passage in scope["state"].get("passages", ()):
                if not passage.is_settled:  # its answer could not be made
                    await asyncio.shield(passage.aclose())


class _Answer:
    """Passes the answer on, counts its bytes, and adds our headers to its head."""

    def __init__(self, send: Send, *, scope: Scope, request_id: str, traffic: HttpTraffic) -> None:
        self._send = send
        self._scope = scope
        self._request_id = request_id
        self._traffic = traffic
        self.status = 0
        self.started = time.monotonic()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            state = self._scope["state"]
            headers = {
                "x-request-id": self._request_id,
                **state.get("rate_limit_headers", {}),
                **overhead_headers(state.get("passages", ()), seconds=time.monotonic() - self.started),
            }
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *(
                    (name.encode(), value.encode())
                    for name, value in headers.items()
                    if name.encode() not in present
                ),
            ]
        else:
            self._traffic.sent += len(message.get("body", b""))
        await self._send(message)


class _BoundedBody:
    """Receives at most `limit` bytes of body, and counts them."""

    def __init__(self, receive: Receive, *, limit: int, traffic: HttpTraffic) -> None:
        self._receive = receive
        self._limit = limit
        self._traffic = traffic

    async def __call__(self) -> Message:
        message = await self._receive()
        self._traffic.received += len(message.get("body", b""))
        if self._traffic.received > self._limit:
            raise self.error(self._traffic.received)
        return message

    def error(self, size: int) -> RequestTooLargeError:
        return RequestTooLargeError(limit_name="bytes of body", limit=self._limit, current=size)


async def _refuse(error: RequestTooLargeError, scope: Scope, receive: Receive, send: Send) -> None:
    await refusal_response(scope, error)(scope, receive, send)


def _route_of(scope: Scope) -> str:
    """Return the template of the route, so that ids and names of tenants stay out of the log."""
    route = scope.get("route")
    return str(getattr(route, "path", "(no route)"))
