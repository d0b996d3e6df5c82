"""A small client of a running server: the management routes, with the standard library alone.

What only reads, or sets a thing to what it is to be, is asked again when no answer comes: a server that
starts anew is back in a moment. Anything else may have been done, so the operator hears of it.
"""

# ruff: noqa: PLC0415 - what calls a server imports what it needs, so that --help stays fast

from __future__ import annotations

import contextlib
import http.client
import io
import json
from functools import partial
from typing import IO, TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, urlsplit

from tritium.errors import ErrorCategory, PlatformError, ProcessingError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TIMEOUT_SECONDS = 120.0
REPEATABLE = frozenset({"GET", "PUT"})
_OK, _REDIRECT, _SERVER_ERROR = 200, 300, 500


class ServerSilentError(PlatformError):
    """No answer came: nobody listens, or the connection broke."""

    category: ClassVar[ErrorCategory] = ErrorCategory.TRANSIENT


class ServerClient:
    """Asks a server as one tenant; a refusal becomes an error with the server's own words."""

    def __init__(self, url: str, *, key: str) -> None:
        scheme, host, port = place_of(url)
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        self._connection = kind(host, port, timeout=TIMEOUT_SECONDS)
        self._key = key.strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ValidationError("The API key holds a character that no key has: copy it again.")
        self._url = url

    def get(self, path: str, name: str = "") -> Any:
        """Return what is at an address; `name` is the last part of it."""
        return self._ask("GET", path + quote(name, safe=""), None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a thing and return the answer."""
        return self._ask("POST", path, body)

    def put(self, path: str, name: str, body: Mapping[str, Any]) -> Any:
        """Set the thing with that name and return the answer."""
        return self._ask("PUT", path + quote(name, safe=""), body)

    def patch(self, path: str, name: str, body: Mapping[str, Any]) -> Any:
        """Change the thing with that name and return the answer."""
        return self._ask("PATCH", path + quote(name, safe=""), body)

    def delete(self, path: str, name: str) -> Any:
        """Delete the thing with that name."""
        return self._ask("DELETE", path + quote(name, safe=""), None)

    def upload(self, path: str, archive: IO[bytes]) -> Any:
        """Send a ZIP archive from its beginning, as a stream, and return the answer."""
        size = archive.seek(0, io.SEEK_END)
        archive.seek(0)
        return self._send(
            "POST", path, archive, {"content-type": "application/zip", "content-length": str(size)}
        )

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        content = json.dumps(body) if body is not None else None
        send = partial(self._send, method, path, content, {"content-type": "application/json"})
        return _repeatedly(send) if method in REPEATABLE else send()

    def _send(self, method: str, path: str, body: IO[bytes] | str | None, headers: Mapping[str, str]) -> Any:
        try:
            # A server that refuses a large body answers and stops to read: what it said counts.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._connection.request(
                    method, path, body, {"authorization": f"Bearer {self._key}", **headers}
                )
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()  # the next request makes a new one
            raise ServerSilentError(f"The server at {self._url} does not answer: is it up?") from error
        answer = _parse(content)
        if _OK <= response.status < _REDIRECT:
            return answer
        message = str(answer.get("detail", f"the server answered with status {response.status}"))
        raise (ValidationError if response.status < _SERVER_ERROR else ProcessingError)(message)


def place_of(url: str) -> tuple[str, str, int | None]:
    """Take an address apart into scheme, host and port; ValidationError if it is none."""
    try:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname:
            return parts.scheme, parts.hostname, parts.port
    except ValueError:  # a port that is no number, a bracket that is not closed
        pass
    raise ValidationError(f"{url!r} is not an address: write it as http://127.0.0.1:8000.")


def _repeatedly(send: Callable[[], Any]) -> Any:
    """Send until an answer comes, a few times within a deadline; raise why the last one did not."""
    import asyncio

    from tritium_platform.errors import DeadlineExceededError, RetriesExhaustedError
    from tritium_platform.resilience import Deadline, ResilientCaller
    from tritium_platform.retry import RetryPolicy
    from tritium_platform.values import SystemClock

    async def once(_: Deadline) -> Any:
        return send()  # which has a timeout of its own, and nobody else waits here

    clock = SystemClock()
    policy = RetryPolicy(attempt_seconds=TIMEOUT_SECONDS)
    caller = ResilientCaller(neighbour="the server", clock=clock, policy=policy)
    try:
        return asyncio.run(caller.call(once, deadline=Deadline.after(clock, seconds=TIMEOUT_SECONDS)))
    except (DeadlineExceededError, RetriesExhaustedError) as error:
        raise error.__cause__ or error from None


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content) if content else {}
    except ValueError:
        return {}
