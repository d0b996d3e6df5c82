"""What the library's tests need beyond the library: without it they are skipped, by name."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tokenizers

from tritium.engine.cost import StepCost, StepSums
from tritium.engine.simulator import config_of, simulate
from tritium.engine.trace import Trace, TracedEngine, TracedInterval, TracedRequest
from tritium.formats.safetensors import write_safetensors
from tritium.model.architecture import architecture_for
from tritium.model.config import parse_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# The bare wheel has no HTTP server and no oracle; the full environment has both and skips nothing.
NEEDS = {
    "gguf": ("gguf",),
    "oracle": ("torch", "transformers"),
    "serve": ("fastapi", "llguidance", "msgspec", "uvicorn"),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gguf: compares with the package gguf")
    config.addinivalue_line("markers", "oracle: compares with transformers and torch")
    config.addinivalue_line("markers", "serve: needs tritium[serve]")
    config.addinivalue_line("markers", "soak: long; run by make soak")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, modules in NEEDS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            skip = pytest.mark.skip(reason=f"{', '.join(missing)} not installed")
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(skip)


@pytest.fixture(scope="session")
def small_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder with random weights: 2 layers, 32 dimensions, ten words."""
    directory = tmp_path_factory.mktemp("encoder")
    hidden, inner, words = 32, 64, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat"]
    random = np.random.default_rng(11)

    def weights(*shape: int) -> np.ndarray:
        return random.normal(scale=0.3, size=shape).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": weights(len(words), hidden),
        "embeddings.position_embeddings.weight": weights(16, hidden),
        "embeddings.token_type_embeddings.weight": weights(2, hidden),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        shapes = {
            "attention.self.query": (hidden, hidden),
            "attention.self.key": (hidden, hidden),
            "attention.self.value": (hidden, hidden),
            "attention.output.dense": (hidden, hidden),
            "intermediate.dense": (inner, hidden),
            "output.dense": (hidden, inner),
        }
        for name, shape in shapes.items():
            tensors[f"{layer}.{name}.weight"] = weights(*shape)
            tensors[f"{layer}.{name}.bias"] = weights(shape[0])
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name in norms:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = np.ones(hidden, np.float32), weights(hidden)
    write_safetensors(directory / "model.safetensors", tensors)
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": len(words),
        "max_position_embeddings": 16,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    }
    (directory / "config.json").write_text(json.dumps(config))
    model = tokenizers.models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="session")
def random_checkpoint() -> Callable[..., Path]:
    """Write a checkpoint of random weights for any config, with every tensor that its architecture names."""

    def write(directory: Path, config: dict[str, Any], *, seed: int = 0) -> Path:
        architecture, draw = architecture_for(parse_config(config)), np.random.default_rng(seed)
        shapes = dict(architecture.tensors)
        for name, linear in architecture.linears.items():
            shapes[f"{name}.weight"] = (linear.out_features, linear.in_features)
            if linear.has_bias:
                shapes[f"{name}.bias"] = (linear.out_features,)
        tensors = {}
        for name, shape in shapes.items():
            deviation = shape[-1] ** -0.5 if len(shape) > 1 else 0.2
            is_norm = "norm" in name and len(shape) == 1
            tensors[name] = (draw.normal(size=shape) * deviation + is_norm).astype(np.float32)
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(config))
        write_safetensors(directory / "model.safetensors", tensors)
        return directory

    return write


@pytest.fixture
def new_trace() -> Callable[..., Trace]:
    """Build a trace: requests as they fare in a simulation of the given cost, and intervals that say so."""

    def build(requests, *, cost=None, engine=None, **figures) -> Trace:
        described = traced_engine(**(engine or {}))
        cost = cost or StepCost(fixed=0.004, per_row=0.0005, per_prompt_token=0.0001)
        asked = tuple(traced_request(**each) for each in requests)
        trace = Trace(engine=described, requests=asked, intervals=())
        found = simulate(trace, config=config_of(described), cost=cost)
        fared = tuple(
            dataclasses.replace(each, first_seconds=way.first_seconds, end_seconds=way.end_seconds or 0.0)
            for each, way in zip(asked, found.passages, strict=True)
        )
        intervals = traced_intervals(found, asked, cost=cost, engine=described, **figures)
        return Trace(engine=described, requests=fared, intervals=intervals)

    return build


def traced_engine(**changes) -> TracedEngine:
    """An engine with a cache of 128 blocks."""
    values = {
        "model": "m",
        "max_running": 8,
        "max_batched_tokens": 256,
        "max_waiting": 512,
        "max_waiting_tokens": 2**20,
        "max_waiting_seconds": None,
        "latency_seconds": None,
        "shares_prefixes": True,
        "kv_cache_bytes": 128 * 1024,
        "kv_blocks": 128,
        "block_size": 16,
        "block_bytes": 1024,
        "context_limit": 512,
        "yardstick": None,
    }
    return TracedEngine(**(values | changes))


def traced_request(**changes) -> TracedRequest:
    """A request of one tenant, 32 tokens in and 16 out."""
    values = {
        "arrival": 0.0,
        "prompt": 32,
        "output": 16,
        "cached": 0,
        "tenant": "t",
        "weight": 1,
        "priority": 0,
        "queue_seconds": 0.0,
        "first_seconds": 0.1,
        "end_seconds": 0.5,
        "finish": "length",
    }
    return TracedRequest(**(values | changes))


def traced_intervals(found, asked, *, cost, engine, count=8, **figures) -> tuple[TracedInterval, ...]:
    """What a simulation did, evenly over some intervals; `figures` are set as they are given."""
    prompt_tokens = sum(each.prompt for each in asked) - found.cached_tokens
    steps = max(count, found.steps)
    rows, prompts = found.output_tokens / steps, prompt_tokens / steps
    intervals = []
    for place in range(count):
        sums = StepSums()
        for weight in (0.5, 1.0, 1.5):
            for few in (0, 1):
                row, prompt = round(rows * weight) + 1, round(prompts * weight) * few
                sums.add(rows=row, prompt_tokens=prompt, seconds=cost.seconds(rows=row, prompt_tokens=prompt))
        values = {
            "at": found.seconds * (place + 1) / count,
            "seconds": found.seconds / count,
            "busy_seconds": found.busy_seconds / count,
            "steps": steps // count,
            "sums": sums,
            "running": found.running,
            "waiting": 0.0,
            "kv_used": 0.5,
            "kv_full": found.kv_full,
            "prompt_tokens": prompt_tokens // count,
            "rows": found.output_tokens // count,
            "preemptions": found.preemptions // count,
            "refused": 0,
            "process_seconds": found.busy_seconds / count,
            "stolen": 0.0,
            "throttled_seconds": 0.0,
            "delivery_seconds": 0.0,
            "unread": 1,
            "pressure": 0.3,
        }
        intervals.append(TracedInterval(**(values | figures)))
    return tuple(intervals)
