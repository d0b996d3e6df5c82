from __future__ import annotations

import asyncio

import pytest

from tritium.engine.request import SamplingParams, TokenOutput
from tritium.errors import AuthorizationError, ProcessingError
from tritium.protocol.calls import GenerationCall
from tritium.protocol.stream import Fanout


def output(call: GenerationCall, *, text: str, finish_reason: str | None = None) -> TokenOutput:
    return TokenOutput(
        request_id=call.request_id,
        text=text,
        token_ids=(1,),
        finish_reason=finish_reason,
        prompt_tokens=3,
        completion_tokens=1,
        compute_seconds=0.0,
        queue_seconds=0.0,
        peak_kv_bytes=0,
    )


class ScriptedBackend:
    """Behaves as the prompt of each call says; remembers who was closed."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.closed: list[str] = []

    async def generate(self, calls):
        if any(call.prompt == "refused" for call in calls):
            raise AuthorizationError("not you")
        return [self._outputs(call) for call in calls]

    async def _outputs(self, call: GenerationCall):
        self.begun.append(call.request_id)
        try:
            yield output(call, text="a")
            if call.prompt == "endless":
                await asyncio.Event().wait()
            if call.prompt == "whole":
                yield output(call, text="b", finish_reason="stop")
        finally:
            self.closed.append(call.request_id)


def calls(*prompts: str) -> list[GenerationCall]:
    return [
        GenerationCall(request_id=str(place), model="m", prompt=prompt, sampling=SamplingParams())
        for place, prompt in enumerate(prompts)
    ]


async def test_all_choices_are_collected_and_closed():
    backend = ScriptedBackend()
    fanout = Fanout(backend, calls("whole", "whole"), choices_per_prompt=2)
    assert [choice.text for choice in await fanout.drain()] == ["ab", "ab"]
    assert fanout.prompt_tokens == 3
    await fanout.aclose()
    assert sorted(backend.closed) == ["0", "1"]


async def test_one_failing_choice_fails_the_answer_and_closing_ends_the_others():
    backend = ScriptedBackend()
    fanout = Fanout(backend, calls("endless", "cut"), choices_per_prompt=1)
    with pytest.raises(ProcessingError):
        await fanout.drain()
    await fanout.aclose()
    assert "0" in backend.closed


async def test_one_refused_choice_refuses_all_before_any_begins():
    backend = ScriptedBackend()
    fanout = Fanout(backend, calls("endless", "refused"), choices_per_prompt=1)
    with pytest.raises(AuthorizationError):
        await fanout.begin()
    await fanout.aclose()
    assert backend.closed == []


@pytest.mark.parametrize("num_calls", [1, 2])
async def test_a_client_that_leaves_at_any_moment_leaves_nothing_open(num_calls):
    for pauses in range(8):
        backend = ScriptedBackend()
        fanout = Fanout(backend, calls(*["endless"] * num_calls), choices_per_prompt=1)
        work = asyncio.create_task(fanout.drain())
        for _ in range(pauses):
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await fanout.aclose()
        assert backend.closed == backend.begun
        assert backend.begun or pauses < 2


class OneAtATime(ScriptedBackend):
    """Begins a text when the one before it has ended."""

    def __init__(self) -> None:
        super().__init__()
        self._place = asyncio.Semaphore(1)

    async def _outputs(self, call: GenerationCall):
        async with self._place:
            async for each in super()._outputs(call):
                yield each


async def test_texts_of_which_one_waits_for_the_end_of_another_all_come():
    fanout = Fanout(OneAtATime(), calls("whole", "whole", "whole"), choices_per_prompt=1)
    async with asyncio.timeout(5):
        choices = await fanout.drain()
    assert [choice.text for choice in choices] == ["ab"] * 3
    await fanout.aclose()
