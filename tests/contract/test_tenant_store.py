"""What every store of tenants and keys promises."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tritium_platform.errors import ConflictError
from tritium_platform.tenancy.model import ALL_SCOPES, ApiKey, Scope, Tenant, TenantStatus, TenantTier
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock


def a_tenant(clock: ManualClock, *, name: str = "Ada & Söhne ✓") -> Tenant:
    return Tenant(uuid7(clock), name, TenantTier.TEAM, clock.now(), limit_overrides={"monthly_quota": 3})


def a_key(clock: ManualClock, *, tenant: Tenant, key_id: str = "abcDEF012345") -> ApiKey:
    expiry = clock.now() + timedelta(days=1, microseconds=7)
    return ApiKey(key_id, tenant.id, "laptop", frozenset({Scope.INFERENCE}), clock.now(), expires_at=expiry)


async def test_a_tenant_comes_back_as_it_was_given(books: Books, clock: ManualClock) -> None:
    tenant = a_tenant(clock)
    await books.tenants.add_tenant(tenant)
    assert await books.tenants.get_tenant(tenant.id) == tenant
    assert await books.tenants.get_tenant(uuid7(clock)) is None


async def test_tenants_are_listed_oldest_first(books: Books, clock: ManualClock) -> None:
    tenants = []
    for name in ("one", "two", "three"):
        tenants.append(a_tenant(clock, name=name))
        clock.advance(seconds=1)
    for tenant in reversed(tenants):
        await books.tenants.add_tenant(tenant)
    assert list(await books.tenants.list_tenants()) == tenants


async def test_tiers_are_told_of_the_tenants_that_there_are(books: Books, clock: ManualClock) -> None:
    one, two = a_tenant(clock), replace(a_tenant(clock), tier=TenantTier.BUSINESS)
    for tenant in (one, two):
        await books.tenants.add_tenant(tenant)
    found = await books.tenants.tiers({one.id, two.id, uuid7(clock)})
    assert found == {one.id: one.tier, two.id: TenantTier.BUSINESS}
    assert await books.tenants.tiers(set()) == {}


async def test_a_change_of_a_tenant_stays_and_an_unknown_one_cannot_change(
    books: Books, clock: ManualClock
) -> None:
    tenant = a_tenant(clock)
    await books.tenants.add_tenant(tenant)
    changed = replace(tenant, tier=TenantTier.BUSINESS, status=TenantStatus.SUSPENDED, limit_overrides={})
    assert await books.tenants.update_tenant(changed)
    assert await books.tenants.get_tenant(tenant.id) == changed
    assert not await books.tenants.update_tenant(a_tenant(clock))


async def test_a_key_is_found_with_its_hash_and_its_tenant(books: Books, clock: ManualClock) -> None:
    tenant = a_tenant(clock)
    key = a_key(clock, tenant=tenant)
    await books.tenants.add_tenant(tenant)
    await books.tenants.add_key(key, secret_hash=bytes(range(32)))
    assert await books.tenants.find_key(key.id) == (key, bytes(range(32)), tenant)
    assert await books.tenants.find_key("nobodysKey12") is None


async def test_a_key_id_can_be_taken_only_once_even_by_another_tenant(
    books: Books, clock: ManualClock
) -> None:
    first, second = a_tenant(clock), a_tenant(clock)
    await books.tenants.add_tenant(first)
    await books.tenants.add_tenant(second)
    await books.tenants.add_key(a_key(clock, tenant=first), secret_hash=b"1" * 32)
    with pytest.raises(ConflictError):
        await books.tenants.add_key(a_key(clock, tenant=second), secret_hash=b"2" * 32)
    assert (await books.tenants.find_key("abcDEF012345"))[1] == b"1" * 32


async def test_keys_are_listed_for_their_own_tenant_only(books: Books, clock: ManualClock) -> None:
    first, second = a_tenant(clock), a_tenant(clock)
    for tenant, key_id in ((first, "a" * 12), (second, "b" * 12), (first, "c" * 12)):
        if await books.tenants.get_tenant(tenant.id) is None:
            await books.tenants.add_tenant(tenant)
        await books.tenants.add_key(a_key(clock, tenant=tenant, key_id=key_id), secret_hash=b"x" * 32)
    assert [key.id for key in await books.tenants.list_keys(first.id)] == ["a" * 12, "c" * 12]
    assert [key.id for key in await books.tenants.list_keys(second.id)] == ["b" * 12]


async def test_a_revoked_key_keeps_its_first_time_and_foreign_keys_cannot_be_revoked(
    books: Books, clock: ManualClock
) -> None:
    tenant, stranger = a_tenant(clock), a_tenant(clock)
    key = a_key(clock, tenant=tenant)
    await books.tenants.add_tenant(tenant)
    await books.tenants.add_tenant(stranger)
    await books.tenants.add_key(key, secret_hash=b"x" * 32)
    assert not await books.tenants.revoke_key(key.id, tenant_id=stranger.id, at=clock.now())
    revoked_at = clock.now()
    assert await books.tenants.revoke_key(key.id, tenant_id=tenant.id, at=revoked_at)
    clock.advance(seconds=5)
    assert await books.tenants.revoke_key(key.id, tenant_id=tenant.id, at=clock.now())
    found, _, _ = await books.tenants.find_key(key.id)
    assert found == replace(key, revoked_at=revoked_at)


async def test_every_change_raises_the_epoch(books: Books, clock: ManualClock) -> None:
    tenant = a_tenant(clock)
    key = a_key(clock, tenant=tenant)
    epochs = [await books.tenants.authorization_epoch()]
    for change in (
        lambda: books.tenants.add_tenant(tenant),
        lambda: books.tenants.add_key(key, secret_hash=b"x" * 32),
        lambda: books.tenants.revoke_key(key.id, tenant_id=tenant.id, at=clock.now()),
        lambda: books.tenants.update_tenant(replace(tenant, tier=TenantTier.DEVELOPER)),
    ):
        await change()
        epochs.append(await books.tenants.authorization_epoch())
    assert all(earlier < later for earlier, later in itertools.pairwise(epochs))


async def test_all_scopes_survive(books: Books, clock: ManualClock) -> None:
    tenant = a_tenant(clock)
    await books.tenants.add_tenant(tenant)
    key = replace(a_key(clock, tenant=tenant), scopes=ALL_SCOPES, expires_at=None)
    await books.tenants.add_key(key, secret_hash=b"x" * 32)
    assert (await books.tenants.find_key(key.id))[0] == key
