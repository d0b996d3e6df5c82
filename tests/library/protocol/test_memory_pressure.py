"""What clients see of an engine that is short of memory."""

from __future__ import annotations

import time

import openai
import pytest

from tritium.engine import governor as governor_module
from tritium.engine.pressure import PressureLadder, Rung
from tritium.engine.resources import MemoryBudget, MemoryReading
from tritium.protocol.app import create_app

pytestmark = pytest.mark.serve
LIMIT, TOKENS = 1000 * 2**20, 1500


def wait_until(claim):
    deadline = time.monotonic() + 30
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_new_requests_are_refused_while_a_stream_goes_on_and_let_in_again_later(
    scripture_llama_without_end, serving, monkeypatch
):
    used = [0.3]

    def read():
        budget = MemoryBudget(name="group", limit_bytes=LIMIT, used_bytes=int(used[0] * LIMIT))
        return MemoryReading(budgets=(budget,))

    monkeypatch.setattr(governor_module, "CHECK_SECONDS", 0.01)
    app = create_app(scripture_llama_without_end, served_name="m", threads=1)
    thread = app.state.backend.thread
    governor = thread._engine.governor
    monkeypatch.setattr(governor, "_read", read)
    monkeypatch.setattr(governor, "_ladder", PressureLadder(climb_seconds=0.01, calm_seconds=0.05))
    step, is_slow = thread._engine.step, [True]

    def take_time():  # or the stream is over, and memory nobody's, before anybody else has asked
        if is_slow[0]:
            time.sleep(0.01)
        return step()

    monkeypatch.setattr(thread._engine, "step", take_time)
    with (
        serving(app) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):

        def ask(**more):
            return client.completions.create(model="m", prompt="And", temperature=0, **more)

        extra = {"extra_body": {"ignore_eos": True}, "stream_options": {"include_usage": True}}
        stream = ask(max_tokens=TOKENS, stream=True, **extra)
        next(stream)
        used[0] = 0.97
        wait_until(lambda: thread.metrics.pressure_rung == Rung.REFUSE)
        wait_until(lambda: governor._room.is_short_of_memory)  # at the end of the same look at memory
        with pytest.raises(openai.InternalServerError) as caught:
            ask(max_tokens=2)
        assert caught.value.status_code == 503
        assert caught.value.code == "insufficient_memory"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        is_slow[0] = False
        used[0] = 0.3
        wait_until(lambda: thread.metrics.pressure_rung == Rung.CALM)
        assert ask(max_tokens=2).usage.completion_tokens == 2
        *_, last = stream
        assert last.usage.completion_tokens == TOKENS
        assert thread.metrics.refused == {"memory": 1}
