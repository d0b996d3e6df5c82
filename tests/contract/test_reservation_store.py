"""What every store of reservations promises: held + used <= limit, whoever asks at the same time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.quotas.model import QuotaCounter, QuotaMeter, Reservation
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from uuid import UUID

    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock
    from tritium_platform.quotas.reservations import ReservationStore

MONTH = "2026-11"


def a_reservation(
    clock: ManualClock, *, tenant_id: UUID, amount: int = 1, seconds: float = 60
) -> Reservation:
    return Reservation(
        id=uuid7(clock),
        tenant_id=tenant_id,
        meter=QuotaMeter.REQUESTS,
        period=MONTH,
        amount=amount,
        created_at=clock.now(),
        expires_at=clock.now() + timedelta(seconds=seconds),
    )


async def counter_of(store: ReservationStore, tenant_id: UUID) -> QuotaCounter | None:
    return await store.counter(tenant_id, meter=QuotaMeter.REQUESTS, period=MONTH)


async def test_what_is_held_becomes_used_or_comes_back(books: Books, clock: ManualClock) -> None:
    store, tenant_id = books.reservations, uuid7(clock)
    assert await counter_of(store, tenant_id) is None
    first, second = (a_reservation(clock, tenant_id=tenant_id, amount=4) for _ in range(2))
    assert await store.hold(first, limit=10) == (True, QuotaCounter(10, 0, 4))
    assert await store.hold(second, limit=10) == (True, QuotaCounter(10, 0, 8))
    third = a_reservation(clock, tenant_id=tenant_id, amount=3)
    assert await store.hold(third, limit=10) == (False, QuotaCounter(10, 0, 8))
    assert await store.settle(first.id, tenant_id=tenant_id, amount=3, at=clock.now())
    assert await counter_of(store, tenant_id) == QuotaCounter(10, 3, 4)
    assert await store.void(second.id, tenant_id=tenant_id, at=clock.now())
    assert await counter_of(store, tenant_id) == QuotaCounter(10, 3, 0)
    assert (await store.hold(third, limit=10))[0]


async def test_what_is_used_at_once_is_used_if_it_fits_and_has_ended(
    books: Books, clock: ManualClock
) -> None:
    store, tenant_id = books.reservations, uuid7(clock)
    first, second = (a_reservation(clock, tenant_id=tenant_id, amount=6).used_at_once() for _ in range(2))
    assert await store.hold(first, limit=10) == (True, QuotaCounter(10, 6, 0))
    assert await store.hold(second, limit=10) == (False, QuotaCounter(10, 6, 0))
    assert not await store.settle(first.id, tenant_id=tenant_id, amount=6, at=clock.now())
    assert not await store.void(first.id, tenant_id=tenant_id, at=clock.now())
    assert await store.expire(at=clock.now() + timedelta(days=1), limit=10) == []
    part = replace(a_reservation(clock, tenant_id=tenant_id, amount=4), used=1)
    assert await store.hold(part, limit=10) == (True, QuotaCounter(10, 7, 3))
    assert await store.settle(part.id, tenant_id=tenant_id, amount=2, at=clock.now())
    assert await counter_of(store, tenant_id) == QuotaCounter(10, 8, 0)


async def test_a_reservation_ends_once(books: Books, clock: ManualClock) -> None:
    store, tenant_id = books.reservations, uuid7(clock)
    settled, voided = (a_reservation(clock, tenant_id=tenant_id) for _ in range(2))
    await store.hold(settled, limit=10)
    await store.hold(voided, limit=10)
    assert await store.settle(settled.id, tenant_id=tenant_id, amount=1, at=clock.now())
    assert await store.void(voided.id, tenant_id=tenant_id, at=clock.now())
    for each in (settled, voided, a_reservation(clock, tenant_id=tenant_id)):
        assert not await store.settle(each.id, tenant_id=tenant_id, amount=1, at=clock.now())
        assert not await store.void(each.id, tenant_id=tenant_id, at=clock.now())
    assert await counter_of(store, tenant_id) == QuotaCounter(10, 1, 0)


async def test_a_lease_is_used_up_in_parts_and_what_is_left_comes_back(
    books: Books, clock: ManualClock
) -> None:
    store, tenant_id = books.reservations, uuid7(clock)
    lease = a_reservation(clock, tenant_id=tenant_id, amount=8)
    part = {"tenant_id": tenant_id, "at": clock.now()}
    assert await store.hold(lease, limit=10) == (True, QuotaCounter(10, 0, 8))
    assert await store.use(lease.id, amount=3, **part)
    assert await counter_of(store, tenant_id) == QuotaCounter(10, 3, 5)
    assert not await store.use(lease.id, amount=6, **part)
    for is_changed in (True, False):  # the same again changes nothing
        assert await store.shrink(lease.id, amount=5, **part) is is_changed
        assert await counter_of(store, tenant_id) == QuotaCounter(10, 3, 2)
    assert not await store.use(lease.id, tenant_id=uuid7(clock), amount=1, at=clock.now())
    assert await store.use(lease.id, amount=2, **part)
    assert await counter_of(store, tenant_id) == QuotaCounter(10, 5, 0)
    assert not await store.use(lease.id, amount=0, **part)
    assert not await store.void(lease.id, **part)


async def test_a_lease_that_expired_gives_back_what_was_not_used_and_late_parts_count_if_they_fit(
    books: Books, clock: ManualClock
) -> None:
    store, tenant_id = books.reservations, uuid7(clock)
    lease = a_reservation(clock, tenant_id=tenant_id, amount=8, seconds=1)
    await store.hold(lease, limit=10)
    await store.use(lease.id, tenant_id=tenant_id, amount=3, at=clock.now())
    clock.advance(seconds=1)
    assert [each.used for each in await store.expire(at=clock.now(), limit=10)] == [3]
    assert await counter_of(store, tenant_id) == QuotaCounter(10, 3, 0)
    await store.hold(a_reservation(clock, tenant_id=tenant_id, amount=6), limit=10)
    assert await store.use(lease.id, tenant_id=tenant_id, amount=2, at=clock.now())
    assert await counter_of(store, tenant_id) == QuotaCounter(10, 4, 6)
    assert not await store.use(lease.id, tenant_id=tenant_id, amount=4, at=clock.now())


async def test_a_tenant_cannot_end_the_reservation_of_another(books: Books, clock: ManualClock) -> None:
    store, owner, stranger = books.reservations, uuid7(clock), uuid7(clock)
    reservation = a_reservation(clock, tenant_id=owner)
    await store.hold(reservation, limit=10)
    assert not await store.settle(reservation.id, tenant_id=stranger, amount=1, at=clock.now())
    assert not await store.void(reservation.id, tenant_id=stranger, at=clock.now())
    assert await counter_of(store, owner) == QuotaCounter(10, 0, 1)


async def test_a_lowered_limit_refuses_new_work_and_lets_the_running_work_end(
    books: Books, clock: ManualClock
) -> None:
    store, tenant_id = books.reservations, uuid7(clock)
    running = a_reservation(clock, tenant_id=tenant_id, amount=8)
    await store.hold(running, limit=10)
    late = a_reservation(clock, tenant_id=tenant_id)
    assert await store.hold(late, limit=5) == (False, QuotaCounter(5, 0, 8))
    assert await store.settle(running.id, tenant_id=tenant_id, amount=8, at=clock.now())
    counter = await counter_of(store, tenant_id)
    assert counter is not None
    assert (counter.used, counter.held) == (8, 0)
    assert (await store.hold(late, limit=9))[0]


async def test_the_sweeper_gives_back_what_nobody_ended(books: Books, clock: ManualClock) -> None:
    store, tenant_id = books.reservations, uuid7(clock)
    dead, alive = (a_reservation(clock, tenant_id=tenant_id, seconds=seconds) for seconds in (10, 100))
    for each in (dead, alive):
        await store.hold(each, limit=3)
    clock.advance(seconds=10)
    assert [each.id for each in await store.expire(at=clock.now(), limit=100)] == [dead.id]
    assert not await store.expire(at=clock.now(), limit=100)
    assert await counter_of(store, tenant_id) == QuotaCounter(3, 0, 1)
    assert not await store.void(dead.id, tenant_id=tenant_id, at=clock.now())


async def test_the_sweeper_takes_no_more_than_it_is_told(books: Books, clock: ManualClock) -> None:
    store, tenant_id = books.reservations, uuid7(clock)
    for _ in range(5):
        await store.hold(a_reservation(clock, tenant_id=tenant_id, seconds=1), limit=5)
    clock.advance(seconds=1)
    assert [len(await store.expire(at=clock.now(), limit=2)) for _ in range(4)] == [2, 2, 1, 0]


async def test_work_that_outlived_its_reservation_still_counts_if_there_is_room(
    books: Books, clock: ManualClock
) -> None:
    store, tenant_id = books.reservations, uuid7(clock)
    late, too_late = (a_reservation(clock, tenant_id=tenant_id, seconds=1) for _ in range(2))
    await store.hold(late, limit=2)
    await store.hold(too_late, limit=2)
    clock.advance(seconds=1)
    await store.expire(at=clock.now(), limit=10)
    await store.hold(a_reservation(clock, tenant_id=tenant_id), limit=2)
    assert await store.settle(late.id, tenant_id=tenant_id, amount=1, at=clock.now())
    assert await store.settle(too_late.id, tenant_id=tenant_id, amount=1, at=clock.now())
    assert await counter_of(store, tenant_id) == QuotaCounter(2, 1, 1)


async def test_released_storage_is_free_again_and_never_more_than_was_used(
    books: Books, clock: ManualClock
) -> None:
    store, tenant_id = books.reservations, uuid7(clock)
    reservation = a_reservation(clock, tenant_id=tenant_id, amount=7)
    await store.hold(reservation, limit=7)
    await store.settle(reservation.id, tenant_id=tenant_id, amount=7, at=clock.now())
    for amount, released in ((5, 5), (5, 2), (5, 0)):
        result = await store.release(tenant_id, meter=QuotaMeter.REQUESTS, period=MONTH, amount=amount)
        assert result == released
    assert await store.release(uuid7(clock), meter=QuotaMeter.REQUESTS, period=MONTH, amount=1) == 0


async def test_of_many_at_the_same_time_exactly_as_many_are_admitted_as_fit(
    books: Books, clock: ManualClock
) -> None:
    store, tenant_id = books.reservations, uuid7(clock)
    reservations = [a_reservation(clock, tenant_id=tenant_id) for _ in range(60)]
    results = await asyncio.gather(*(store.hold(each, limit=17) for each in reservations))
    assert sum(admitted for admitted, _ in results) == 17
    assert await counter_of(store, tenant_id) == QuotaCounter(17, 0, 17)


async def test_several_gateways_over_one_database_admit_exactly_as_many_as_fit(
    sql_url: str, clock: ManualClock
) -> None:
    """Three separate pools stand for three processes: they share nothing but the database."""
    databases = [Database(sql_url, pool_size=3) for _ in range(3)]
    stores = [SqlReservationStore(database) for database in databases]
    tenant_id = uuid7(clock)

    async def one_request(number: int) -> int:
        store = stores[number % 3]
        reservation = a_reservation(clock, tenant_id=tenant_id)
        if not (await store.hold(reservation, limit=20))[0]:
            return 0
        if number % 4 == 0:
            await store.void(reservation.id, tenant_id=tenant_id, at=clock.now())
            return 0
        await store.settle(reservation.id, tenant_id=tenant_id, amount=1, at=clock.now())
        return 1

    try:
        used = sum(await asyncio.gather(*(one_request(number) for number in range(60))))
        assert await counter_of(stores[0], tenant_id) == QuotaCounter(20, used, 0)
        assert 0 < used <= 20
    finally:
        for database in databases:
            await database.close()


async def test_the_database_itself_refuses_to_overdraw(sql_books: Books, clock: ManualClock) -> None:
    tenant_id = uuid7(clock)
    await sql_books.reservations.hold(a_reservation(clock, tenant_id=tenant_id), limit=2)
    with pytest.raises(IntegrityError):
        async with sql_books.database.write() as connection:
            await connection.execute(text("UPDATE quota_counters SET used = ceiling"))
