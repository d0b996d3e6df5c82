"""Stands before the routes that cost: a request with an `Idempotency-Key` runs once, its answer is kept.

With a key the work goes on when the client leaves: whoever asks again gets the answer that was paid for. A
stream is kept as the events that went out, and given again in one piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import Request, Response

from tritium_platform.api.deps import bearer_token
from tritium_platform.api.problems import IdempotencyKeyMalformedError, refusal_response
from tritium_platform.errors import BitNetServiceError
from tritium_platform.serving.idempotency import LEASE_SECONDS, MOST_ANSWER_BYTES, KeptRequest, StoredAnswer
from tritium_platform.tenancy.model import Scope as KeyScope

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from tritium_platform.compose import Platform
    from tritium_platform.serving.idempotency import IdempotencyService

_log = structlog.get_logger(__name__)
KEYED_PATHS = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"}
KEPT_HEADERS = {b"content-type", b"cache-control"}
KEY_HEADER = "Idempotency-Key"
LONGEST_KEY = 255
# The draft's form is a string of structured fields; most clients send their characters without the quotes.
_QUOTED = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])+)"')
_PLAIN = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+")


class IdempotentAnswers:
    """Runs requests with a key once, and answers the others from what was kept."""

    def __init__(self, app: ASGIApp, *, platform: Platform) -> None:
        self._app = app
        self._platform = platform

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request; one without a key goes straight on."""
        is_keyed = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in KEYED_PATHS
        values = [value for name, value in scope["headers"] if name == b"idempotency-key"] if is_keyed else []
        if not values:
            return self._app(scope, receive, send)
        return self._serve(values, scope, receive, send)

    async def _serve(self, values: list[bytes], scope: Scope, receive: Receive, send: Send) -> None:
        try:
            context = await self._platform.gateway.authenticate(bearer_token(Request(scope)))
            context.require(KeyScope.INFERENCE)
        except BitNetServiceError:
            await self._app(scope, receive, send)  # which refuses it, as it does without a key
            return
        try:
            key = parse_key(values)
            body = await _whole_body(receive)
            if body is None:
                return
            request = (scope["path"].encode(), body)
            kept = await self._platform.idempotency.begin(context, key=key, request=request)
        except BitNetServiceError as error:
            scope["state"] |= {"caller": context, "refusal": error}
            await refusal_response(scope, error)(scope, receive, send)
            return
        if isinstance(kept, StoredAnswer):
            scope["state"]["caller"] = context
            await _given_again(kept)(scope, receive, send)
            return
        scope["state"]["kept_request_id"] = kept.id
        await self._run(kept, scope=scope, body=body, send=send)

    async def _run(self, kept: KeptRequest, *, scope: Scope, body: bytes, send: Send) -> None:
        service = self._platform.idempotency
        answer = _KeptAnswer(kept, service=service, state=scope["state"], send=send)
        renewing = asyncio.create_task(_renew(service, kept), name=f"renew {kept.id}")
        try:
            await self._app(scope, _BodyOfNobodyWhoLeaves(body), answer)
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            if not answer.is_over:
                await asyncio.shield(_quietly(service.abandon(kept)))


class _BodyOfNobodyWhoLeaves:
    """Receives the body that was read already, and then never hears that the client has left."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __call__(self) -> Message:
        if self._body is None:
            await asyncio.Event().wait()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _KeptAnswer:
    """Passes an answer on; before its last part goes out it is kept, or the key of a refused one is freed."""

    def __init__(
        self, kept: KeptRequest, *, service: IdempotencyService, state: dict[str, Any], send: Send
    ) -> None:
        self._kept = kept
        self._service = service
        self._state = state
        self._send = send
        self._body = bytearray()
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self.is_over = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in message["headers"]
                if name.lower() in KEPT_HEADERS
            ]
        elif message["type"] == "http.response.body":
            if len(self._body) <= MOST_ANSWER_BYTES:  # beyond, it is not kept: one byte more says so
                self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._end()
        await self._send(message)

    async def _end(self) -> None:
        if HTTPStatus.BAD_REQUEST <= self._status < HTTPStatus.INTERNAL_SERVER_ERROR:
            self.is_over = True  # it was refused before anything was used
            await _quietly(self._service.release(self._kept))
        elif self._status == HTTPStatus.OK and self._state.get("refusal") is None:
            self.is_over = True
            await self._keep()

    async def _keep(self) -> None:
        answer = StoredAnswer(
            status=self._status,
            headers=tuple(self._headers),
            body=bytes(self._body),
            request_id=self._state["request_id"],
        )
        try:
            if not await self._service.finish(self._kept, answer):
                _log.warning("idempotent_answer_late", request=str(self._kept.id))
        except BitNetServiceError as error:
            # The client gets its answer. Whoever asks again runs it anew, and is not billed again.
            _log.warning("idempotent_answer_lost", code=error.code, reason=error.message)


def parse_key(values: list[bytes]) -> str:
    """Return the key of the header's values, without the quotes of its standard form.

    Raises:
        IdempotencyKeyMalformedError: there are several, or it is no string of 1 to 255 ASCII characters.
    """
    value = values[0].decode("latin-1").strip()
    quoted = _QUOTED.fullmatch(value)
    if quoted is not None:
        value = re.sub(r'\\(["\\])', r"\1", quoted[1])
    is_key = quoted is not None or _PLAIN.fullmatch(value) is not None
    if len(values) > 1 or not is_key or len(value) > LONGEST_KEY:
        raise IdempotencyKeyMalformedError(
            f'{KEY_HEADER} must be one string of 1 to {LONGEST_KEY} ASCII characters, such as "8e03978e".',
            param=KEY_HEADER,
        )
    return value


async def _whole_body(receive: Receive) -> bytes | None:
    """Read the body; None if the client has left before its end."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def _renew(service: IdempotencyService, kept: KeptRequest) -> None:
    while True:
        await asyncio.sleep(LEASE_SECONDS / 3)
        with contextlib.suppress(BitNetServiceError):  # the next turn comes before the lease is over
            await service.renew(kept)


async def _quietly(end: Awaitable[bool]) -> None:
    try:
        await end
    except BitNetServiceError as error:  # then the key is free when the lease is over
        _log.warning("idempotency_key_not_released", code=error.code, reason=error.message)


def _given_again(answer: StoredAnswer) -> Response:
    headers = {**dict(answer.headers), "idempotency-replayed": "true", "original-request": answer.request_id}
    return Response(answer.body, status_code=answer.status, headers=headers)
