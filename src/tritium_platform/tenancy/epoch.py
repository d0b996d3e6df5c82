"""The authorization epoch as this process knows it: whether any process has changed a tenant or a key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tritium_platform.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritium_platform.tenancy.store import TenantStore
    from tritium_platform.values import Clock

_UNKNOWN = -1


class AuthorizationEpoch:
    """The number that grows with every change, read again when it is not fresh any more.

    Args:
        store: where it is kept.
        clock: the time.
        fresh_nanoseconds: how long it is fresh after it was read.
        went_back: called before a lower number is taken over.
    """

    def __init__(
        self, *, store: TenantStore, clock: Clock, fresh_nanoseconds: int, went_back: Callable[[], None]
    ) -> None:
        self._store = store
        self._clock = clock
        self._fresh_nanoseconds = fresh_nanoseconds
        self._went_back = went_back
        self.number = _UNKNOWN
        self.fresh_until = _UNKNOWN  # monotonic nanoseconds
        self._unread_at = _UNKNOWN
        self._poll = asyncio.Lock()

    async def refresh(self) -> None:
        """Read it unless it is fresh.

        Raises:
            OverloadedError: the database is away.
        """
        asked = self._clock.monotonic_nanoseconds()
        if asked < self.fresh_until:
            return
        async with self._poll:
            # The time is taken before the read: a change during the read is seen by the next poll.
            now = self._clock.monotonic_nanoseconds()
            if now < self.fresh_until:
                return
            if self._unread_at > asked:  # one attempt is for all who waited for it
                raise not_answering()
            try:
                number = await self._store.authorization_epoch()
            except OverloadedError:
                self._unread_at = self._clock.monotonic_nanoseconds()
                raise
            if number < self.number:  # of a standby that had not heard of everything: numbers come again
                self._went_back()
            self.number = number
            self.fresh_until = now + self._fresh_nanoseconds

    def forget(self) -> None:
        """Have it read again; what is being looked up right now is not kept."""
        self.number = self.fresh_until = _UNKNOWN


def not_answering() -> OverloadedError:
    """Return the error of a database that says nothing."""
    return OverloadedError("The database does not answer: try again in a moment.")
