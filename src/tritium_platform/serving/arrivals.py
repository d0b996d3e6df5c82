"""What arrives over the wire: how much at the same time, and how it comes onto the disk."""

from __future__ import annotations

import contextlib
from collections import Counter
from datetime import timedelta
from typing import IO, TYPE_CHECKING

from tritium.formats.storage import storage_error
from tritium_platform.errors import RateLimitExceededError, RequestTooLargeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path
    from uuid import UUID

    from tritium_platform.values import Clock

# What arrives is counted against the storage when it is there; until then its number is bounded.
MAX_AT_ONCE = 4
RETRY_SECONDS = 10


class Arrivals:
    """Gives each tenant a few places for what is on its way; `kind` names it in the refusal."""

    def __init__(self, *, kind: str, clock: Clock) -> None:
        self._kind = kind
        self._clock = clock
        self._arriving: Counter[UUID] = Counter()

    @contextlib.contextmanager
    def place_for(self, tenant_id: UUID) -> Iterator[None]:
        """Hold a place; raises RateLimitExceededError if the tenant has them all."""
        if self._arriving[tenant_id] >= MAX_AT_ONCE:
            raise RateLimitExceededError(
                limit_name=f"concurrent {self._kind}",
                limit=MAX_AT_ONCE,
                current=self._arriving[tenant_id],
                reset_time=self._clock.now() + timedelta(seconds=RETRY_SECONDS),
                retry_after=RETRY_SECONDS,
            )
        self._arriving[tenant_id] += 1
        try:
            yield
        finally:
            self._arriving[tenant_id] -= 1
            if not self._arriving[tenant_id]:
                del self._arriving[tenant_id]


async def write_arriving(chunks: AsyncIterator[bytes], *, path: Path, limit: int, limit_name: str) -> int:
    """Write what arrives to a new file and return its bytes; it stays only if all of it came.

    Raises:
        RequestTooLargeError: more than `limit` bytes came.
        ResourceError: the disk is full.
    """
    received = 0
    try:
        with _removed_on_failure(path) as file:
            async for chunk in chunks:
                received += len(chunk)
                if received > limit:
                    raise RequestTooLargeError(limit_name=limit_name, limit=limit, current=received)
                file.write(chunk)
    except OSError as error:
        raise storage_error(error, path=path) from error
    return received


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[IO[bytes]]:
    """Give a new file to write; it stays only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise
