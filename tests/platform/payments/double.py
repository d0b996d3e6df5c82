"""The provider double as a real HTTP server: idempotency keys, lists, and ways in which answers get lost."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from tritium_payments_bank import Bank, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

# What may go wrong with one request. Before: nothing happens. After: it happened, and nobody is told so.
FAULTS = (
    "error_before",
    "error_after",
    "cut_before",
    "cut_after",
    "cut_in_the_body",
    "late",  # the connection is cut, and what was asked for happens some time after that
    "limited",
)
SLOW_SECONDS = 0.3


class Double:
    """Answers as the provider would, and fails as it is told to, one fault per request."""

    def __init__(self, clock: Any) -> None:
        self.bank = Bank(clock)
        self.faults: deque[str] = deque()
        self.requests: list[tuple[str, str, str]] = []
        self._saved: dict[str, tuple[Any, tuple[int, bytes]]] = {}
        self._running: set[str] = set()
        self._late: list[tuple[str, str, dict[str, str], str]] = []
        self._lock = threading.Lock()

    def catch_up(self) -> None:
        """Do what arrived late."""
        with self._lock:
            late, self._late = self._late, []
            for method, path, wish, key in late:
                self._running.discard(key)
                self._once(method, path, wish, key)
            self.bank.show_fees()

    def answer(self, method: str, path: str, wish: dict[str, str], key: str) -> tuple[int, bytes, str]:
        """Return status, body and what shall go wrong on the way back."""
        with self._lock:
            self.requests.append((method, path, key))
            fault = self.faults.popleft() if self.faults else ""
            if key in self._running:
                return *_error(409, "idempotency_error", "idempotency_key_in_use"), ""
            if fault in {"error_before", "cut_before"}:
                return *_error(500, "api_error", "down"), "cut" if fault == "cut_before" else ""
            if fault == "limited":
                return *_error(429, "rate_limit_error", "rate_limit"), ""
            if fault == "late" and key:
                self._running.add(key)
                self._late.append((method, path, wish, key))
                return 0, b"", "cut"
            if fault == "slow":
                self._running.add(key)
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        with self._lock:
            self._running.discard(key)
            status, body = self._once(method, path, wish, key)
            if fault == "error_after" and key:
                failed = _error(500, "api_error", "lost its head")
                self._saved[key] = (self._saved[key][0], failed)
                return *failed, ""
        return status, body, {"cut_after": "cut", "cut_in_the_body": "half"}.get(fault, "")

    def _once(self, method: str, path: str, wish: dict[str, str], key: str) -> tuple[int, bytes]:
        if key in self._saved:
            asked, saved = self._saved[key]
            if asked != (path, wish):
                return _error(400, "idempotency_error", "other_parameters")
            return saved
        try:
            answer = 200, json.dumps(self._do(method, path, wish)).encode()
        except RefusedError as error:
            answer = error.status, json.dumps(error.body).encode()
        if key:
            self._saved[key] = ((path, wish), answer)
        return answer

    def _do(self, method: str, path: str, wish: dict[str, str]) -> dict[str, Any]:
        kind, *rest = path.removeprefix("/v1/").split("/")
        if method == "POST":
            if rest:
                return self.bank.cancel(rest[0])
            return self.bank.charge(wish) if kind == "payment_intents" else self.bank.refund(wish)
        if rest:
            return self.bank._intent(rest[0])
        found, size = self.bank.listed(kind, wish), int(wish.get("limit", 10))
        if "starting_after" in wish:
            found = found[[each["id"] for each in found].index(wish["starting_after"]) + 1 :]
        return {"object": "list", "url": path, "data": found[:size], "has_more": len(found) > size}


def _error(status: int, kind: str, code: str) -> tuple[int, bytes]:
    return status, json.dumps({"error": {"type": kind, "code": code, "message": code}}).encode()


class _Door(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet per answer: two would wait for each other
    double: Double

    def do_GET(self) -> None:
        self._serve(dict(parse_qsl(urlsplit(self.path).query)))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        self._serve(dict(parse_qsl(body)))

    def _serve(self, wish: dict[str, str]) -> None:
        wish = {name: value for name, value in wish.items() if not name.startswith("expand")}
        # Our own keys only: the SDK makes one up for every other POST.
        key = self.headers.get("idempotency-key") or ""
        key = key if len(key) == 64 else ""
        status, body, broken = self.double.answer(self.command, urlsplit(self.path).path, wish, key)
        if broken == "cut":
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if broken == "half" else body)
        self.close_connection = self.close_connection or broken == "half"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def served(double: Double) -> Iterator[str]:
    """Serve a double; yield its address."""
    door = type("Door", (_Door,), {"double": double})
    server = ThreadingHTTPServer(("127.0.0.1", 0), door)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
