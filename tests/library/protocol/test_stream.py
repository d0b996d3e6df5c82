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
        self.closed: list[str] = []

    async def generate(self, call: GenerationCall):
        if call.prompt == "refused":
            raise AuthorizationError("not you")
        return self._outputs(call)

    async def _outputs(self, call: GenerationCall):
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


@pytest.mark.parametrize(("prompt", "error"), [("refused", AuthorizationError), ("cut", ProcessingError)])
async def test_one_failing_choice_fails_the_answer_and_closing_ends_the_others(prompt, error):
    backend = ScriptedBackend()
    fanout = Fanout(backend, calls("endless", prompt), choices_per_prompt=1)
    with pytest.raises(error):
        await fanout.drain()
    await fanout.aclose()
    assert "0" in backend.closed
