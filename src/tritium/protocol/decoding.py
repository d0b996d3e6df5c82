"""Requests whose body comes compressed: gzip and zstd are opened while they are read, within limits.

No more than the limits allow is ever inflated: a body that would become too large, or grows by more than a
text does, is refused at that byte, however large it says it is.
"""

from __future__ import annotations

import sys
import zlib
from typing import TYPE_CHECKING, Protocol

from tritium.errors import BitNetServiceError, ValidationError
from tritium.protocol.schemas import RequestTooLargeError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    Refuse = Callable[[Scope, BitNetServiceError], ASGIApp]

ACCEPTED_CODINGS = "gzip, zstd"
# JSON of a text repeated a thousand times grows 200-fold; bombs grow a thousandfold and more.
MOST_GROWTH = 500
FREE_GROWTH_BYTES = 2**20
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
# A frame may ask for a window of up to 2 GiB of memory; 8 MiB is what the format's standard asks readers for.
_ZSTD_OPTIONS = {int(zstd.DecompressionParameter.window_log_max): 23}


class UnsupportedCodingError(ValidationError):
    """The body comes in a coding that is not read; details: accepted."""


class _Decoder(Protocol):
    """Inflates a body piece by piece."""

    @property
    def eof(self) -> bool:
        """Whether the end of the compressed stream was reached."""

    @property
    def unused_data(self) -> bytes:
        """What came after that end."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Inflate up to so many bytes."""


class RequestDecoding:
    """Opens compressed bodies below a path, and takes the coding out of the headers.

    Args:
        app: what comes behind.
        path: the beginning of the paths it is about, or several.
        limit: the largest body in bytes, opened.
        refuse: returns the answer to an error.
    """

    def __init__(self, app: ASGIApp, *, path: str | tuple[str, ...], limit: int, refuse: Refuse) -> None:
        self._app = app
        self._path = path
        self._limit = limit
        self._refuse = refuse

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request; what is not compressed goes straight on."""
        coding = _coding_of(scope) if scope["type"] == "http" and scope["path"].startswith(self._path) else ""
        if coding in {"", "identity"}:
            return self._app(scope, receive, send)
        return self._serve(coding, scope, receive, send)

    async def _serve(self, coding: str, scope: Scope, receive: Receive, send: Send) -> None:
        if coding not in {"gzip", "x-gzip", "zstd"}:
            error = UnsupportedCodingError(
                f"This Content-Encoding is not read; those are: {ACCEPTED_CODINGS}.",
                accepted=ACCEPTED_CODINGS,
            )
            await self._refuse(scope, error)(scope, receive, send)
            return
        # What follows is about the opened body, whose length nobody knows.
        headers = [
            (name, value)
            for name, value in scope["headers"]
            if name not in {b"content-encoding", b"content-length"}
        ]
        body = _OpenedBody(receive, decoder=_decoder(coding), coding=coding, limit=self._limit)
        await self._app({**scope, "headers": headers}, body, send)


class _OpenedBody:
    """Receives a body in its plain form."""

    def __init__(
        self, receive: Callable[[], Awaitable[Message]], *, decoder: _Decoder, coding: str, limit: int
    ) -> None:
        self._receive = receive
        self._decoder = decoder
        self._coding = coding
        self._limit = limit
        self._read = 0
        self._inflated = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        opened = self._open(message.get("body", b""))
        if not message.get("more_body", False) and self._read and not self._decoder.eof:
            raise self._broken()
        return {**message, "body": opened}

    def _open(self, data: bytes) -> bytes:
        self._read += len(data)
        room = min(self._limit, max(FREE_GROWTH_BYTES, self._read * MOST_GROWTH)) - self._inflated
        if not data:
            return b""
        if self._decoder.eof:
            raise self._broken()
        try:
            # One byte more than there is room for shows that there is more.
            opened = self._decoder.decompress(data, room + 1)
        except (zlib.error, zstd.ZstdError):
            raise self._broken() from None
        self._inflated += len(opened)
        if len(opened) > room:
            raise RequestTooLargeError(
                f"The body would be larger than {self._limit} bytes, or over {MOST_GROWTH} times what came.",
                limit=self._limit,
            )
        if self._decoder.unused_data:
            raise self._broken()
        return opened

    def _broken(self) -> ValidationError:
        return ValidationError(f"The body is not one whole {self._coding} stream.", param="Content-Encoding")


class _GzipDecoder:
    """zlib's object in the form of zstd's."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_GZIP_WINDOW)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


def _coding_of(scope: Scope) -> str:
    values = [value for name, value in scope["headers"] if name == b"content-encoding"]
    return b",".join(values).decode("latin-1").strip().lower()


def _decoder(coding: str) -> _Decoder:
    return zstd.ZstdDecompressor(options=_ZSTD_OPTIONS) if coding == "zstd" else _GzipDecoder()
