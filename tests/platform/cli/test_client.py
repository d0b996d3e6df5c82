"""The client of a running server: what may be asked again is, and nothing else."""

from __future__ import annotations

import http.server
import threading
from collections import Counter

import pytest

from tritium.errors import PlatformError, ValidationError
from tritium_platform.cli.client import ServerClient


class Flaky(http.server.BaseHTTPRequestHandler):
    """Cuts the connection of the first requests, then answers."""

    protocol_version = "HTTP/1.1"

    def handle_one_request(self):
        """Answer whatever the method is."""
        self.raw_requestline = self.rfile.readline()
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        server = self.server
        server.seen[self.command] += 1
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if server.cuts:
            server.cuts -= 1
            self.close_connection = True
            return
        body = b'{"detail": "wrong"}' if self.path == "/wrong" else b'{"is": "here"}'
        self.send_response(422 if self.path == "/wrong" else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def flaky():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky) as server:
        server.cuts, server.seen, server.daemon_threads = 0, Counter(), True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def client(flaky):
    client = ServerClient(f"http://127.0.0.1:{flaky.server_port}", key="k")
    yield client
    client._connection.close()


@pytest.mark.parametrize(
    "ask", [lambda client: client.get("/here"), lambda client: client.put("/", "here", {"a": 1})]
)
def test_what_reads_or_sets_is_asked_again_when_no_answer_comes(flaky, client, ask):
    flaky.cuts = 2
    assert ask(client) == {"is": "here"}
    assert flaky.seen.total() == 3


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.post("/here", {}),
        lambda client: client.patch("/", "here", {}),
        lambda client: client.delete("/", "here"),
    ],
)
def test_what_may_have_been_done_is_not_asked_again(flaky, client, ask):
    flaky.cuts = 1
    with pytest.raises(PlatformError, match="does not answer"):
        ask(client)
    assert flaky.seen.total() == 1
    assert ask(client) == {"is": "here"}  # the connection that broke is not used again


def test_a_server_that_never_answers_is_said_so_in_the_same_words(flaky, client):
    flaky.cuts = 9
    with pytest.raises(PlatformError, match="does not answer: is it up"):
        client.get("/here")
    assert flaky.seen["GET"] == 4


def test_a_refusal_is_an_answer(flaky, client):
    with pytest.raises(ValidationError, match="wrong"):
        client.get("/wrong")
    assert flaky.seen["GET"] == 1
