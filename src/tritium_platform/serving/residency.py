"""Which models are in memory: loaded when asked for, within a budget that tenants share fairly."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from tritium_platform.errors import BitNetServiceError, InsufficientMemoryError
from tritium_platform.serving.errors import EngineUnavailableError
from tritium_platform.serving.memory_shares import leaving_order, share_memory
from tritium_platform.serving.pool import Lease

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tritium_platform.serving.memory_shares import MemoryShare
    from tritium_platform.serving.pool import Pool
    from tritium_platform.values import Clock

_log = structlog.get_logger(__name__)
_NANOSECONDS = 1_000_000_000
MOST_WAITING = 256


class _NoRoomError(EngineUnavailableError):
    """What has the memory was in use for as long as a load may wait."""


class Residency:
    """Keeps what is charged for engines within a budget.

    A pool that is held, pinned or loading is never unloaded for another; one load serves all who wait for it.

    Args:
        budget_bytes: memory of all engines together; 0: no bound, and nothing leaves for another.
        load_seconds: how long a request waits for its model.
        idle_seconds: a pool that nobody used for so long since it was there leaves; 0: it stays.
        drain_seconds: how long what runs may take to finish when everything ends.
    """

    def __init__(
        self,
        *,
        budget_bytes: int,
        load_seconds: float,
        idle_seconds: float,
        drain_seconds: float,
        clock: Clock,
    ) -> None:
        self._budget = budget_bytes
        self._load_seconds = load_seconds
        self._idle_seconds = idle_seconds
        self._drain_seconds = drain_seconds
        self._clock = clock
        self._pools: dict[Pool, None] = {}
        self._making_room = asyncio.Lock()
        self._freed = asyncio.Event()

    @property
    def is_bounded(self) -> bool:
        """Whether there is a budget: without one nobody asks what a model needs."""
        return bool(self._budget)

    @property
    def pools(self) -> Sequence[Pool]:
        """All pools, those that are being replaced among them."""
        return list(self._pools)

    @property
    def charged_bytes(self) -> int:
        """What all engines are charged at this moment."""
        return sum(pool.charged_bytes for pool in self._pools)

    @property
    def budget_bytes(self) -> int:
        """Memory of all engines together; 0: no bound."""
        return self._budget

    def shares(self) -> Sequence[MemoryShare]:
        """Return what each tenant has of the memory, what it should have and why, by their ids."""
        shares = share_memory(self._pools, budget=self._budget, now=self._clock.monotonic_nanoseconds())
        return [shares[tenant] for tenant in sorted(shares)]

    def add(self, *pools: Pool) -> None:
        """Take pools under control; they are not loaded yet."""
        self._pools |= dict.fromkeys(pools)

    def require_room(self, required: int, *, of: Pool | None = None, beside: Pool | None = None) -> None:
        """Refuse what would not fit even if all that may leave had left.

        Args:
            required: bytes.
            of: the pool that needs them, if it is under control already.
            beside: a pool that has to stay.

        Raises:
            InsufficientMemoryError: details: required, available (bytes).
        """
        stay = [pool for pool in self._pools if pool.deployment.is_pinned or pool is beside]
        taken = sum(pool.charged_bytes or pool.required_bytes for pool in stay if pool is not of)
        available = max(0, self._budget - taken)
        if self._budget and required > available:
            raise InsufficientMemoryError(
                f"The model may need {required} bytes of memory, and {available} can be had at most: "
                f"the engines' budget is {self._budget} bytes, and {taken} of them are not to be freed.",
                required=required,
                available=available,
            )

    async def lease(self, pool: Pool) -> Lease:
        """Hold a pool in memory; one that is not there is loaded first.

        Raises:
            InsufficientMemoryError: it does not fit beside what is pinned.
            EngineUnavailableError: it cannot be loaded, or not in time; too many wait for it; it has gone.
        """
        if pool.is_retired and not pool.is_in_memory:
            raise EngineUnavailableError("The model was replaced: send the request again.", retry_after=1)
        if pool.leases >= MOST_WAITING and pool.is_starting:
            raise EngineUnavailableError(
                f"{MOST_WAITING} requests wait for the model of {pool.deployment.name} already.",
                retry_after=1,
            )
        pool.leases += 1
        pool.idle.clear()
        pool.last_used = self._clock.monotonic_nanoseconds()
        lease = Lease(pool, on_release=self._release)
        try:
            if not pool.is_in_memory or (pool.loading is not None and pool.is_starting):
                await self._wait_loaded(pool)
        except BaseException:
            lease.release()
            raise
        return lease

    def load(self, pool: Pool) -> asyncio.Task[None]:
        """Begin to load a pool; return the one load that is under way, for everybody."""
        if pool.loading is None:
            pool.loading = asyncio.create_task(self._load(pool), name=f"load {pool.deployment.name}")
            pool.loading.add_done_callback(lambda task: self._loaded(pool, task))
        return pool.loading

    def load_what_fits(self, pools: Iterable[Pool]) -> None:
        """Begin to load pools, pinned ones first, as long as there is room for all of them together."""
        room = self._budget
        for pool in sorted(pools, key=lambda each: not each.deployment.is_pinned):
            if not self._budget or pool.required_bytes <= room:
                room -= pool.required_bytes
                self.load(pool)

    async def retire(self, pool: Pool) -> None:
        """Let what holds a pool be finished, then stop it for good."""
        pool.is_retired = True
        while pool.leases:
            await pool.idle.wait()
        if pool.loading is not None:
            pool.loading.cancel()
        await self._unload(pool)
        self._pools.pop(pool, None)

    async def trim(self) -> None:
        """Unload what nobody used for long, and if engines have outgrown the budget, what nobody uses now."""
        async with self._making_room:
            if self._idle_seconds:
                since = self._clock.monotonic_nanoseconds() - round(self._idle_seconds * _NANOSECONDS)
                idle = [each for each in self._pools if max(each.last_used, each.loaded_at) < since]
                await self._unload(*(each for each in idle if each.is_evictable))
            while self._excess(0) and (leaving := self._leaving_order(None)):
                await self._unload(leaving[0])

    async def shut_down(self) -> None:
        """Let every pool finish what it runs, then stop it."""
        pools = list(self._pools)
        for pool in pools:
            if pool.loading is not None:
                pool.loading.cancel()
        await asyncio.gather(*(pool.drain(timeout=self._drain_seconds) for pool in pools))
        self._pools.clear()

    def _excess(self, required: int) -> int:
        """Return by how much the budget would be exceeded with so many bytes more."""
        return max(0, self.charged_bytes + required - self._budget) if self._budget else 0

    def _release(self, pool: Pool) -> None:
        pool.leases -= 1
        pool.last_used = self._clock.monotonic_nanoseconds()
        if not pool.leases:
            pool.idle.set()
            self._freed.set()

    async def _wait_loaded(self, pool: Pool) -> None:
        try:
            async with asyncio.timeout(self._load_seconds):
                load = self.load(pool)
                await asyncio.wait({load})
                # Whoever came late to a load that gave up waiting for room has time left for another.
                while not load.cancelled() and isinstance(load.exception(), _NoRoomError):
                    load = self.load(pool)
                    await asyncio.wait({load})
        except TimeoutError:
            raise EngineUnavailableError(
                f"The model of {pool.deployment.name} was not in memory within {self._load_seconds:g} s: it "
                "is slow to load, or those that have the room are in use. Send the request again later.",
                retry_after=1,
            ) from None
        if load.cancelled():
            raise EngineUnavailableError(
                f"The deployment {pool.deployment.name} is going away: it was not loaded any more.",
                retry_after=1,
            )
        load.result()

    async def _load(self, pool: Pool) -> None:
        async with self._making_room:
            if not pool.is_in_memory:
                await self._make_room(pool)
                pool.launch()
        await pool.start()

    def _loaded(self, pool: Pool, task: asyncio.Task[None]) -> None:
        pool.loading = None
        pool.loaded_at = self._clock.monotonic_nanoseconds()
        self._freed.set()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            reason = error.message if isinstance(error, BitNetServiceError) else type(error).__name__
            _log.warning("model_not_loaded", deployment_id=str(pool.deployment.id), reason=reason)

    async def _make_room(self, pool: Pool) -> None:
        """Unload what is missed least until a pool fits; wait for what is in use, if that can help."""
        self.require_room(pool.required_bytes, of=pool)
        try:
            async with asyncio.timeout(self._load_seconds):
                while pool.is_leaving or (excess := self._excess(pool.required_bytes)):
                    self._freed.clear()
                    order = [] if pool.is_leaving else self._leaving_order(pool)
                    leaving = choose_leaving(order, excess=excess)
                    if leaving:
                        await self._unload(*leaving)
                    else:
                        await self._freed.wait()
        except TimeoutError:
            raise _NoRoomError(
                f"There is no room in memory for {pool.deployment.name}: the models that have it are in use. "
                "Send the request again in a moment.",
                retry_after=1,
            ) from None

    def _leaving_order(self, newcomer: Pool | None) -> Sequence[Pool]:
        now = self._clock.monotonic_nanoseconds()
        return leaving_order(list(self._pools), budget=self._budget, now=now, newcomer=newcomer)

    async def _unload(self, *pools: Pool) -> None:
        """Stop pools that nobody holds any more; once begun it is not given up with whoever asked for it."""
        for pool in pools:  # all at once, before anybody else has a turn: no lease slips in
            pool.is_leaving = True
            _log.info("model_unloaded", deployment_id=str(pool.deployment.id))
        drains = asyncio.gather(*(pool.drain(timeout=0) for pool in pools))
        drains.add_done_callback(lambda _: self._freed.set())
        await asyncio.shield(drains)


def choose_leaving(order: Iterable[Pool], *, excess: int) -> Sequence[Pool]:
    """Return the first pools that free `excess` bytes; none if all together do not."""
    chosen: list[Pool] = []
    for pool in order:
        if excess <= 0:
            break
        chosen.append(pool)
        excess -= pool.charged_bytes
    return chosen if excess <= 0 else []
