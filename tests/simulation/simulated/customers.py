"""Customers: they ask, stay or leave, ask again with the same key, and look at what is theirs."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime

from simulated.engine import Words
from tritium_platform.api.traffic import HttpTraffic
from tritium_platform.errors import BitNetServiceError, NotFoundError
from tritium_platform.values import uuid7

FROM, UNTIL = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
PATIENCE = 60


class Customer:
    """One customer's client; its `tenant` is (name, tenant id, key)."""

    def __init__(self, world, process, engine, *, tenant, chance):
        self._world = world
        self._process = process
        self._engine = engine
        self._tenant = tenant
        self._chance = chance

    async def act(self):
        """Do something a customer does."""
        await asyncio.sleep(self._chance.random() * 0.3)
        draw = self._chance.random()
        if draw < 0.62:
            await self._ask()
        elif draw < 0.72:
            await self._leave_in_the_middle()
        elif draw < 0.86:
            await self.insist(uuid7(self._process.clock), tokens=self._chance.randint(1, 5))
        else:
            await self._look()

    async def _ask(self):
        stays = self._chance.random() < 0.7
        leaves_after = None if stays else self._chance.randint(0, 4)
        await self._walk(tokens=self._chance.randint(1, 5), leaves_after=leaves_after)

    async def _leave_in_the_middle(self):
        """Close the connection at any moment, or just when the end of the answer is written down."""
        ends, moment = asyncio.Event(), self._chance.random()
        event_id = uuid7(self._process.clock) if moment < 0.5 else None  # settled in a transaction of its own
        walk = asyncio.create_task(
            self._walk(tokens=self._chance.randint(1, 5), event_id=event_id, ends=ends)
        )
        walk.add_done_callback(lambda _: ends.set())
        if event_id is not None:
            await ends.wait()
        await asyncio.sleep(moment * 0.1)
        walk.cancel()
        await asyncio.gather(walk, return_exceptions=True)

    async def insist(self, event_id, *, tokens):
        """Ask under one id until it is answered, sometimes twice at once; after a crash, in the next life."""
        self._world.unfinished[event_id] = (self._tenant, tokens)
        if self._chance.random() < 0.3:
            await asyncio.gather(*(self._walk(tokens=tokens, event_id=event_id) for _ in range(2)))
        for _ in range(PATIENCE):
            request = await self._walk(tokens=tokens, event_id=event_id)
            if request.is_complete or request.state == "refused":
                del self._world.unfinished[event_id]
                return
            await asyncio.sleep(self._chance.random())

    async def _walk(self, *, tokens, leaves_after=None, event_id=None, ends=None):
        world, (name, tenant_id, key) = self._world, self._tenant
        label = f"{name}{len(world.witness.requests)}"
        request = world.witness.begin(label, tenant_id, event_id=event_id)
        work = Words(self._engine, name=label, tokens=tokens, prompt=self._chance.randint(1, 9), ends=ends)
        try:
            (passage,) = await self._process.gateway.process_customer_requests(
                [work],
                token=key,
                request_id=label,
                event_ids=event_id and [event_id],
                # Every other answer is counted: that one settles when its end is about to go out.
                traffic=HttpTraffic() if len(world.witness.requests) % 2 else None,
            )
        except BitNetServiceError as error:
            request.state = "refused"
            self._hear(error.message, error.details)
            world.note(f"{label} refused: {error.code}")
            return request
        request.state = "admitted"
        try:
            await self._read(passage, request, leaves_after=leaves_after)
        except BitNetServiceError as error:
            world.note(f"{label} failed after {request.tokens}: {error.code}")
        except asyncio.CancelledError:
            with contextlib.suppress(
                asyncio.CancelledError
            ):  # nobody hangs up twice: the end is written all the same
                await passage.aclose()
            request.state, request.tokens = "ended", work.given
            world.note(f"{label} hung up after {request.tokens}")
            raise
        else:
            request.state = "ended"
            world.note(f"{label} ended after {request.tokens}")
        return request

    async def _read(self, passage, request, *, leaves_after):
        failure = None
        if leaves_after != 0:
            try:
                async for piece in passage:
                    request.tokens = piece
                    if piece == leaves_after:
                        break
                else:
                    await passage.finish()
                    request.is_complete = True
            except BitNetServiceError as error:
                failure = error
        await passage.aclose()  # raises if it could not be written down
        if failure is not None:
            request.state = "ended"
            raise failure

    async def _look(self):
        """Read what is mine, and try to read what is not."""
        _, tenant_id, _ = self._tenant
        try:
            records = await self._process.metering.list(tenant_id, start=FROM, end=UNTIL, limit=100)
            invoices = await self._process.desk.invoices.list(tenant_id=tenant_id)
            self._hear(records, invoices)
            for invoice_id in sorted(self._process.database.tables["invoices"]):
                await self._probe(invoice_id)
        except BitNetServiceError as error:
            self._hear(error.message, error.details)

    async def _probe(self, invoice_id):
        _, tenant_id, _ = self._tenant
        desk = self._process.desk
        try:
            invoice = await desk.invoices.get(invoice_id, tenant_id=tenant_id)
            self._hear(invoice, await desk.invoices.body(invoice))
        except NotFoundError as error:
            self._hear(error.message, error.details)

    def _hear(self, *answer):
        """Look for the name of anybody else in an answer."""
        text = repr(answer)
        for name, tenant_id, key in self._world.tenants:
            is_mine = name == self._tenant[0]
            if not is_mine and (str(tenant_id) in text or tenant_id.hex in text or key.split("_")[2] in text):
                self._world.witness.leaks.append(f"{self._tenant[0]} was told of {name}: {text[:200]}")
