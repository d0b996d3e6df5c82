"""What comes for one reader in an event loop, in order: it is woken once, however much has come."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Item = TypeVar("_Item")


class Mailbox(Generic[_Item]):
    """Holds items until they are taken; used within one event loop, by one reader at a time."""

    def __init__(self) -> None:
        self._items: deque[_Item] = deque()
        self._came: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self._items)

    def put(self, item: _Item) -> None:
        """Add an item."""
        self._items.append(item)
        if self._came is not None and not self._came.done():
            self._came.set_result(None)

    async def take(self) -> _Item:
        """Return the next item; wait for it if there is none."""
        while not self._items:
            self._came = asyncio.get_running_loop().create_future()
            await self._came
        return self._items.popleft()

    def take_while(self, is_wanted: Callable[[_Item], bool]) -> list[_Item]:
        """Return the items that are there already, up to the first which is not wanted."""
        taken: list[_Item] = []
        while self._items and is_wanted(self._items[0]):
            taken.append(self._items.popleft())
        return taken
