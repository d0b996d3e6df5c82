"""Tables in memory with transactions: one writer at a time, and a snapshot to go back to."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

_writing: ContextVar[MemoryDatabase | None] = ContextVar("tritium_memory_transaction", default=None)


class MemoryDatabase:
    """Named tables of immutable values by key; what fails inside `write` leaves no trace."""

    def __init__(self) -> None:
        self.tables: defaultdict[str, dict[Any, Any]] = defaultdict(dict)
        self._writer = asyncio.Lock()
        # What is on its way into the books is waited for before they are read; see `read_books`.
        self.settle_first: Callable[[], Awaitable[None]] | None = None

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[None]:
        """Let everything written inside stay together or vanish together."""
        async with self.write():
            yield

    async def read_books(self) -> None:
        """Wait until everything is in the books that a client was told of."""
        if self.settle_first is not None and _writing.get() is not self:
            await self.settle_first()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[None]:
        """Join the unit of work around, or be one."""
        if _writing.get() is self:
            yield
            return
        async with self._writer:
            before = {name: dict(table) for name, table in self.tables.items()}
            around = _writing.get()
            _writing.set(self)
            try:
                yield
            except BaseException:
                self.tables.clear()
                self.tables.update(before)
                raise
            finally:
                _writing.set(around)
