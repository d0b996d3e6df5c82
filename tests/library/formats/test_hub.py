from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tritium.formats.hub import is_hub_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"

OPEN_FROM_HUB = """
import sys
from tritium.errors import BitNetServiceError
from tritium.formats.checkpoint import open_checkpoint

try:
    with open_checkpoint(sys.argv[1]) as checkpoint:
        names = sorted(path.name for path in checkpoint.path.iterdir())
        print(checkpoint.config["model_type"], len(checkpoint.tensors), *names)
except BitNetServiceError as error:
    print(type(error).__name__, error.recovery, error.message)
    sys.exit(7)
"""


def hub_of(files: dict[str, bytes]) -> type[BaseHTTPRequestHandler]:
    """The part of the hub's protocol that a download walks, over one repository."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            path, headers = self.path.partition("?")[0], {}
            name = path.removeprefix(f"/organisation/model/resolve/{COMMIT}/")
            if path.startswith("/api/models/organisation/model/tree/"):
                body = json.dumps(
                    [{"type": "file", "path": n, "size": len(b), "oid": COMMIT} for n, b in files.items()]
                ).encode()
            elif path.startswith("/api/models/organisation/model"):
                siblings = [{"rfilename": name} for name in files]
                body = json.dumps({"id": "organisation/model", "sha": COMMIT, "siblings": siblings}).encode()
            elif name in files:
                body = files[name]
                headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
            else:
                body, headers = b"{}", {"X-Error-Code": "RepoNotFound"}
            self.send_response(404 if "X-Error-Code" in headers else 200)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

    return Hub


@pytest.fixture
def hub(scripture_llama: Path) -> Iterator[str]:
    files = {path.name: path.read_bytes() for path in scripture_llama.iterdir()}
    files["pytorch_model.bin"] = b"a pickle that nobody wants"
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub_of(files))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def open_from_hub(name: str, *, endpoint: str, cache: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("huggingface_hub")
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    return subprocess.run(
        [sys.executable, "-c", OPEN_FROM_HUB, name],
        env=os.environ | settings | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_hub_name_is_downloaded_without_pickles_and_opened_from_the_cache(hub: str, tmp_path: Path):
    run = open_from_hub("organisation/model", endpoint=hub, cache=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith("llama 56 ")
    assert "model.safetensors" in run.stdout
    assert "pytorch_model.bin" not in run.stdout


def test_a_model_the_hub_does_not_have_is_the_callers_mistake(hub: str, tmp_path: Path):
    run = open_from_hub("organisation/other", endpoint=hub, cache=tmp_path)
    assert (run.returncode, run.stdout.split()[:2]) == (7, ["ValidationError", "fix_request"]), run.stderr


def test_a_hub_that_cannot_be_reached_may_be_tried_again(tmp_path: Path):
    run = open_from_hub("organisation/model", endpoint="http://127.0.0.1:9", cache=tmp_path)
    assert (run.returncode, run.stdout.split()[:2]) == (7, ["PlatformError", "retry"]), run.stderr


@pytest.mark.parametrize("name", ["a/b", "microsoft/bitnet-b1.58-2B-4T", "org_1/model.v2"])
def test_a_hub_name_is_recognised(name: str):
    assert is_hub_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "model",
        "a/b/c",
        "/a",
        "a/",
        "../b",
        "a/..b/",
        "./a",
        "a b/c",
        "a/b.safetensors",
        "a/b\n",
        "x" * 200 + "/y",
    ],
)
def test_a_path_is_no_hub_name(name: str):
    assert not is_hub_name(name)
