"""What may have to happen before the end of an answer goes out: it is told how long that end is."""

from __future__ import annotations

import json

import httpx2
import pytest
from fastapi import FastAPI

from tritium.engine.request import TokenOutput
from tritium.errors import PlatformError
from tritium.protocol.encoding import AnswerEncoding
from tritium.protocol.routes import build_router

TOKENS = [f"word {number} " for number in range(200)]


class Parrot:
    """A backend without a model."""

    def served_name(self, principal, model):
        return model

    def response_headers(self, principal):
        return {}

    async def generate(self, calls):
        return [self._outputs() for _ in calls]

    async def _outputs(self):
        for number, text in enumerate(TOKENS, 1):
            yield TokenOutput(
                request_id="r",
                text=text,
                token_ids=(number,),
                finish_reason="stop" if number == len(TOKENS) else None,
                prompt_tokens=1,
                completion_tokens=number,
                compute_seconds=0.0,
                queue_seconds=0.0,
                peak_kv_bytes=0,
            )


class Gate:
    """Notes the lengths of ends; it may be shut."""

    def __init__(self):
        self.lengths = []
        self.is_shut = False

    async def __call__(self, request, num_bytes):
        self.lengths.append(num_bytes)
        if self.is_shut:
            raise PlatformError("The books cannot be written.")


@pytest.fixture
def gate():
    """What stands before the ends of answers."""
    return Gate()


@pytest.fixture
async def client(gate):
    """A client of routes with the gate, whose answers may be compressed."""
    app = FastAPI()
    app.include_router(build_router(Parrot(), before_end=gate))
    app.add_middleware(AnswerEncoding, path="/v1/")
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


def asked(**options):
    return {"model": "m", "prompt": "p"} | options


@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
async def test_a_whole_answer_is_told_as_long_as_it_goes_out(client, gate, coding):
    headers = {"accept-encoding": coding}
    answer = await client.post("/v1/completions", json=asked(), headers=headers)
    assert answer.headers.get("content-encoding", "identity") == coding
    assert gate.lengths == [int(answer.headers["content-length"])]


@pytest.mark.parametrize("num_choices", [1, 3])
async def test_the_end_of_a_stream_is_its_last_output_and_all_behind_it(client, gate, num_choices):
    answer = await client.post("/v1/completions", json=asked(stream=True, n=num_choices))
    events = answer.content.split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    finishing = [place for place, event in enumerate(events) if b'"finish_reason":"stop"' in event]
    assert len(finishing) == num_choices
    end = b"\n\n".join(events[finishing[-1] :])
    assert gate.lengths == [len(end)]


async def test_what_it_raises_goes_out_instead_of_the_end(client, gate):
    gate.is_shut = True
    answer = await client.post("/v1/completions", json=asked())
    assert answer.status_code == 503
    assert "word" not in answer.text
    assert "The books" in answer.json()["error"]["message"]
    streamed = (await client.post("/v1/completions", json=asked(stream=True))).text
    assert "[DONE]" not in streamed
    assert '"finish_reason":"stop"' not in streamed
    *_, last = (event for event in streamed.split("\n\n") if event)
    assert "The books" in json.loads(last.removeprefix("data: "))["error"]["message"]
    assert len(gate.lengths) == 2
