"""What lies in a spool on its way into the books in groups, which are parted where the whole is too much.

A position inside a frame says how many of its items are in the books: that many bytes behind its start. Every
item has more bytes than one, so such a position lies before the frame's end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar
from uuid import UUID

from tritium_platform.errors import BitNetServiceError, RetriesExhaustedError
from tritium_platform.resilience import Deadline, ResilientCaller
from tritium_platform.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tritium_platform.values import Clock

# Longer than a gateway waits for its bookkeeper: the one who knows more gives up first.
ATTEMPT_SECONDS = 120.0
CALL_SECONDS = 600.0
# Who drains tries again for ever, and says when.
POLICY = RetryPolicy(max_attempts=1, attempt_seconds=ATTEMPT_SECONDS)
Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)


class GroupStore(Protocol[Item_contra]):
    """Brings items of a spool into the books, each once."""

    async def apply(self, items: Sequence[Item_contra], /, *, spool_id: UUID, position: int) -> None:
        """Bring items into the books together with the position behind them.

        Nothing happens if the books are at that position already, or further.
        """


@dataclass(frozen=True, slots=True)
class SpoolFrame(Generic[Item]):
    """Items that are durable and not in the books yet, or a part of them.

    They lie in the spool from `start` on; when they are in the books, `end` is its position.
    """

    path: Path
    start: int
    end: int
    items: Sequence[Item]

    def behind(self, position: int) -> SpoolFrame[Item]:
        """Return what is not in the books yet when the spool is at a position, which lies before the end."""
        done = max(0, position - self.start)
        return replace(self, start=self.start + done, items=self.items[done:])

    def halves(self) -> list[SpoolFrame[Item]]:
        """Return two halves; itself alone if it is one item."""
        count = len(self.items) // 2
        if not count:
            return [self]
        first = replace(self, end=self.start + count, items=self.items[:count])
        return [first, self.behind(first.end)]


class SpoolGroup(Generic[Item]):
    """Frames of one spool, one behind the other; `parts` of them are still to be brought in, each at once.

    A part never grows: it may be in the books, and only the answer was lost.
    """

    def __init__(self, frames: Sequence[SpoolFrame[Item]]) -> None:
        self.frames = frames
        self.parts = [frames]

    def halve(self) -> bool:
        """Part what comes next in two; False if it is one item."""
        part = self.parts[0]
        if len(part) == 1:
            part = part[0].halves()
        middle = len(part) // 2
        if not middle:
            return False
        self.parts[:1] = [part[:middle], part[middle:]]
        return True


class GroupWriter(Generic[Item]):
    """Brings groups into the books part by part."""

    def __init__(self, store: GroupStore[Item], *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._caller = ResilientCaller(neighbour="writing the books", clock=clock, policy=POLICY)

    async def write_next(self, group: SpoolGroup[Item]) -> int:
        """Bring in what comes next, halved until the database takes it; return how many items.

        Raises:
            BitNetServiceError: it is not known to be in the books; call again with the same group.
        """

        async def write(_: Deadline) -> int:
            part = group.parts[0]
            items = [each for frame in part for each in frame.items]
            await self._store.apply(items, spool_id=UUID(part[0].path.stem), position=part[-1].end)
            del group.parts[0]
            return len(items)

        deadline = Deadline.after(self._clock, seconds=CALL_SECONDS)
        try:
            return await self._caller.call(write, deadline=deadline, shrink=group.halve)
        except RetriesExhaustedError as error:  # there was one attempt: its own words say more
            if isinstance(error.__cause__, BitNetServiceError):
                raise error.__cause__ from None
            raise
