"""One admitted request on its way: the work, piece by piece, and how it ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from tritium_platform.serving.model import Outcome
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from uuid import UUID

    from tritium_platform.audit.model import ResourceIdentifier
    from tritium_platform.metering.model import OperationType
    from tritium_platform.quotas.admission import Admission
    from tritium_platform.quotas.model import Reservation
    from tritium_platform.serving.model import Consumption
    from tritium_platform.tenancy.model import Scope, TenantContext
    from tritium_platform.values import Clock

Piece = TypeVar("Piece")
NANOSECONDS = 1_000_000_000


class CustomerRequest(Protocol[Piece]):
    """One thing a tenant asks for; it knows how to be admitted and executed, and counts what it consumed."""

    @property
    def operation(self) -> OperationType:
        """What kind of work it is."""

    @property
    def scope(self) -> Scope:
        """What the key must allow."""

    @property
    def subject(self) -> ResourceIdentifier:
        """What it is about, for the audit log."""

    @property
    def model(self) -> str:
        """The model's name, for usage and metrics."""

    async def admit(self, context: TenantContext) -> int:
        """Check everything that can be known before the work; return the tokens it can use at most."""

    def execute(self) -> AsyncGenerator[Piece, None]:
        """Do the work; closing the generator cancels it."""

    def is_last(self, piece: Piece) -> bool:
        """Whether nothing comes after this piece."""

    def consumed(self, outcome: Outcome) -> Consumption:
        """Return what was consumed so far, given how it ended."""

    def release(self) -> None:
        """Let go of what `admit` took hold of: it was refused, or its work is over. May be called twice."""


class Telemetry(Protocol):
    """Counts requests for the operator; times in seconds."""

    def piece(self, *, model: str, tier: str, operation: str, seconds: float, is_first: bool) -> None:
        """Note the time to the first piece, or from one piece to the next."""

    def finished(
        self,
        *,
        model: str,
        tier: str,
        operation: str,
        outcome: str,
        seconds: float,
        first_seconds: float | None,
        consumption: Consumption,
    ) -> None:
        """Count a request that left; `first_seconds` is the time to its first piece, if it had one."""

    def refused(self, *, tier: str, reason: str) -> None:
        """Count a request that was not admitted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OnceOnly:
    """What lets a request be tried again after a crash and still happen once.

    Its success is recorded under `event_id`, together with what `keep` writes, or not at all; `keep` may run
    twice. Attempts that do not succeed are recorded as such and cost nothing.
    """

    event_id: UUID
    keep: Callable[[], Awaitable[None]]


class Traffic(Protocol):
    """Counts the bytes of one request and its answer as they pass."""

    def take(self) -> int:
        """Return the bytes that no use has taken yet: what the uses of one request take sums to the whole."""


class Road(Protocol):
    """What a passage asks of the gateway that admitted it."""

    @property
    def telemetry(self) -> Telemetry:
        """Where its pieces are counted."""

    @property
    def clock(self) -> Clock:
        """The time."""

    async def settle(self, passage: Passage[Any], *, outcome: Outcome, error: BaseException | None) -> None:
        """Write down how it ended."""

    def in_background(self, work: asyncio.Task[Any]) -> None:
        """Keep a task until it is done."""


class Passage(Generic[Piece]):
    """One admitted request on its way; iterate it to do the work, close it to cancel.

    It settles before it hands out its last piece. With `traffic` it waits for `finish`, so that the answer
    that was made of its pieces is counted, too: that is to be called before the answer's end goes out.
    """

    def __init__(
        self,
        road: Road,
        request: CustomerRequest[Piece],
        *,
        context: TenantContext,
        admission: Admission,
        request_id: str,
        event_id: UUID | None = None,
        once: OnceOnly | None = None,
        spend: Reservation | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        self.request = request
        self.context = context
        self.admission = admission
        self.request_id = request_id
        self.once = once
        self.spend = spend
        self.may_run_twice = event_id is not None
        self._event_id = event_id or uuid7(road.clock)
        self._road = road
        self._pieces = request.execute()
        self._started = self._now()
        self._engine_started: float | None = None
        self._last = self._started
        self.first_seconds: float | None = None
        self._traffic = traffic
        self._ended: float | None = None
        self._settlement: asyncio.Task[None] | None = None

    @property
    def seconds(self) -> float:
        """The time from admission to the end of the work, or until now."""
        end = self._now() if self._ended is None else self._ended
        return end - self._started

    @property
    def engine_span(self) -> tuple[float, float] | None:
        """When the work began and when it gave its newest piece, in monotonic seconds; None before that."""
        if self._engine_started is None or self.first_seconds is None:
            return None
        return self._engine_started, self._last

    @property
    def is_settled(self) -> bool:
        """Whether its settlement was begun: nothing that comes now changes what is written."""
        return self._settlement is not None

    def network_bytes(self) -> int:
        """Take what has passed of its request and answer and was taken by no other use."""
        return self._traffic.take() if self._traffic is not None else 0

    def recorded_id(self, outcome: Outcome, *, is_counted: bool) -> UUID:
        """Return the id of this use in the books: what happens once has one that does not change."""
        if self.once is not None:
            return self.once.event_id if outcome is Outcome.SUCCESS else self._event_id
        # What used nothing takes nobody's place: the same request may run again, and count.
        return self._event_id if is_counted else uuid7(self._road.clock)

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Piece:
        """Do the work up to the next piece."""
        if self._ended is not None or self._settlement is not None:
            raise StopAsyncIteration
        self._engine_started = self._engine_started or self._now()
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            await self._end()
            raise
        except asyncio.CancelledError:
            await self._settle(Outcome.CANCELLED)
            raise
        except Exception as error:
            await self._settle(Outcome.FAILED, error=error)
            raise
        self._note_piece()
        if self.request.is_last(piece):
            try:
                await self._end()
            finally:
                await self._pieces.aclose()
        return piece

    async def _end(self) -> None:
        self._ended = self._now()
        if self._traffic is None:
            await self._settle(Outcome.SUCCESS)
        else:
            self.request.release()

    async def finish(self) -> None:
        """Settle the work that is done; nothing happens if it is not."""
        if self._ended is not None:
            await self._settle(Outcome.SUCCESS)

    def _now(self) -> float:
        return self._road.clock.monotonic_nanoseconds() / NANOSECONDS

    def _note_piece(self) -> None:
        now = self._now()
        is_first = self.first_seconds is None
        self._road.telemetry.piece(
            model=self.request.model,
            tier=self.context.tier.value,
            operation=self.request.operation.value,
            seconds=now - self._last,
            is_first=is_first,
        )
        if is_first:
            self.first_seconds = now - self._started
        self._last = now

    async def aclose(self) -> None:
        """Cancel what still runs; harmless at the end."""
        try:
            await self._pieces.aclose()
        finally:
            await self._settle(Outcome.CANCELLED if self._ended is None else Outcome.SUCCESS)

    async def _settle(self, outcome: Outcome, *, error: BaseException | None = None) -> None:
        """Settle once; a caller that is cancelled meanwhile does not stop it."""
        if self._settlement is None:
            self.request.release()
            work = self._road.settle(self, outcome=outcome, error=error)
            self._settlement = asyncio.create_task(work, name=f"settle {self._event_id}")
            self._road.in_background(self._settlement)
        await asyncio.shield(self._settlement)
