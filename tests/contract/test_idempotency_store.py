"""What every store of idempotency keys promises."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.idempotency_store import MemoryIdempotencyStore
from tritium_platform.adapters.sql.idempotency_store import SqlIdempotencyStore
from tritium_platform.serving.idempotency import KeptRequest

TENANT = UUID(int=7)


@pytest.fixture
def store(books):
    kind = MemoryIdempotencyStore if isinstance(books.database, MemoryDatabase) else SqlIdempotencyStore
    return kind(books.database)


@pytest.fixture
def ask(clock):
    """Make what a caller wants: the number tells callers apart, the key names what they ask for."""

    def make(number: int, *, key: bytes = b"key", **fields) -> KeptRequest:
        wanted = KeptRequest(
            id=UUID(int=number),
            tenant_id=TENANT,
            key_id="abcDEF012345",
            key_digest=key,
            fingerprint=b"what",
            owner=UUID(int=1000 + number),
            lease_until=clock.now() + timedelta(seconds=30),
            expires_at=clock.now() + timedelta(hours=1),
        )
        return replace(wanted, **fields)

    return make


async def test_the_first_owns_the_key_and_the_second_sees_whose_it_is(store, ask, clock):
    first, second = ask(1), ask(2)
    assert await store.claim(first, now=clock.now()) == first
    assert await store.claim(second, now=clock.now()) == first


async def test_of_many_at_the_same_time_one_owns_the_key(store, ask, clock):
    kept = await asyncio.gather(*(store.claim(ask(number), now=clock.now()) for number in range(1, 9)))
    assert len({each.owner for each in kept}) == 1


async def test_keys_of_other_tenants_and_other_api_keys_are_other_keys(store, ask, clock):
    for wanted in (ask(1), ask(2, tenant_id=UUID(int=8)), ask(3, key_id="other"), ask(4, key=b"other")):
        assert await store.claim(wanted, now=clock.now()) == wanted


async def test_an_answer_is_kept_and_nothing_changes_it(store, ask, clock):
    first = await store.claim(ask(1), now=clock.now())
    assert await store.finish(first, answer=b"\x00answer\xff")
    assert not await store.finish(first, answer=b"another")
    assert not await store.renew(first, until=clock.now())
    assert not await store.release(first)
    clock.advance(seconds=3599)  # the lease is over, and the answer stays
    assert (await store.claim(ask(2), now=clock.now())).answer == b"\x00answer\xff"


async def test_a_dead_owner_is_followed_by_whoever_asks_the_same_after_its_lease(store, ask, clock):
    first = await store.claim(ask(1), now=clock.now())
    clock.advance(seconds=29)
    assert await store.renew(first, until=clock.now() + timedelta(seconds=30))
    clock.advance(seconds=29.9)
    assert (await store.claim(ask(2), now=clock.now())).owner == first.owner
    clock.advance(seconds=0.1)
    assert (await store.claim(ask(3, fingerprint=b"other"), now=clock.now())).owner == first.owner
    second = ask(4)
    kept = await store.claim(second, now=clock.now())
    assert (kept.owner, kept.id, kept.expires_at) == (second.owner, first.id, first.expires_at)
    assert kept.lease_until == second.lease_until
    assert not await store.finish(first, answer=b"late")
    assert not await store.release(first)
    assert await store.finish(kept, answer=b"answer")


async def test_a_released_key_is_free(store, ask, clock):
    first = await store.claim(ask(1), now=clock.now())
    assert await store.release(first)
    assert not await store.release(first)
    assert await store.claim(ask(2), now=clock.now()) == ask(2)


async def test_what_has_expired_is_another_request_and_is_removed(store, ask, clock):
    for number in range(1, 6):
        kept = await store.claim(ask(number, key=bytes([number])), now=clock.now())
        await store.finish(kept, answer=b"answer")
    clock.advance(seconds=1)
    later = await store.claim(ask(6, key=b"later"), now=clock.now())
    assert await store.alive(TENANT, now=clock.now()) == (6, ask(1).expires_at - timedelta(seconds=1))
    assert await store.expire(now=clock.now(), limit=9) == 0
    clock.advance(seconds=3599)
    assert await store.alive(TENANT, now=clock.now()) == (1, later.expires_at)
    fresh = ask(7, key=bytes([1]), fingerprint=b"other")
    assert await store.claim(fresh, now=clock.now()) == fresh
    assert await store.expire(now=clock.now(), limit=3) == 3
    assert await store.expire(now=clock.now(), limit=3) == 1
    assert (await store.claim(ask(8, key=b"later"), now=clock.now())).id == later.id
    assert await store.alive(UUID(int=8), now=clock.now()) == (0, None)
