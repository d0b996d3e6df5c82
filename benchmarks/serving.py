"""Tokens per second of a model at 1 and 8 streams: through `LLM`, and through the HTTP server.

    python benchmarks/serving.py [MODEL ...] [--tokens N] [--threads N] [--repeats N] [--busy]

The HTTP server runs in a process of its own, the official client in this. Every figure comes from repeats
after one that warms up: their median, and the best (other work on the machine only ever makes a run slower).
A stream generates exactly N tokens, greedily. With --busy the seconds are processor seconds of the process
that generates (the server, for HTTP), for machines that have other work to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import psutil
import uvicorn

from tritium import LLM, SamplingParams
from tritium.kernels.device import select_optimal_device
from tritium.protocol.app import create_app

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "models"
PROMPT = "And it came to pass in those days that"
STREAMS = (1, 8)


def rate(generate: Callable[[], int], *, clock: Callable[[], float], repeats: int) -> dict[str, float]:
    """Return tokens per second of the clock: median and best of the repeats, after one that warms up."""
    generate()
    rates = []
    for _ in range(repeats):
        started = clock()
        rates.append(generate() / (clock() - started))
    return {"median": round(statistics.median(rates), 1), "best": round(max(rates), 1)}


def through_library(llm: LLM, *, streams: int, tokens: int) -> int:
    """Generate in one call and return the number of tokens."""
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    answers = llm.generate([PROMPT] * streams, sampling=sampling)
    return sum(answer.completion_tokens for answer in answers)


async def through_http(client: openai.AsyncOpenAI, *, streams: int, tokens: int) -> int:
    """Stream side by side through the official client and return the number of tokens."""

    async def one() -> int:
        stream = await client.completions.create(
            model="demo",
            prompt=PROMPT,
            max_tokens=tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        counted = 0
        async for chunk in stream:
            counted = chunk.usage.completion_tokens if chunk.usage else counted
        return counted

    return sum(await asyncio.gather(*(one() for _ in range(streams))))


def serve(model: Path, threads: int | None, port: socket.socket) -> None:
    """Serve the model on a socket that listens already, until the process is told to end."""
    app = create_app(model, served_name="demo", threads=threads)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    server.run(sockets=[port])


def processor_clock(process: int) -> Callable[[], float]:
    """Return a clock that counts the processor seconds of a process."""
    watched = psutil.Process(process)

    def seconds() -> float:
        times = watched.cpu_times()
        return float(times.user + times.system)

    return seconds


def measure_http(
    model: Path, *, threads: int | None, tokens: int, repeats: int, is_busy: bool
) -> dict[str, dict[str, float]]:
    """Serve the model in a process of its own and measure it from this one."""
    port = socket.create_server(("127.0.0.1", 0))
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(model, threads, port))
    server.start()
    address = f"http://127.0.0.1:{port.getsockname()[1]}/v1"
    port.close()
    clock = processor_clock(server.pid or 0) if is_busy else time.perf_counter
    rates = {}
    for streams in STREAMS:
        with asyncio.Runner() as runner:
            client = openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=10)
            rates[f"http, {streams} streams"] = rate(
                lambda n=streams, c=client, r=runner: r.run(through_http(c, streams=n, tokens=tokens)),
                clock=clock,
                repeats=repeats,
            )
            runner.run(client.close())
    server.terminate()
    server.join()
    return rates


def main() -> None:
    """Measure and print one JSON object per model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = [EXAMPLES / "scripture-llama-6m", EXAMPLES / "scripture-bitnet-6m-bitlinear"]
    parser.add_argument("models", nargs="*", type=Path, default=defaults)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--busy", action="store_true")
    settings = parser.parse_args()
    device = select_optimal_device(0, threads=settings.threads)
    for model in settings.models:
        llm = LLM(model, threads=settings.threads)
        rates = {
            f"library, {streams} streams": rate(
                lambda n=streams, m=llm: through_library(m, streams=n, tokens=settings.tokens),
                clock=time.process_time if settings.busy else time.perf_counter,
                repeats=settings.repeats,
            )
            for streams in STREAMS
        }
        rates |= measure_http(
            model,
            threads=settings.threads,
            tokens=settings.tokens,
            repeats=settings.repeats,
            is_busy=settings.busy,
        )
        print(
            json.dumps(
                {
                    "model": model.name,
                    "isa": device.isa,
                    "threads": device.threads,
                    "tokens": settings.tokens,
                    "tokens_per_processor_second" if settings.busy else "tokens_per_second": rates,
                }
            )
        )


if __name__ == "__main__":
    main()
