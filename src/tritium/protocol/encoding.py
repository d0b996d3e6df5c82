"""Answers that go out compressed, where the client takes it: JSON in zstd or gzip, streams as they are."""

from __future__ import annotations

import asyncio
import gzip
import sys
from typing import TYPE_CHECKING

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Less than a packet stays as it is; more than a few packets is compressed beside the event loop.
LEAST_BYTES = 1024
ASIDE_BYTES = 2**15
_GZIP_LEVEL = 5


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=_GZIP_LEVEL, mtime=0)


# Best first.
_ENCODERS: dict[str, Callable[[bytes], bytes]] = {"zstd": zstd.compress, "gzip": _gzip}


class AnswerEncoding:
    """Compresses answers below a path that come in one piece.

    A page that mixes secrets with what a stranger may write must not be compressed: its length would tell.
    Answers of a model to the caller's own request hold no secret of somebody else.
    """

    def __init__(self, app: ASGIApp, *, path: str) -> None:
        self._app = app
        self._path = path

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"].startswith(self._path):
            send = _EncodedAnswer(send, coding=best_coding(_accepted(scope)))
            scope.setdefault("state", {})["answer_encoding"] = send
        return self._app(scope, receive, send)


class _EncodedAnswer:
    """Holds the head of an answer until its first part shows whether it comes in one piece."""

    def __init__(self, send: Send, *, coding: str | None) -> None:
        self._send = send
        self._coding = coding
        self._head: Message | None = None
        self._last: tuple[bytes, bytes] | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_json(message):
            self._head = message
            return
        if self._head is not None:
            head, self._head = self._head, None
            head, message = await self._encoded(head, message)
            await self._send(head)
        await self._send(message)

    async def _encoded(self, head: Message, message: Message) -> tuple[Message, Message]:
        headers = [*head["headers"], (b"vary", b"Accept-Encoding")]
        body = message.get("body", b"")
        encoded = body if message.get("more_body", False) else await self.encode(body)
        if self._coding is None or encoded is body:
            return {**head, "headers": headers}, message
        headers = [
            *((name, value) for name, value in headers if name.lower() != b"content-length"),
            (b"content-encoding", self._coding.encode()),
            (b"content-length", str(len(encoded)).encode()),
        ]
        return {**head, "headers": headers}, {**message, "body": encoded}

    async def encode(self, body: bytes) -> bytes:
        """Return a body as it goes out in one piece; the same object is compressed once."""
        if self._coding is None or len(body) < LEAST_BYTES:
            return body
        if self._last is None or self._last[0] is not body:
            encode = _ENCODERS[self._coding]
            encoded = await asyncio.to_thread(encode, body) if len(body) > ASIDE_BYTES else encode(body)
            self._last = body, encoded
        return self._last[1]


async def length_as_sent(scope: Scope, body: bytes) -> int:
    """Return how many bytes a JSON body in one piece has when it goes out."""
    encoding: _EncodedAnswer | None = scope.get("state", {}).get("answer_encoding")
    return len(body) if encoding is None else len(await encoding.encode(body))


def best_coding(accepted: str) -> str | None:
    """Return the coding to use for an Accept-Encoding (RFC 9110, section 12.5.3); None for none.

    What cannot be read is passed over: an answer that is not compressed is always right.
    """
    if not accepted:
        return None
    weights: dict[str, float] = {}
    for part in accepted.lower().split(","):
        name, _, parameter = part.strip().partition(";")
        key, _, value = parameter.strip().partition("=")
        try:
            weights[name.strip()] = float(value) if key.strip() == "q" else 1.0
        except ValueError:
            weights[name.strip()] = 0.0
    offered = {name: weights.get(name, weights.get("*", 0.0)) for name in _ENCODERS}
    best = max(offered, key=lambda name: offered[name])
    return best if offered[best] > 0 else None


def _accepted(scope: Scope) -> str:
    return b",".join(value for name, value in scope["headers"] if name == b"accept-encoding").decode(
        "latin-1"
    )


def _is_json(head: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"application/json")
        for name, value in head["headers"]
    )
