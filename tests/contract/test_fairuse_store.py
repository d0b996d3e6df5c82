"""What every store of fair use promises."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from uuid import UUID

import pytest

from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.fairuse_store import MemoryFairUseStore
from tritium_platform.adapters.sql.fairuse_store import SqlFairUseStore
from tritium_platform.quotas.fairuse import FairUseAction, FairUseMeasure, FairUseRule
from tritium_platform.values import uuid7

FIRST, SECOND = UUID(int=1), UUID(int=2)


@pytest.fixture
def store(books):
    kind = MemoryFairUseStore if isinstance(books.database, MemoryDatabase) else SqlFairUseStore
    return kind(books.database)


@pytest.fixture
def measure(clock):
    return FairUseMeasure(
        id=uuid7(clock),
        tenant_id=FIRST,
        rule=FairUseRule.COMPUTE,
        action=FairUseAction.THROTTLE,
        reason="über ✓",
        used=2**62,
        share=Fraction(2**62 + 1, 7),
        starts_at=clock.now(),
        ends_at=clock.now() + timedelta(hours=1),
        is_dry_run=True,
    )


async def test_refusals_add_up_by_tenant_and_code_and_are_forgotten(store, clock):
    noon = clock.now()
    for tenant_id, minute, code in (
        (FIRST, 0, "queue_full"),
        (FIRST, 0, "queue_full"),
        (FIRST, 1, "queue_full"),
        (FIRST, 1, "quota_exceeded"),
        (SECOND, 1, "queue_full"),
        (SECOND, -1, "queue_full"),
    ):
        await store.count_refusal(tenant_id, slot=noon + timedelta(minutes=minute), code=code)
    assert await store.refusals(since=noon) == {
        FIRST: {"queue_full": 3, "quota_exceeded": 1},
        SECOND: {"queue_full": 1},
    }
    assert await store.remove_refusals(before=noon + timedelta(minutes=1)) == 2
    assert await store.refusals(since=noon - timedelta(hours=1)) == {
        FIRST: {"queue_full": 1, "quota_exceeded": 1},
        SECOND: {"queue_full": 1},
    }


async def test_a_measure_comes_back_as_it_was_and_is_lifted_once(store, measure, clock):
    await store.add(measure)
    assert await store.get(measure.id) == measure
    assert await store.get(uuid7(clock)) is None
    lifted = replace(measure, lifted_at=clock.now() + timedelta(minutes=3), lifted_because="they called")
    assert await store.lift(lifted)
    assert not await store.lift(replace(lifted, lifted_because="again"))
    assert await store.get(measure.id) == lifted
    assert not await store.lift(replace(lifted, id=uuid7(clock)))


async def test_measures_are_listed_newest_first(store, measure, clock):
    later = replace(measure, id=uuid7(clock), starts_at=measure.starts_at + timedelta(minutes=1))
    other = replace(
        later, id=uuid7(clock), tenant_id=SECOND, starts_at=later.starts_at + timedelta(minutes=1)
    )
    for each in (later, other, measure):
        await store.add(each)
    assert list(await store.list(limit=9)) == [other, later, measure]
    assert list(await store.list(limit=1)) == [other]
    assert list(await store.list(tenant_id=FIRST, limit=9)) == [later, measure]
    assert list(await store.list(since=later.starts_at, limit=9)) == [other, later]


async def test_a_refusal_of_a_transaction_that_fails_is_not_counted(store, books, clock):
    async def count_and_fail():
        async with books.unit_of_work():
            await store.count_refusal(FIRST, slot=clock.now(), code="c")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await count_and_fail()
    assert await store.refusals(since=clock.now()) == {}
