"""Any sequence of reservations does the same in memory and in SQL, and never passes the limit."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.quota_store import MemoryReservationStore
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.quotas.model import QuotaMeter, Reservation
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from tritium_platform.quotas.reservations import ReservationStore

PERIOD = "2026-11"
small = st.integers(0, 6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), small, small),
        st.tuples(st.just("settle"), small, small),
        st.tuples(st.just("void"), small, small),
        st.tuples(st.just("use"), small, small),
        st.tuples(st.just("shrink"), small, small),
        st.tuples(st.just("expire"), small, small),
        st.tuples(st.just("release"), small, small),
    ),
    min_size=5,
    max_size=25,
)


class Player:
    """Plays steps on a store and notes every answer."""

    def __init__(self, store: ReservationStore, *, tenant_id: UUID) -> None:
        self.store = store
        self.tenant_id = tenant_id
        self.clock = ManualClock()
        self.held: list[Reservation] = []
        self.answers: list[object] = []

    async def play(self, verb: str, first: int, second: int) -> None:
        self.clock.advance(seconds=1)
        self.answers.append(await getattr(self, verb)(first, second))
        counter = await self.store.counter(self.tenant_id, meter=QuotaMeter.REQUESTS, period=PERIOD)
        if counter is not None:
            assert min(counter.used, counter.held, counter.remaining) >= 0
            self.answers.append((counter.used, counter.held))

    async def hold(self, amount: int, seconds: int) -> object:
        reservation = Reservation(
            id=UUID(int=len(self.held) + self.tenant_id.int),
            tenant_id=self.tenant_id,
            meter=QuotaMeter.REQUESTS,
            period=PERIOD,
            amount=amount,
            created_at=self.clock.now(),
            expires_at=self.clock.now() + timedelta(seconds=seconds),
        )
        admitted, counter = await self.store.hold(reservation, limit=10)
        if admitted:
            self.held.append(reservation)
        return admitted, counter

    def pick(self, number: int) -> UUID:
        return self.held[-1 - number % len(self.held)].id if self.held else UUID(int=0)

    async def settle(self, number: int, amount: int) -> bool:
        return await self.store.settle(
            self.pick(number), tenant_id=self.tenant_id, amount=amount, at=self.clock.now()
        )

    async def void(self, number: int, _: int) -> bool:
        return await self.store.void(self.pick(number), tenant_id=self.tenant_id, at=self.clock.now())

    async def use(self, number: int, amount: int) -> bool:
        return await self.store.use(
            self.pick(number), tenant_id=self.tenant_id, amount=amount, at=self.clock.now()
        )

    async def shrink(self, number: int, amount: int) -> bool:
        return await self.store.shrink(
            self.pick(number), tenant_id=self.tenant_id, amount=amount, at=self.clock.now()
        )

    async def expire(self, limit: int, _: int) -> list[UUID]:
        return [each.id for each in await self.store.expire(at=self.clock.now(), limit=limit)]

    async def release(self, amount: int, _: int) -> int:
        return await self.store.release(
            self.tenant_id, meter=QuotaMeter.REQUESTS, period=PERIOD, amount=amount
        )


async def play_on_both(url: str, script: list[tuple[str, int, int]]) -> None:
    database = Database(url)
    tenant_id = uuid7()  # a tenant of its own: the database is shared by all scripts
    players = [
        Player(MemoryReservationStore(MemoryDatabase()), tenant_id=tenant_id),
        Player(SqlReservationStore(database), tenant_id=tenant_id),
    ]
    try:
        for player in players:
            for step in script:
                await player.play(*step)
            # Nothing of this script may be left for the sweeper of the next one.
            await player.store.expire(at=player.clock.now() + timedelta(days=1), limit=1000)
    finally:
        await database.close()
    assert players[0].answers == players[1].answers


@given(steps)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_memory_and_sql_agree_on_every_sequence(sql_url: str, script: list[tuple[str, int, int]]) -> None:
    asyncio.run(play_on_both(sql_url, script))
