"""Sixteen streams at once: generated tokens per second, and what a long prompt of another does to them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from side_by_side.client import Stream, stream_completion

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from side_by_side.servers import Server

_Done = TypeVar("_Done")
SETTLED = 40  # tokens of each stream before the long prompt comes
LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


def prompt_of(tokens: int, random: np.random.Generator) -> str:
    """Random letters; each is one token of the random models, and no two prompts begin alike."""
    return "".join(LETTERS[random.integers(0, len(LETTERS), tokens)])


def measure_streams(
    server: Server, port: int, *, count: int, prompt: int, tokens: int, seed: int
) -> dict[str, float]:
    """Start all streams at once: tokens/s over all, milliseconds to the first token and between tokens."""
    random = np.random.default_rng(seed)
    prompts = [prompt_of(prompt, random) for _ in range(count)]

    async def run() -> tuple[list[Stream], float]:
        begin = time.perf_counter()
        calls = (stream_completion(port, prompt=p, max_tokens=tokens, extra=server.extra) for p in prompts)
        return await asyncio.gather(*calls), time.perf_counter() - begin

    streams, seconds = asyncio.run(run())
    firsts = [1e3 * stream.first for stream in streams]
    gaps = [1e3 * gap for stream in streams for gap in stream.gaps()]
    return {
        "tokens_per_s": count * tokens / seconds,
        "pieces": sum(len(stream.arrivals) for stream in streams) / (count * tokens),
        "first_p50_ms": float(np.percentile(firsts, 50)),
        "first_p99_ms": float(np.percentile(firsts, 99)),
        "between_p50_ms": float(np.percentile(gaps, 50)),
        "between_p99_ms": float(np.percentile(gaps, 99)),
    }


def measure_intrusion(
    server: Server, port: int, *, count: int, prompt: int, long_prompt: int, seed: int
) -> dict[str, float]:
    """Let streams run, send a long prompt, and compare their gaps while it is read with those before.

    Then as many streams run without it and are watched for as long: gaps that they have too it did not make.
    """
    random = np.random.default_rng(seed)
    prompts, others = ([prompt_of(prompt, random) for _ in range(count)] for _ in range(2))
    intruder = prompt_of(long_prompt, random)

    async def send_intruder() -> Stream:
        return await stream_completion(port, prompt=intruder, max_tokens=4, extra=server.extra)

    streams, (begin, long) = asyncio.run(_beside(server, port, prompts, send_intruder))
    end = long.arrivals[0]
    settled = max(stream.arrivals[0] for stream in streams)
    before = np.median(_gaps(streams, settled, begin))
    during = _gaps(streams, begin, end)
    alone, (begin, _) = asyncio.run(_beside(server, port, others, lambda: asyncio.sleep(end - long.sent)))
    return {
        "median_before_ms": 1e3 * float(before),
        "median_during_ms": 1e3 * float(np.median(during)),
        "longest_during_ms": 1e3 * max(during),
        "ratio": max(during) / float(before),
        "longest_without_ms": 1e3 * max(_gaps(alone, begin, begin + end - long.sent)),
        "long_first_s": long.first,
    }


async def _beside(
    server: Server, port: int, prompts: list[str], act: Callable[[], Awaitable[_Done]]
) -> tuple[list[Stream], tuple[float, _Done]]:
    """Do something while streams run; returns them, and when it began with what came of it."""
    streams = [Stream(0.0) for _ in prompts]
    tasks = [
        asyncio.create_task(stream_completion(port, prompt=p, max_tokens=1500, extra=server.extra, stream=s))
        for p, s in zip(prompts, streams, strict=True)
    ]
    while not all(len(stream.arrivals) >= SETTLED for stream in streams):
        if any(task.done() for task in tasks):
            raise RuntimeError("A stream ended before all had begun.")
        await asyncio.sleep(0.02)
    begin = time.perf_counter()
    done = await act()
    await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return streams, (begin, done)


def _gaps(streams: list[Stream], begin: float, end: float) -> list[float]:
    return [gap for stream in streams for gap in stream.gaps(since=begin, until=end)]
