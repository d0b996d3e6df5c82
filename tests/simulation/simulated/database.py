"""Tables that outlive the process: what was committed stays, what was not is nobody's."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import asynccontextmanager

from tritium_platform.adapters.memory.database import MemoryDatabase, _writing
from tritium_platform.errors import OverloadedError


class WorldDatabase(MemoryDatabase):
    """The database in memory as a server behind a network: it takes time, and it can be away.

    Whoever is outside of a transaction sees what is committed, and nothing else.

    Args:
        tables: what earlier lives left.
        chance: decides how long it takes and when it fails.
        faults: the share of transactions that fail, before or after their commit.
        on_commit: is told the tables before and after.
    """

    def __init__(self, tables, *, chance, faults, on_commit):
        self.committed = tables
        self.faults = faults
        self.is_dead = False
        self.settle_first = None
        self._writer = asyncio.Lock()
        self._working = None
        self._chance = chance
        self._on_commit = on_commit

    @property
    def tables(self):
        """What whoever asks can see."""
        if self._working is not None and _writing.get() is self:
            return self._working
        return self.committed

    async def read_books(self):
        await super().read_books()
        await self._pause()

    @asynccontextmanager
    async def write(self):
        if self._working is not None and _writing.get() is self:
            if self._chance.random() < 0.2:
                await self._pause()
            yield
            return
        await self._pause()
        async with self._writer:
            self._fail("before")
            around = _writing.get()
            self._working = defaultdict(dict, {name: dict(rows) for name, rows in self.committed.items()})
            _writing.set(self)
            try:
                yield
                await self._pause()
                self._fail("instead of")
                self._commit()
            finally:
                self._working = None
                _writing.set(around)
            self._fail("after")

    def _commit(self):
        before, self.committed = self.committed, self._working
        self._on_commit(before, self.committed)

    async def _pause(self):
        await asyncio.sleep(self._chance.random() * 0.003)

    def _fail(self, moment):
        if self.is_dead or (self.faults and self._chance.random() < self.faults):
            raise OverloadedError(f"The database went away {moment} the commit.")
