"""An engine behind a network: messages are lost, come twice, overtake each other; and the engine dies."""

from __future__ import annotations

import asyncio

from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities
from tritium_platform.serving.errors import EngineUnavailableError
from tritium_platform.serving.model import Consumption
from tritium_platform.tenancy.model import Scope

SILENCE = 2.0


class Engine:
    """Gives tokens of one request after the other to whoever asked, over a network with `faults`."""

    def __init__(self, *, chance, faults):
        self._chance = chance
        self.faults = faults
        self._mailboxes = {}
        self._working = set()

    def submit(self, name, *, tokens):
        """Ask for tokens; return the mailbox in which they arrive as (place, of how many)."""
        mailbox = self._mailboxes[name] = asyncio.Queue()
        self._send(lambda: self._begin(name, tokens))
        return mailbox

    def forget(self, name):
        """Nobody waits for these tokens any more."""
        self._mailboxes.pop(name, None)

    def die(self):
        """Lose everything that is being worked on."""
        for work in sorted(self._working, key=lambda each: each.get_name()):
            work.cancel()
        for name in sorted(self._mailboxes):
            self._mailboxes[name].put_nowait(None)

    def _send(self, deliver):
        """Deliver a message once, never, or twice; each in its own time."""
        loop, draw = asyncio.get_running_loop(), self._chance.random()
        times = 0 if draw < self.faults else 2 if draw < 2 * self.faults else 1
        for _ in range(times):
            loop.call_later(self._chance.random() * 0.02, deliver)

    def _begin(self, name, tokens):
        if name not in self._mailboxes or any(each.get_name() == name for each in self._working):
            return
        work = asyncio.get_running_loop().create_task(self._generate(name, tokens), name=name)
        self._working.add(work)
        work.add_done_callback(self._working.discard)

    async def _generate(self, name, tokens):
        for place in range(1, tokens + 1):
            await asyncio.sleep(self._chance.random() * 0.02)
            self._send(lambda place=place: self._deliver(name, (place, tokens)))

    def _deliver(self, name, message):
        if name in self._mailboxes:
            self._mailboxes[name].put_nowait(message)


class Words:
    """A customer's request for words: it puts what arrives in order, and gives up after a silence.

    `ends` is set when the last word has come, before anybody has it.
    """

    scope = Scope.INFERENCE
    operation = OperationType.COMPLETION
    model = "m"
    subject = ResourceIdentifier("deployment", "d")

    def __init__(self, engine, *, name, tokens, prompt, ends=None):
        self._engine = engine
        self._name = name
        self._tokens = tokens
        self._prompt = prompt
        self._ends = ends
        self.given = 0

    async def admit(self, context):
        return self._prompt + self._tokens

    async def execute(self):
        mailbox, early = self._engine.submit(self._name, tokens=self._tokens), set()
        try:
            while self.given < self._tokens:
                early.add(await self._next(mailbox))
                while self.given + 1 in early:
                    self.given += 1
                    if self._ends is not None and self.given == self._tokens:
                        self._ends.set()
                    yield self.given
        finally:
            self._engine.forget(self._name)

    async def _next(self, mailbox):
        try:
            async with asyncio.timeout(SILENCE):
                message = await mailbox.get()
        except TimeoutError:
            message = None
        if message is None:
            raise EngineUnavailableError("The engine is away; send the request again in a moment.")
        return message[0]

    def is_last(self, piece):
        return piece == self._tokens

    def release(self):
        """It holds nothing."""

    def consumed(self, outcome):
        return Consumption(
            quantities=UsageQuantities(
                input_tokens=self._prompt if self.given else 0, output_tokens=self.given
            ),
            resources=ResourceUsage(compute_time_ms=self.given),
            tokens=self._prompt + self.given if self.given else 0,
            is_counted=self.given > 0,
        )
