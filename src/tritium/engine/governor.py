"""Keeps an engine within the memory that there is and the latency that is wanted, between its steps."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.engine.batch_size import optimal_batch_size
from tritium.engine.pressure import PressureLadder, Rung
from tritium.engine.resources import read_memory
from tritium.engine.tuning import AdaptiveTuner
from tritium.errors import InsufficientMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritium.engine.cache import BlockAllocator
    from tritium.engine.config import EngineConfig
    from tritium.engine.resources import MemoryReading
    from tritium.engine.scheduler import Scheduler
    from tritium.engine.waiting_room import WaitingRoom
    from tritium.model.batch import KVCache

logger = logging.getLogger(__name__)

CHECK_SECONDS = 0.5
_WORKING_BYTES = 256 * 2**20  # that steps, prompts and answers may take beside weights and cache
_SHRUNK = 4  # under pressure one in so many places is left
_NEWEST = 0.1  # weight of the newest sequence in what one is expected to take


@dataclass(slots=True)
class GovernorFigures:
    """What the operator sees.

    Attributes:
        pressure: how short memory is, 0 to 1 and above.
        evicted_blocks: blocks whose memory was given back, so far.
    """

    pressure: float = 0.0
    evicted_blocks: int = 0


class Governor:
    """Sets a scheduler's limits: those that are tuned, less what memory does not hold.

    Args:
        read: returns the memory of this process.
        ladder: when which measure is taken.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        scheduler: Scheduler,
        allocator: BlockAllocator,
        cache: KVCache,
        room: WaitingRoom,
        read: Callable[[], MemoryReading] = read_memory,
        ladder: PressureLadder | None = None,
    ) -> None:
        self.tuner = AdaptiveTuner(
            mode=config.tuning,
            latency_seconds=config.latency_seconds,
            max_running=config.max_running,
            max_batched_tokens=config.max_batched_tokens,
        )
        self.figures = GovernorFigures()
        self.limits = (config.max_running, config.max_batched_tokens)
        self._scheduler = scheduler
        self._allocator = allocator
        self._cache = cache
        self._room = room
        self._read = read
        self._ladder = ladder or PressureLadder()
        self._checked_at: float | None = None
        self._places_by_memory = config.max_running
        self._expected_blocks = 1.0

    @property
    def rung(self) -> Rung:
        """What is done for memory now."""
        return self._ladder.rung

    def before_step(self, now: float, *, has_work: bool) -> None:
        """Look at memory if it is time to, and set the limits of the next step.

        Args:
            now: `time.monotonic()` in seconds.
            has_work: whether anything waits or runs. With nothing to do, a first request is let in whatever
                the pressure: nobody else could ever lower it.
        """
        if self._checked_at is None or now - self._checked_at >= CHECK_SECONDS:
            self._checked_at = now
            self._check(now)
        self._room.is_short_of_memory = has_work and self.rung is Rung.REFUSE
        limits = self._current_limits()
        if limits != self.limits:
            self.limits = limits
            self._scheduler.limit(max_running=limits[0], max_batched_tokens=limits[1])

    def note_end(self, peak_blocks: int) -> None:
        """Learn how much of the cache sequences come to hold."""
        self._expected_blocks += _NEWEST * (peak_blocks - self._expected_blocks)

    def _check(self, now: float) -> None:
        reading = self._read()
        untouched = self._allocator.num_blocks - self._allocator.num_touched
        needed_bytes = untouched * self._cache.block_bytes + _WORKING_BYTES
        self.figures.pressure = reading.pressure(needed_bytes=needed_bytes)
        before = self.rung
        if self._ladder.observe(self.figures.pressure, now):
            up = self.rung > before
            logger.log(
                logging.WARNING if up else logging.INFO,
                "memory pressure %.2f: %s -> %s",
                self.figures.pressure,
                before.name.lower(),
                self.rung.name.lower(),
            )
        if self.rung >= Rung.EVICT_CACHES:
            self._evict()
        self._places_by_memory = self._places_in(reading)

    def _evict(self) -> None:
        emptied = self._allocator.forget_idle()
        self._cache.release(emptied)
        self.figures.evicted_blocks += len(emptied)

    def _places_in(self, reading: MemoryReading) -> int:
        """Return how many sequences memory holds, at least those that run."""
        running, most = len(self._scheduler.running), self.tuner.max_running
        share, whole = reading.headroom_bytes(self._ladder.high), reading.headroom_bytes(1.0)
        if share is None or whole is None:
            return most
        headroom = max(share, whole - _WORKING_BYTES)
        block_bytes = self._cache.block_bytes
        try:
            places = optimal_batch_size(
                free_bytes=headroom + self._allocator.num_touched * block_bytes,
                sequence_bytes=max(1, round(self._expected_blocks)) * block_bytes,
                latency_seconds=None,  # the tuner looks after it, in small steps
                cost=self.tuner.cost,
                most=most,
            )
        except InsufficientMemoryError:
            places = 1
        return max(running, places)

    def _current_limits(self) -> tuple[int, int]:
        running, tokens = self.tuner.max_running, self.tuner.max_batched_tokens
        if self.rung >= Rung.SHRINK:
            running, tokens = -(-running // _SHRUNK), -(-tokens // _SHRUNK)
        return max(1, min(running, self._places_by_memory)), tokens
