"""llama.cpp through llama-cpp-python's low-level calls: python -m side_by_side.llama_cpp_worker GGUF (or -).

Decode and prefill are timed as llama-bench times them: llama_decode alone, on random tokens, nothing sampled.
"""

from __future__ import annotations

import ctypes
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np

from side_by_side.ggml_kernels import GgmlKernels
from side_by_side.requests import answer_requests

if TYPE_CHECKING:
    from collections.abc import Callable

SEQUENCES = 16
CONTEXT = 4096


class Model:
    """A loaded model with one context for 16 sequences."""

    def __init__(self, path: str) -> None:
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = CONTEXT, 2048, 512
        settings.n_seq_max, settings.kv_unified = SEQUENCES, True
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(2048, 0, 1)
        self.random = np.random.default_rng(7)
        self.decode(tokens=4, threads=2)

    def fill(self, entries: list[tuple[int, int, int, bool]]) -> None:
        """Put (token, position, sequence, wants logits) into the batch."""
        batch = self.batch
        batch.n_tokens = len(entries)
        for i, (token, position, sequence, wants_logits) in enumerate(entries):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = wants_logits

    def run(self) -> None:
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")
        llama_cpp.llama_synchronize(self.context)

    def start(self, threads: int) -> None:
        llama_cpp.llama_set_n_threads(self.context, threads, threads)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)

    def tokens(self, count: int) -> list[int]:
        return [int(token) for token in self.random.integers(0, 500, count)]

    def prefill(self, *, tokens: int, threads: int) -> float:
        """Tokens per second of one prompt, with the logits of its last token."""
        self.start(threads)
        self.fill([(t, i, 0, i == tokens - 1) for i, t in enumerate(self.tokens(tokens))])
        begin = time.perf_counter()
        self.run()
        return tokens / (time.perf_counter() - begin)

    def decode(self, *, tokens: int, threads: int) -> float:
        """Tokens per second, one after the other, from an empty context."""
        self.start(threads)
        self.fill([(1, 0, 0, True)])
        self.run()
        begin = time.perf_counter()
        for position, token in enumerate(self.tokens(tokens), start=1):
            self.fill([(token, position, 0, True)])
            self.run()
        return tokens / (time.perf_counter() - begin)

    def streams(self, *, count: int, prompt: int, tokens: int, threads: int) -> float:
        """Generated tokens per second of sequences that share every llama_decode: what no server can beat."""
        self.start(threads)
        begin = time.perf_counter()
        self.fill(
            [
                (token, position, sequence, position == prompt - 1)
                for sequence in range(count)
                for position, token in enumerate(self.tokens(prompt))
            ]
        )
        self.run()
        rows = [prompt * (sequence + 1) - 1 for sequence in range(count)]
        for position in range(prompt, prompt + tokens):
            chosen = [self.greedy(row) for row in rows]
            if position == prompt + tokens - 1:
                break
            self.fill([(token, position, sequence, True) for sequence, token in enumerate(chosen)])
            self.run()
            rows = list(range(count))
        return count * tokens / (time.perf_counter() - begin)

    def greedy(self, row: int) -> int:
        pointer = llama_cpp.llama_get_logits_ith(self.context, row)
        return int(np.ctypeslib.as_array(pointer, (self.vocabulary,)).argmax())


def facts() -> dict[str, Any]:
    """What runs here."""
    info = ctypes.string_at(llama_cpp.llama_print_system_info()).decode()
    parts = [part.strip().removesuffix(" = 1") for part in info.removeprefix("CPU :").split("|")]
    return {"version": version("llama-cpp-python"), "build": ", ".join(filter(None, parts))}


def main() -> None:
    """Load, then answer."""
    verbs: dict[str, Callable[..., Any]] = {"facts": facts}
    if sys.argv[1] == "-":
        verbs["kernel"] = GgmlKernels().kernel
    else:
        model = Model(sys.argv[1])
        verbs |= {"prefill": model.prefill, "decode": model.decode, "streams": model.streams}
    answer_requests(verbs)


if __name__ == "__main__":
    main()
