"""Tritium, measured through its public library: python -m side_by_side.our_worker MODEL THREADS (or - 2)."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

import tritium
from side_by_side.products import ColdProducts
from side_by_side.requests import answer_requests
from tritium import LLM, SamplingParams
from tritium.kernels import _native

if TYPE_CHECKING:
    from collections.abc import Callable


class Model:
    """A loaded model; each call draws new tokens, so that nothing is found in a prefix cache."""

    def __init__(self, path: str, threads: int) -> None:
        self.llm = LLM(path, threads=threads)
        self.random = np.random.default_rng(7)
        self.decode(tokens=4)

    def prompt(self, tokens: int) -> list[int]:
        return [int(token) for token in self.random.integers(0, 500, tokens)]

    def prefill(self, *, tokens: int) -> float:
        """Tokens per second from the call to the first new token, which includes one row of the head."""
        prompt = self.prompt(tokens)
        begin = time.perf_counter()
        self.llm.generate(prompt, sampling=_greedy(1))
        return tokens / (time.perf_counter() - begin)

    def decode(self, *, tokens: int) -> float:
        """Tokens per second after the first one, alone, sampling included."""
        times = [time.perf_counter() for _ in self.llm.stream(self.prompt(1), sampling=_greedy(tokens + 1))]
        return (len(times) - 1) / (times[-1] - times[0])

    def streams(self, *, count: int, prompt: int, tokens: int) -> float:
        """Generated tokens per second over all streams, prompts included, without a server."""
        prompts = [self.prompt(prompt) for _ in range(count)]
        begin = time.perf_counter()
        done = self.llm.generate(prompts, sampling=_greedy(tokens))
        return sum(len(one.token_ids) for one in done) / (time.perf_counter() - begin)


def facts() -> dict[str, Any]:
    """What runs here."""
    return {"version": tritium.__version__, "isa": _native.isa()}


def machine(*, threads: int) -> dict[str, float]:
    """Read bandwidth and int8 peak of this moment, in units of 1e9."""
    return {
        "read_gb_s": _native.read_bandwidth(threads, 0.25) / 1e9,
        "int8_gops": _native.peak_int8(threads, 0.15) / 1e9,
    }


class Kernels:
    """The ternary product alone, cold: weights of one shape are kept until another is asked for."""

    def __init__(self) -> None:
        self._shape = (0, 0)
        self._products: ColdProducts | None = None

    def kernel(self, *, rows: int, columns: int, batch: int, threads: int, seconds: float) -> float:
        """GOPS of quantizing the activations and multiplying, each time by weights no cache holds."""
        if self._products is None or self._shape != (rows, columns):
            self._products, self._shape = ColdProducts(rows, columns), (rows, columns)
        return self._products.gops(batch=batch, threads=threads, seconds=seconds)


def _greedy(tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)


def main() -> None:
    """Load, then answer."""
    path, threads = sys.argv[1], int(sys.argv[2])
    verbs: dict[str, Callable[..., Any]] = {"facts": facts, "machine": machine}
    if path == "-":
        verbs["kernel"] = Kernels().kernel
    else:
        model = Model(path, threads)
        verbs |= {"prefill": model.prefill, "decode": model.decode, "streams": model.streams}
    answer_requests(verbs)


if __name__ == "__main__":
    main()
