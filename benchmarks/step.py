"""Where the microseconds of a forward step go: by kind of operation, from inside the recorded plan.

    python benchmarks/step.py [--shapes 6m 125m 2b] [--steps "decode 1"] [--threads 1 2] [--rounds N]

Models of random ternary weights with the embedding, which is the head too, in 6 bits and the cache in int8,
as the engine runs them; decode steps of 1 and 16 sequences after 128 tokens, and a prefill of 512 tokens.
`step` is the median of whole calls of `model.forward`, rounds of all thread counts interleaved and nothing
profiled. The kinds are processor time per step, summed over threads, from separate runs in which the plan
times its operations; `waits` is what the threads of that run spent outside operations. `python` is the part
of `step` outside the native call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from random_models import EMBEDDING_BITS, random_table

from tritium.kernels import cpu
from tritium.kernels.pages import BLOCK_SIZE
from tritium.model.architecture import architecture_for
from tritium.model.batch import ForwardBatch
from tritium.model.config import parse_config
from tritium.model.layers import TernaryLinear
from tritium.model.llama import LlamaModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tritium.kernels.cpu import CodedMatrix
    from tritium.model.batch import KVCache
    from tritium.model.config import ModelConfig
    from tritium.model.decoder import DecoderModel

PAST = 128
WARM_UP = 5
KINDS = ("ternary", "head", "attention", "rms_norm", "quantize", "gate")
# hidden, inner, layers, heads, heads of keys, size of a head, vocabulary
SHAPES = {
    "6m": (256, 768, 6, 8, 4, 32, 4096),
    "125m": (768, 2048, 12, 12, 12, 64, 32000),
    "2b": (2560, 6912, 30, 20, 5, 128, 128256),
}


@dataclass(frozen=True)
class RandomWeights:
    """Random trits with a scale per matrix; the table, which is the head too, in 6 bits."""

    config: ModelConfig
    random: np.random.Generator

    def array(self, _name: str) -> NDArray[np.float32]:
        """A norm's weight."""
        return np.ones(self.config.hidden_size, np.float32)

    def table(self, _name: str, *, threads: int) -> CodedMatrix:
        """The embedding, which is the head too."""
        table = random_table(self.random, self.config.vocab_size, self.config.hidden_size)
        coded, _ = cpu.round_to_codes(table, bits=EMBEDDING_BITS, threads=2)
        return cpu.prepare_coded(coded, threads=threads)

    def linear(self, name: str, *, threads: int) -> TernaryLinear:
        """A ternary layer."""
        shape = architecture_for(self.config).linears[name]
        fours = np.array([i for i in range(256) if all(i >> s & 3 != 3 for s in (0, 2, 4, 6))], np.uint8)
        packed = (1, shape.out_features, -(-shape.in_features // 128) * 32)
        weight = cpu.TernaryWeight(
            planes=fours[self.random.integers(0, len(fours), packed, np.uint8)],
            scales=np.full((1, 1), 0.02, np.float32),
            group_size=shape.in_features,
            in_features=shape.in_features,
            out_features=shape.out_features,
        )
        return TernaryLinear(cpu.prepare(weight, threads=2), None, threads)


def random_model(shape: str) -> DecoderModel:
    """Build a llama of random weights."""
    hidden, inner, layers, heads, kv_heads, head_dim, vocabulary = SHAPES[shape]
    config = parse_config(
        {
            "model_type": "llama",
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "vocab_size": vocabulary,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
        }
    )
    return LlamaModel(config, RandomWeights(config, np.random.default_rng(0)), threads=1)


def decode_step(sequences: int) -> ForwardBatch:
    """One new token for each of some sequences."""
    blocks = PAST // BLOCK_SIZE + 1
    tables = np.arange(sequences * blocks, dtype=np.int32).reshape(sequences, blocks)
    return ForwardBatch(
        token_ids=np.arange(sequences, dtype=np.int32),
        positions=np.full(sequences, PAST, np.int32),
        sequence_starts=np.arange(sequences + 1, dtype=np.int32),
        block_tables=tables,
        context_lengths=np.full(sequences, PAST + 1, np.int32),
        slots=tables[:, -1].astype(np.int64) * BLOCK_SIZE,
        logit_rows=np.arange(sequences, dtype=np.int32),
    )


def prefill_step(tokens: int) -> ForwardBatch:
    """One sequence from its beginning, of which the last row's logits are wanted."""
    whole = ForwardBatch.of_sequences([np.arange(tokens) % 1000])
    return ForwardBatch(**{**vars(whole), "logit_rows": np.array([tokens - 1], np.int32)})


STEPS: dict[str, Callable[[], ForwardBatch]] = {
    "decode 1": lambda: decode_step(1),
    "decode 16": lambda: decode_step(16),
    "prefill 512": lambda: prefill_step(512),
}


def microseconds(call: Callable[[], object], *, repeats: int) -> list[float]:
    """Time some calls."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - started) / 1e3)
    return times


def breakdown(model: DecoderModel, batch: ForwardBatch, cache: KVCache, *, repeats: int) -> dict[str, float]:
    """Microseconds of a step by kind of operation, summed over threads."""
    recorded = model.recorded()
    if recorded is None:
        raise SystemExit("This model has no plan.")
    recorded.plan.set_profiling(is_on=True)
    elapsed = sum(microseconds(lambda: model.forward(batch, cache), repeats=repeats)) / repeats
    kinds = dict.fromkeys(KINDS, 0.0) | {"others": 0.0}
    for kind, _, nanoseconds in recorded.plan.times():
        kinds[kind if kind in KINDS else "others"] += nanoseconds / 1e3 / repeats
    recorded.plan.set_profiling(is_on=False)
    kinds["kernels"] = sum(kinds.values())
    kinds["waits"] = model.threads * elapsed - kinds["kernels"]
    kinds["phases"] = recorded.plan.phase_count
    return kinds


def native_part(model: DecoderModel, batch: ForwardBatch, cache: KVCache, *, repeats: int) -> float:
    """Microseconds of the native call alone."""
    recorded = model.recorded()
    if recorded is None:
        raise SystemExit("This model has no plan.")
    return statistics.median(
        microseconds(lambda: recorded(batch, cache, threads=model.threads), repeats=repeats)
    )


def measure(
    model: DecoderModel, batch: ForwardBatch, *, threads: list[int], rounds: int
) -> dict[int, dict[str, float]]:
    """Figures by number of threads."""
    cache = model.new_cache(batch.num_blocks, dtype="int8")
    steps: dict[int, list[float]] = {count: [] for count in threads}
    started = time.perf_counter()
    model.forward(batch, cache)
    repeats = max(3, min(200, int(0.2 / (time.perf_counter() - started))))
    for _ in range(rounds):
        for count in threads:
            model.threads = count
            microseconds(lambda: model.forward(batch, cache), repeats=min(WARM_UP, repeats))
            steps[count] += microseconds(lambda: model.forward(batch, cache), repeats=repeats)
    figures = {}
    for count in threads:
        model.threads = count
        step = statistics.median(steps[count])
        inside = native_part(model, batch, cache, repeats=repeats)
        figures[count] = {"step": step, "python": step - inside}
        figures[count] |= breakdown(model, batch, cache, repeats=repeats)
    return figures


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    columns = ("step", "kernels", *KINDS, "others", "waits", "python", "phases")
    print("| shape | step of | threads | " + " | ".join(columns) + " | step x threads / kernels |")
    print("|---|---|" + "---:|" * (len(columns) + 2))
    for shape in arguments.shapes:
        model = random_model(shape)
        for name in arguments.steps:
            figures = measure(model, STEPS[name](), threads=arguments.threads, rounds=arguments.rounds)
            for count, row in figures.items():
                cells = [f"{row[column]:.{0 if row[column] >= 100 else 1}f}" for column in columns]
                ratio = row["step"] * count / row["kernels"]
                print(f"| {shape} | {name} | {count} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
