"""Who is let in while the database is away, and who was allowed to send when it is asked afterwards."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

import pytest

from tritium_platform.errors import (
    InvalidTokenError,
    NotFoundError,
    OverloadedError,
    TenantSuspendedError,
    TokenExpiredError,
)
from tritium_platform.tenancy import service
from tritium_platform.tenancy.confirmation import Arrival, Confirmation
from tritium_platform.tenancy.keys import generate_token
from tritium_platform.tenancy.model import TenantStatus, TenantTier
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from conftest import CountingStore

    from tritium_platform.adapters.memory.clock import ManualClock
    from tritium_platform.tenancy.model import ApiKey, Tenant
    from tritium_platform.tenancy.service import TenancyService


async def a_caller(tenancy: TenancyService, **key: object) -> tuple[Tenant, ApiKey, str]:
    tenant = await tenancy.create_tenant(organization_name="Ada", tier=TenantTier.DEVELOPER)
    made, token = await tenancy.create_key(tenant.id, name="laptop", **key)  # type: ignore[arg-type]
    return tenant, made, token


async def test_while_the_database_is_away_known_callers_are_let_in_unconfirmed_for_as_long_as_it_takes(
    tenancy: TenancyService, tenant_store: CountingStore, manual_clock: ManualClock
) -> None:
    _, _, token = await a_caller(tenancy)
    caller = await tenancy.authenticate_request(token)
    tenant_store.is_away = True
    assert await tenancy.recognize(token) == (caller, True)  # it was asked a moment ago
    for hours in (1, 100):
        manual_clock.advance(seconds=3600 * hours)
        assert await tenancy.recognize(token) == (caller, False)
        with pytest.raises(OverloadedError):  # for everything else nobody is let in
            await tenancy.authenticate_request(token)
    tenant_store.is_away = False
    assert await tenancy.recognize(token) == (caller, True)


async def test_strangers_and_expired_keys_are_not_let_in(
    tenancy: TenancyService, tenant_store: CountingStore, manual_clock: ManualClock
) -> None:
    expiry = manual_clock.now() + timedelta(seconds=5)
    _, key, token = await a_caller(tenancy, expires_at=expiry)
    _, _, unknown = await a_caller(tenancy)
    await tenancy.recognize(token)
    tenant_store.is_away = True
    manual_clock.advance(seconds=4.9)
    await tenancy.recognize(token)
    forged = f"{token[:-8]}{'0' * 8}"
    for stranger in (unknown, forged, generate_token().plaintext):
        with pytest.raises((OverloadedError, InvalidTokenError)):
            await tenancy.recognize(stranger)
    manual_clock.advance(seconds=0.1)
    with pytest.raises(TokenExpiredError) as caught:
        await tenancy.recognize(token)
    assert caught.value.details["key_id"] == key.id


async def test_a_key_that_was_seen_to_be_refused_is_not_known(
    tenancy: TenancyService,
    other_process: TenancyService,
    tenant_store: CountingStore,
    manual_clock: ManualClock,
) -> None:
    callers = [await a_caller(tenancy) for _ in range(3)]
    for _, _, token in callers:
        await other_process.recognize(token)
    (_, key, revoked), (suspended_tenant, _, suspended), (_, _, neither) = callers
    await tenancy.revoke_key(key.id, tenant_id=key.tenant_id)
    await tenancy.change_tenant(suspended_tenant.id, status=TenantStatus.SUSPENDED)
    manual_clock.advance(seconds=0.5)
    for token in (revoked, suspended):
        with pytest.raises((InvalidTokenError, TenantSuspendedError)):
            await other_process.recognize(token)
    tenant_store.is_away = True
    for token in (revoked, suspended):
        with pytest.raises(OverloadedError):
            await other_process.recognize(token)
    # Its key was not looked up since the others' changes, and it is no stranger.
    assert (await other_process.recognize(neither))[1] is False


async def test_what_a_process_changed_itself_it_knows(
    tenancy: TenancyService, tenant_store: CountingStore
) -> None:
    revoked, suspended, dearer = [await a_caller(tenancy) for _ in range(3)]
    _, second_token = await tenancy.create_key(revoked[0].id, name="second")
    tokens = [second_token, *(token for _, _, token in (revoked, suspended, dearer))]
    for token in tokens:
        await tenancy.recognize(token)
    await tenancy.revoke_key(revoked[1].id, tenant_id=revoked[0].id)
    await tenancy.change_tenant(suspended[0].id, status=TenantStatus.SUSPENDED)
    await tenancy.change_tenant(dearer[0].id, tier=TenantTier.TEAM)
    tenant_store.is_away = True
    for _, _, token in (revoked, suspended):
        with pytest.raises(OverloadedError):
            await tenancy.recognize(token)
    for token in (second_token, dearer[2]):
        assert (await tenancy.recognize(token))[1] is False


async def test_a_database_that_says_nothing_is_away(
    tenancy: TenancyService,
    tenant_store: CountingStore,
    manual_clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "PATIENCE_SECONDS", 0.05)
    tenant, _, token = await a_caller(tenancy)
    _, _, unknown = await a_caller(tenancy)
    await tenancy.recognize(token)
    await tenancy.recognize_tenants({tenant.id})
    manual_clock.advance(seconds=1)

    async def silence(*_: object) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    tenant_store.authorization_epoch = tenant_store.tiers = silence  # type: ignore[assignment, method-assign]
    others = [asyncio.create_task(tenancy.authenticate_request(token)) for _ in range(2)]  # they wait on
    await asyncio.sleep(0)
    assert (await tenancy.recognize(token))[1] is False
    assert (await tenancy.recognize_tenants({tenant.id}))[1] is False
    with pytest.raises(OverloadedError):
        await tenancy.recognize(unknown)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def test_where_the_epoch_goes_back_nobody_is_known(
    tenancy: TenancyService, tenant_store: CountingStore, manual_clock: ManualClock
) -> None:
    """A standby that had not heard of everything gives numbers again that were there before."""
    _, _, token = await a_caller(tenancy)
    await tenancy.recognize(token)
    epoch = await tenant_store.authorization_epoch()
    for number in (epoch - 1, epoch):
        tenant_store._epoch[1] = number
        manual_clock.advance(seconds=1)
        lookups = tenant_store.lookups
        await tenancy.recognize(token)
        assert tenant_store.lookups == lookups + 1


async def test_tenants_that_the_operator_named_before_are_known(
    tenancy: TenancyService, tenant_store: CountingStore, manual_clock: ManualClock
) -> None:
    tenants = [(await a_caller(tenancy))[0].id for _ in range(2)]
    expected = dict.fromkeys(tenants, TenantTier.DEVELOPER)
    assert await tenancy.recognize_tenants({*tenants, uuid7(manual_clock)}) == (expected, True)
    tenant_store.is_away = True
    assert await tenancy.recognize_tenants(set(tenants)) == (expected, False)
    with pytest.raises(OverloadedError):
        await tenancy.recognize_tenants({*tenants, uuid7(manual_clock)})


async def test_one_look_at_a_silent_database_is_for_all_who_wait_for_it(
    tenancy: TenancyService, tenant_store: CountingStore, manual_clock: ManualClock
) -> None:
    _, _, token = await a_caller(tenancy)
    await tenancy.recognize(token)
    manual_clock.advance(seconds=1)

    async def silence() -> int:
        tenant_store.polls += 1
        for _ in range(3):
            await asyncio.sleep(0)
        manual_clock.advance(seconds=10)
        raise OverloadedError("The database does not answer.")

    before, tenant_store.authorization_epoch = tenant_store.polls, silence  # type: ignore[method-assign]
    known = await asyncio.gather(*(tenancy.recognize(token) for _ in range(20)))
    assert not any(is_confirmed for _, is_confirmed in known)
    assert tenant_store.polls == before + 1
    await tenancy.recognize(token)
    assert tenant_store.polls == before + 2  # who comes later looks again


async def test_afterwards_it_is_known_who_was_allowed_to_send_then(
    tenancy: TenancyService, tenant_store: CountingStore, manual_clock: ManualClock
) -> None:
    moments = []
    tenant, key, _ = await a_caller(tenancy)
    suspended, its_key, _ = await a_caller(tenancy)
    moments.append(manual_clock.now())
    manual_clock.advance(seconds=5)
    await tenancy.revoke_key(key.id, tenant_id=tenant.id)
    await tenancy.change_tenant(tenant.id, tier=TenantTier.TEAM)
    await tenancy.change_tenant(suspended.id, status=TenantStatus.SUSPENDED)
    moments.append(manual_clock.now())
    manual_clock.advance(seconds=5)
    moments.append(manual_clock.now())
    await tenancy.change_tenant(suspended.id, tier=TenantTier.BUSINESS, status=TenantStatus.SUSPENDED)
    answers = await Confirmation(tenant_store).ask(
        [
            *(Arrival(tenant.id, key.id, at) for at in moments),
            *(Arrival(suspended.id, its_key.id, at) for at in moments),
            *(Arrival(each, None, moments[2]) for each in (tenant.id, suspended.id, uuid7(manual_clock))),
            Arrival(tenant.id, "abcDEF012345", moments[0]),
        ]
    )
    told = [type(each) if isinstance(each, Exception) else each for each in answers.values()]
    assert told == [
        TenantTier.TEAM,
        InvalidTokenError,
        InvalidTokenError,
        TenantTier.BUSINESS,
        TenantSuspendedError,  # since then, whatever changed of it afterwards
        TenantSuspendedError,
        TenantTier.TEAM,
        TenantTier.BUSINESS,
        NotFoundError,
        InvalidTokenError,
    ]
    await tenancy.change_tenant(suspended.id, status=TenantStatus.ACTIVE)
    # Who was refused then would send the same again now.
    back = await Confirmation(tenant_store).ask([Arrival(suspended.id, its_key.id, moments[2])])
    assert list(back.values()) == [TenantTier.BUSINESS]
    assert (await tenancy.get_tenant(suspended.id)).suspended_at is None
