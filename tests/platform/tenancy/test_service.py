"""Who is calling: tenants, keys, the cache, and how fast a revocation bites."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tritium_platform.errors import (
    InsufficientPermissionsError,
    InvalidTokenError,
    NotFoundError,
    Recovery,
    TenantSuspendedError,
    TokenExpiredError,
    ValidationError,
)
from tritium_platform.tenancy.keys import generate_token
from tritium_platform.tenancy.model import (
    ALL_SCOPES,
    TIER_LIMITS,
    Scope,
    Tenant,
    TenantStatus,
    TenantTier,
    override_limits,
)
from tritium_platform.tenancy.service import TenancyService

if TYPE_CHECKING:
    from conftest import CountingStore

    from tritium_platform.adapters.memory.clock import ManualClock


async def a_tenant_with_a_key(tenancy: TenancyService, **overrides: int) -> tuple[Tenant, str]:
    tenant = await tenancy.create_tenant(
        organization_name="Ada", tier=TenantTier.DEVELOPER, limit_overrides=overrides
    )
    _, token = await tenancy.create_key(tenant.id, name="laptop")
    return tenant, token


def test_the_tiers_have_the_limits_of_the_specification() -> None:
    quotas = {tier: (limits.monthly_quota, limits.max_model_size) for tier, limits in TIER_LIMITS.items()}
    assert quotas == {
        TenantTier.DEVELOPER: (100_000, 10**9),
        TenantTier.TEAM: (1_000_000, 10**10),
        TenantTier.BUSINESS: (10_000_000, 10**11),
    }


async def test_a_key_opens_the_door_of_its_tenant(tenancy: TenancyService) -> None:
    tenant, token = await a_tenant_with_a_key(tenancy, monthly_quota=3)
    context = await tenancy.authenticate_request(token)
    assert (context.tenant_id, context.tier) == (tenant.id, TenantTier.DEVELOPER)
    assert context.limits.monthly_quota == 3
    assert context.limits.max_model_size == 10**9
    assert context.scopes == ALL_SCOPES


async def test_the_plaintext_is_shown_once_and_not_kept(
    tenancy: TenancyService, tenant_store: CountingStore
) -> None:
    tenant, token = await a_tenant_with_a_key(tenancy)
    kept = repr(dict(tenant_store._database.tables)) + repr(await tenancy.list_keys(tenant.id))
    secret = token.split("_")[3]
    assert secret not in kept
    assert secret[:43].encode() not in (await tenant_store.find_key(token.split("_")[2]))[1]


async def test_an_unknown_key_and_a_wrong_secret_look_the_same(tenancy: TenancyService) -> None:
    tenant, token = await a_tenant_with_a_key(tenancy)
    known_id = (await tenancy.list_keys(tenant.id))[0].id
    unknown = generate_token()
    forged = generate_token(entropy=lambda size: bytes(range(size)))
    with pytest.raises(InvalidTokenError) as of_unknown:
        await tenancy.authenticate_request(unknown.plaintext)
    other_tenancy_store = tenancy._store
    key, secret_hash, _ = await other_tenancy_store.find_key(known_id)
    await other_tenancy_store.add_key(
        type(key)(forged.key_id, tenant.id, "forged", ALL_SCOPES, key.created_at), secret_hash=secret_hash
    )
    with pytest.raises(InvalidTokenError) as of_forged:
        await tenancy.authenticate_request(forged.plaintext)
    assert of_unknown.value.message == of_forged.value.message
    assert of_unknown.value.recovery is Recovery.REFRESH_TOKEN
    assert of_forged.value.details == {"key_id": forged.key_id}
    assert token not in str(of_forged.value)


async def test_an_accepted_key_costs_no_database_until_its_time_in_the_cache_is_over(
    tenancy: TenancyService, tenant_store: CountingStore, manual_clock: ManualClock
) -> None:
    _, token = await a_tenant_with_a_key(tenancy)
    for _ in range(1000):
        await tenancy.authenticate_request(token)
    assert (tenant_store.lookups, tenant_store.polls) == (1, 1)
    for _ in range(31):
        manual_clock.advance(seconds=1)
        await tenancy.authenticate_request(token)
    assert tenant_store.lookups == 2
    assert tenant_store.polls == 32


async def test_the_cache_is_bounded(tenant_store: CountingStore, manual_clock: ManualClock) -> None:
    tenancy = TenancyService(store=tenant_store, pepper=b"x" * 32, clock=manual_clock, cache_size=3)
    tenant = await tenancy.create_tenant(organization_name="Ada", tier=TenantTier.TEAM)
    tokens = [(await tenancy.create_key(tenant.id, name=str(number)))[1] for number in range(5)]
    for token in tokens:
        await tenancy.authenticate_request(token)
    assert len(tenancy._known) == 3
    await tenancy.authenticate_request(tokens[0])


async def test_a_revocation_bites_at_once_here_and_within_a_second_elsewhere(
    tenancy: TenancyService, other_process: TenancyService, manual_clock: ManualClock
) -> None:
    tenant, token = await a_tenant_with_a_key(tenancy)
    await tenancy.authenticate_request(token)
    await other_process.authenticate_request(token)
    key_id = (await tenancy.list_keys(tenant.id))[0].id
    await tenancy.revoke_key(key_id, tenant_id=tenant.id)
    with pytest.raises(InvalidTokenError):
        await tenancy.authenticate_request(token)
    manual_clock.advance(seconds=0.5)
    with pytest.raises(InvalidTokenError):
        await other_process.authenticate_request(token)


async def test_a_key_that_is_looked_up_while_it_is_revoked_is_not_remembered(
    tenancy: TenancyService, tenant_store: CountingStore
) -> None:
    tenant, token = await a_tenant_with_a_key(tenancy)
    key_id = (await tenancy.list_keys(tenant.id))[0].id
    read, may_go_on = asyncio.Event(), asyncio.Event()
    find_key = tenant_store.find_key

    async def slow_find_key(wanted: str):
        found = await find_key(wanted)
        read.set()
        await may_go_on.wait()
        return found

    tenant_store.find_key = slow_find_key
    lookup = asyncio.create_task(tenancy.authenticate_request(token))
    await read.wait()
    tenant_store.find_key = find_key
    await tenancy.revoke_key(key_id, tenant_id=tenant.id)
    with pytest.raises(InvalidTokenError):  # and the new epoch is known before the old look-up ends
        await tenancy.authenticate_request(token)
    may_go_on.set()
    await lookup
    with pytest.raises(InvalidTokenError):
        await tenancy.authenticate_request(token)


async def test_a_change_of_tier_or_limits_is_effective_for_the_next_request(
    tenancy: TenancyService, other_process: TenancyService, manual_clock: ManualClock
) -> None:
    tenant, token = await a_tenant_with_a_key(tenancy)
    await other_process.authenticate_request(token)
    await tenancy.change_tenant(tenant.id, tier=TenantTier.BUSINESS, limit_overrides={"max_storage": 5})
    assert (await tenancy.authenticate_request(token)).tier is TenantTier.BUSINESS
    manual_clock.advance(seconds=0.5)
    assert (await other_process.authenticate_request(token)).limits.max_storage == 5


async def test_a_suspended_tenant_is_refused_and_can_come_back(tenancy: TenancyService) -> None:
    tenant, token = await a_tenant_with_a_key(tenancy)
    await tenancy.authenticate_request(token)
    await tenancy.change_tenant(tenant.id, status=TenantStatus.SUSPENDED)
    with pytest.raises(TenantSuspendedError):
        await tenancy.authenticate_request(token)
    await tenancy.change_tenant(tenant.id, status=TenantStatus.ACTIVE)
    await tenancy.authenticate_request(token)


async def test_a_key_expires_on_time_even_in_the_cache(
    tenancy: TenancyService, manual_clock: ManualClock
) -> None:
    tenant, _ = await a_tenant_with_a_key(tenancy)
    expiry = manual_clock.now() + timedelta(seconds=5)
    key, token = await tenancy.create_key(tenant.id, name="guest", expires_at=expiry)
    await tenancy.authenticate_request(token)
    manual_clock.advance(seconds=5)
    for service in (
        tenancy,
        TenancyService(store=tenancy._store, pepper=tenancy._pepper, clock=manual_clock),
    ):
        with pytest.raises(TokenExpiredError) as caught:
            await service.authenticate_request(token)
        assert caught.value.details == {"key_id": key.id, "expiry": expiry.isoformat()}
        assert caught.value.recovery is Recovery.REAUTH_REQUIRED


async def test_work_may_outlive_its_keys_expiry_but_neither_a_revocation_nor_a_suspension(
    tenancy: TenancyService, manual_clock: ManualClock
) -> None:
    tenant, _ = await a_tenant_with_a_key(tenancy, monthly_quota=3)
    expiry = manual_clock.now() + timedelta(seconds=5)
    key, token = await tenancy.create_key(
        tenant.id, name="nightly", expires_at=expiry, scopes=frozenset({Scope.INFERENCE})
    )
    context = await tenancy.authenticate_request(token)
    manual_clock.advance(seconds=60)
    assert await tenancy.context_of(key.id) == context
    await tenancy.change_tenant(tenant.id, limit_overrides={"monthly_quota": 4})
    assert (await tenancy.context_of(key.id)).limits.monthly_quota == 4
    await tenancy.change_tenant(tenant.id, status=TenantStatus.SUSPENDED)
    with pytest.raises(TenantSuspendedError):
        await tenancy.context_of(key.id)
    await tenancy.change_tenant(tenant.id, status=TenantStatus.ACTIVE)
    await tenancy.revoke_key(key.id, tenant_id=tenant.id)
    for gone in (key.id, "abcDEF012345"):
        with pytest.raises(InvalidTokenError):
            await tenancy.context_of(gone)


async def test_a_key_may_do_only_what_its_scopes_say(tenancy: TenancyService) -> None:
    tenant, _ = await a_tenant_with_a_key(tenancy)
    _, token = await tenancy.create_key(tenant.id, name="chat", scopes=frozenset({Scope.INFERENCE}))
    context = await tenancy.authenticate_request(token)
    context.require(Scope.INFERENCE)
    with pytest.raises(InsufficientPermissionsError, match="deployments"):
        context.require(Scope.DEPLOYMENTS)


async def test_nobody_revokes_the_key_of_another_tenant(tenancy: TenancyService) -> None:
    tenant, token = await a_tenant_with_a_key(tenancy)
    stranger, _ = await a_tenant_with_a_key(tenancy)
    key_id = (await tenancy.list_keys(tenant.id))[0].id
    with pytest.raises(NotFoundError):
        await tenancy.revoke_key(key_id, tenant_id=stranger.id)
    await tenancy.authenticate_request(token)


async def test_bad_input_is_refused_by_name(tenancy: TenancyService, manual_clock: ManualClock) -> None:
    tenant, _ = await a_tenant_with_a_key(tenancy)
    naive = manual_clock.now().replace(tzinfo=None) + timedelta(days=1)
    for attempt in (
        lambda: tenancy.create_tenant(organization_name=" ", tier=TenantTier.TEAM),
        lambda: tenancy.create_tenant(organization_name="a\nb", tier=TenantTier.TEAM),
        lambda: tenancy.create_tenant(organization_name="x" * 201, tier=TenantTier.TEAM),
        lambda: a_tenant_with_a_key(tenancy, monthly_qouta=1),
        lambda: a_tenant_with_a_key(tenancy, monthly_quota=-1),
        lambda: a_tenant_with_a_key(tenancy, monthly_quota=2**63),
        lambda: tenancy.change_tenant(tenant.id, limit_overrides={"max_storage": 1.5}),
        lambda: tenancy.create_key(tenant.id, name=""),
        lambda: tenancy.create_key(tenant.id, name="x", scopes=frozenset()),
        lambda: tenancy.create_key(tenant.id, name="x", expires_at=manual_clock.now()),
        lambda: tenancy.create_key(tenant.id, name="x", expires_at=naive),
    ):
        with pytest.raises(ValidationError):
            await attempt()


async def test_what_is_not_there_is_not_found(tenancy: TenancyService) -> None:
    for attempt in (
        lambda: tenancy.get_tenant(UUID(int=1)),
        lambda: tenancy.change_tenant(UUID(int=1), tier=TenantTier.TEAM),
        lambda: tenancy.create_key(UUID(int=1), name="x"),
        lambda: tenancy.revoke_key("nobodysKey12", tenant_id=UUID(int=1)),
    ):
        with pytest.raises(NotFoundError):
            await attempt()


def test_overrides_replace_only_what_they_name() -> None:
    limits = override_limits(TIER_LIMITS[TenantTier.TEAM], {"monthly_quota": 0})
    assert limits.monthly_quota == 0
    assert limits.max_storage == TIER_LIMITS[TenantTier.TEAM].max_storage
