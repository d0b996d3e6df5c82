"""What an engine says of each request, until whoever waits for its answer takes it."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tritium.engine.mailbox import Mailbox
from tritium_platform.adapters import engine_messages as messages
from tritium_platform.adapters.failed_message import Failed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritium.engine.request import TokenOutput

Letter = messages.Tokens | messages.Embedded | Failed
Letters = Mailbox[Letter | None]  # of one request; None if the engine is gone


class EngineLetters:
    """The letters of one engine, by their requests."""

    def __init__(self) -> None:
        self._waiting: dict[str, Letters] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        """Return how many requests are waited for."""
        return len(self._waiting)

    @contextmanager
    def of(self, request_id: str) -> Iterator[Letters]:
        """Keep what is said of a request from now on, and no longer than its reader stays."""
        letters: Letters = Mailbox()
        self._waiting[request_id] = letters
        self._empty.clear()
        try:
            yield letters
        finally:
            self._waiting.pop(request_id, None)
            if not self._waiting:
                self._empty.set()

    def deliver(self, request_id: str, letter: Letter) -> None:
        """Hand on what is said of a request, if anybody waits for it."""
        letters = self._waiting.get(request_id)
        if letters is not None:
            letters.put(letter)

    def lose_all(self) -> None:
        """Tell everybody who waits that the engine is gone."""
        for letters in self._waiting.values():
            letters.put(None)

    async def wait_until_empty(self) -> None:
        """Wait until nobody waits for an answer."""
        await self._empty.wait()


def ready_outputs(letters: Letters) -> list[TokenOutput]:
    """Return what else has come of an answer, for a reader that was not there when it came."""
    ready = letters.take_while(lambda each: isinstance(each, messages.Tokens) and each.output.goes_on)
    return [each.output for each in ready if isinstance(each, messages.Tokens)]
