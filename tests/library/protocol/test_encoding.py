"""Compressed bodies in both directions: opened within limits, and compressed where the client takes it."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import sys
import tracemalloc
import zlib

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.protocol.decoding import MOST_GROWTH, RequestDecoding
from tritium.protocol.encoding import best_coding
from tritium.protocol.schemas import RequestTooLargeError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KEY = {"authorization": "Bearer sk-local-test"}
CHAT = {"model": "scripture", "messages": [{"role": "user", "content": "In the beginning"}], "max_tokens": 2}
ENCODERS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "zstd": zstd.compress}
LIMIT = 2**20


@pytest.fixture
def http(base_url):
    with httpx2.Client(base_url=base_url, headers=KEY, timeout=60) as made:
        yield made


def opened(coding: str, parts: list[bytes], *, limit: int = LIMIT) -> bytes:
    """Return what an app behind the decoding reads."""
    found = bytearray()

    async def app(scope, receive, send):
        assert not {name for name, _ in scope["headers"]} & {b"content-encoding", b"content-length"}
        while True:
            message = await receive()
            found.extend(message["body"])
            if not message["more_body"]:
                return

    async def main():
        messages = [
            {"type": "http.request", "body": part, "more_body": place < len(parts) - 1}
            for place, part in enumerate(parts)
        ]

        async def receive():
            return messages.pop(0)

        scope = {
            "type": "http",
            "path": "/v1/x",
            "headers": [(b"content-encoding", coding.encode()), (b"content-length", b"1")],
        }
        await RequestDecoding(app, path="/v1/", limit=limit, refuse=None)(scope, receive, None)

    asyncio.run(main())
    return bytes(found)


@given(
    st.sampled_from(sorted(ENCODERS)), st.binary(max_size=5000), st.lists(st.integers(0, 6000), max_size=5)
)
@settings(deadline=None)
def test_a_body_is_the_same_however_it_is_cut(coding, plain, cuts):
    packed = ENCODERS[coding](plain)
    places = sorted({0, len(packed), *(min(cut, len(packed)) for cut in cuts)})
    parts = [packed[start:end] for start, end in itertools.pairwise(places)]
    assert opened(coding, parts) == plain


@given(st.sampled_from(["gzip", "zstd"]), st.binary(max_size=300), st.integers(0, 400))
@settings(deadline=None)
def test_any_bytes_are_opened_or_refused_and_nothing_else_happens(coding, noise, cut):
    packed = ENCODERS[coding](b"a text " * 20)
    for body in (noise, packed[:cut], packed + noise, packed[: cut // 2] + noise + packed[cut // 2 :]):
        try:
            opened(coding, [body])
        except ValidationError as error:
            assert error.details.get("param") == "Content-Encoding"  # noqa: PT017 - many bodies are fine


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_bomb_is_refused_without_being_inflated(coding):
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    if coding == "gzip":
        bomb = b"".join(deflate.compress(bytes(2**20)) for _ in range(1024)) + deflate.flush()
    else:
        bomb = zstd.compress(bytes(2**30))
    assert len(bomb) < 2 * 2**20
    tracemalloc.start()
    with pytest.raises(RequestTooLargeError) as refusal:
        opened(coding, [bomb[start : start + 2**16] for start in range(0, len(bomb), 2**16)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refusal.value.details["limit"] == LIMIT
    assert peak < 4 * LIMIT


def test_what_grows_more_than_a_text_does_is_refused_before_the_limit():
    packed = zstd.compress(bytes(8 * 2**20))
    assert len(packed) * MOST_GROWTH < 2**20
    with pytest.raises(RequestTooLargeError):
        opened("zstd", [packed], limit=2**40)


def test_a_frame_that_wants_much_memory_is_refused():
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    packed = compressor.compress(b"a" * 100) + compressor.flush()
    with pytest.raises(ValidationError):
        opened("zstd", [packed])


@pytest.mark.parametrize("coding", sorted(ENCODERS))
def test_a_compressed_request_is_answered_like_a_plain_one(http, coding):
    body = json.dumps(CHAT).encode()
    headers = {"content-encoding": coding.upper(), "content-type": "application/json"}
    answer = http.post("/v1/chat/completions", content=ENCODERS[coding](body), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "zstd,br", "snappy"])
def test_another_coding_is_415_and_told_which_are_read(http, coding):
    headers = {"content-encoding": coding}
    answer = http.post("/v1/chat/completions", content=b"...", headers=headers)
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "gzip, zstd"
    assert answer.json()["error"]["code"] == "unsupported_coding"
    assert answer.headers["x-request-id"]


def test_a_bomb_over_the_wire_is_413_and_a_broken_body_400(http):
    for content, status in ((gzip.compress(bytes(2**24)), 413), (gzip.compress(b"{}")[:-3], 400)):
        answer = http.post("/v1/completions", content=content, headers={"content-encoding": "gzip"})
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("zstd, gzip", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("GZIP ; Q=0.5", "gzip"),
        ("*", "zstd"),
        ("*;q=0, gzip", "gzip"),
        ("zstd;q=0, *", "gzip"),
        ("identity", None),
        ("br, deflate", None),
        ("gzip;q=0", None),
        ("gzip;q=banana", None),
    ],
)
def test_the_coding_is_the_best_that_the_client_takes(accepted, coding):
    assert best_coding(accepted) == coding


@given(st.text(max_size=60))
def test_any_accept_encoding_can_be_read(accepted):
    assert best_coding(accepted) in {None, "gzip", "zstd"}


@pytest.mark.parametrize("coding", ["gzip", "zstd", "identity"])
def test_a_long_answer_is_compressed_as_the_client_takes_it(base_url, coding):
    headers = {**KEY, "accept-encoding": coding, "accept": "*/*"}
    body = {"model": "scripture", "prompt": "In the beginning " * 100}
    with (
        httpx2.Client(base_url=base_url) as http,
        http.stream("POST", "/v1/tokenize", json=body, headers=headers) as answer,
    ):
        raw = b"".join(answer.iter_raw())
    assert answer.headers.get("content-encoding", "identity") == coding
    assert answer.headers["vary"] == "Accept-Encoding"
    assert int(answer.headers["content-length"]) == len(raw)
    plain = {"gzip": gzip.decompress, "zstd": zstd.decompress, "identity": bytes}[coding](raw)
    assert json.loads(plain)["count"] > 100
    assert coding == "identity" or len(raw) < len(plain) / 2


def test_short_answers_and_streams_go_out_as_they_are(base_url):
    headers = {**KEY, "accept-encoding": "gzip"}
    for changes in ({}, {"stream": True, "max_tokens": 200, "ignore_eos": True}):
        answer = httpx2.post(
            f"{base_url}/v1/chat/completions", json=CHAT | changes, headers=headers, timeout=60
        )
        assert answer.status_code == 200
        assert "content-encoding" not in answer.headers
