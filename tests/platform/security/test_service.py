from __future__ import annotations

import logging

import pytest

from tritium_platform.adapters.memory.audit_outbox import MemoryAuditOutbox
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.security_store import MemorySecurityEventStore
from tritium_platform.adapters.memory.tenancy_store import MemoryTenantStore
from tritium_platform.errors import (
    InvalidTokenError,
    NotFoundError,
    RateLimitExceededError,
    SourceBlockedError,
    TenantSuspendedError,
    ValidationError,
)
from tritium_platform.security.model import ActionKind, SecurityEventType, ThreatLevel
from tritium_platform.security.service import LocalContainment, SecurityService, classify_refusal
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.tenancy.service import TenancyService


@pytest.fixture
def database():
    return MemoryDatabase()


@pytest.fixture
def tenancy(database, clock):
    return TenancyService(store=MemoryTenantStore(database), pepper=b"p" * 32, clock=clock)


@pytest.fixture
def outbox(database):
    return MemoryAuditOutbox(database)


@pytest.fixture
def security(database, tenancy, outbox, clock):
    return SecurityService(
        store=MemorySecurityEventStore(database),
        trail=outbox,
        containment=LocalContainment(tenancy=tenancy, clock=clock),
        clock=clock,
    )


async def test_a_guesser_is_blocked_for_a_quarter_of_an_hour_and_the_log_says_why(
    security, outbox, clock, caplog
):
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            assert not security.is_blocked("192.0.2.1")
            clock.advance(seconds=1)
            response = await security.observe_refusal(InvalidTokenError(key_id="K1"), source_ip="192.0.2.1")
    assert response.level is ThreatLevel.HIGH
    assert security.is_blocked("192.0.2.1")
    assert not security.is_blocked("192.0.2.2")
    assert not security.is_blocked(None)
    assert "20 failed authentications from 192.0.2.1" in caplog.text
    (intent,) = [i for i in await outbox.pending(limit=99) if "block_source" in i.details["done"]]
    assert intent.action == "security.respond"
    assert "authentication-burst-address" in intent.details["rules"]
    clock.advance(seconds=15 * 60)
    assert not security.is_blocked("192.0.2.1")


async def test_a_refused_key_is_a_leaf_of_the_audit_log_even_if_nothing_was_done_about_it(security, outbox):
    await security.observe_refusal(InvalidTokenError(key_id="K1"), source_ip="192.0.2.1")
    (intent,) = await outbox.pending(limit=9)
    assert (intent.action, intent.key_id) == ("security.observe", "K1")
    assert intent.details["event_type"] == "authentication_failure"
    assert intent.details["done"] == "record"


async def test_a_block_can_be_taken_back(tenancy, clock):
    containment = LocalContainment(tenancy=tenancy, clock=clock)
    await containment.block_source("192.0.2.1", duration=clock.now() - clock.now().replace(hour=0))
    assert containment.is_blocked("192.0.2.1")
    await containment.unblock_source("192.0.2.1")
    assert not containment.is_blocked("192.0.2.1")


async def test_whoever_knows_a_key_id_cannot_lock_its_owner_out(security, tenancy):
    tenant = await tenancy.create_tenant(organization_name="Acme", tier=TenantTier.TEAM)
    key, plaintext = await tenancy.create_key(tenant.id, name="main")
    for number in range(300):
        await security.observe_refusal(InvalidTokenError(key_id=key.id), source_ip=f"192.0.2.{number % 250}")
    assert (await tenancy.authenticate_request(plaintext)).key_id == key.id


async def test_a_key_that_enumerates_other_tenants_things_is_revoked(security, tenancy):
    tenant = await tenancy.create_tenant(organization_name="Acme", tier=TenantTier.TEAM)
    key, plaintext = await tenancy.create_key(tenant.id, name="main")
    for number in range(200):
        response = await security.observe_refusal(
            NotFoundError("There is no such model."),
            tenant_id=tenant.id,
            key_id=key.id,
            resource=f"model:{number}",
        )
    assert ActionKind.REVOKE_KEY in {action.kind for action in response.done}
    with pytest.raises(InvalidTokenError):
        await tenancy.authenticate_request(plaintext)


async def test_a_response_that_fails_is_reported_and_the_rest_is_done(security, tenancy, outbox, clock):
    tenant = await tenancy.create_tenant(organization_name="Acme", tier=TenantTier.TEAM)
    error = ValidationError("The archive holds an unsafe name.", threat="path_traversal")
    for _ in range(5):
        clock.advance(seconds=1)
        response = await security.observe_refusal(error, tenant_id=tenant.id, key_id="unknown")
    assert response.level is ThreatLevel.CRITICAL
    assert [action.kind for action in response.failed] == [ActionKind.REVOKE_KEY]
    assert ActionKind.NOTIFY_OPERATOR in {action.kind for action in response.done}
    assert (await outbox.pending(limit=99))[-1].details["failed"] == "revoke_key"
    assert (await security.recent(limit=1))[0].reason == "path_traversal"


async def test_an_everyday_error_is_nobodys_attack(security):
    assert await security.observe_refusal(ValidationError("The body is not valid JSON.")) is None
    assert list(await security.recent()) == []


@pytest.mark.parametrize(
    ("error", "event_type"),
    [
        (InvalidTokenError(), SecurityEventType.AUTHENTICATION_FAILURE),
        (TenantSuspendedError(), SecurityEventType.AUTHORIZATION_VIOLATION),
        (NotFoundError("no"), SecurityEventType.AUTHORIZATION_VIOLATION),
        (ValidationError("no", threat="zip_bomb"), SecurityEventType.SYSTEM_INTRUSION_ATTEMPT),
        (ValidationError("no"), None),
    ],
)
def test_refusals_are_classified(error, event_type):
    assert classify_refusal(error) is event_type


def test_too_many_requests_are_abuse(clock):
    error = RateLimitExceededError(
        limit_name="requests", limit=1, current=2, reset_time=clock.now(), retry_after=1
    )
    assert classify_refusal(error) is SecurityEventType.RESOURCE_ABUSE_DETECTED


async def test_the_list_of_blocked_addresses_does_not_grow_for_ever(tenancy, clock, monkeypatch):
    monkeypatch.setattr("tritium_platform.security.service.MAX_BLOCKED", 3)
    containment = LocalContainment(tenancy=tenancy, clock=clock)
    later = clock.now() - clock.now().replace(hour=0)
    for number in range(5):
        await containment.block_source(f"192.0.2.{number}", duration=later)
    assert [containment.is_blocked(f"192.0.2.{n}") for n in range(5)] == [False, False, True, True, True]


async def block(security, address: str) -> None:
    for _ in range(20):
        await security.observe_refusal(InvalidTokenError(), source_ip=address)


async def test_a_blocked_address_is_told_how_long_and_may_come_back_then(security, clock):
    await block(security, "192.0.2.1")
    clock.advance(seconds=14 * 60)
    with pytest.raises(SourceBlockedError) as caught:
        security.check_source("192.0.2.1", claimed_key_id=None)
    assert caught.value.details["retry_after"] == 60
    clock.advance(seconds=60)
    security.check_source("192.0.2.1", claimed_key_id=None)
    assert security.blocked() == {}


async def test_keys_that_were_accepted_from_a_blocked_address_go_on_and_others_do_not(security):
    security.note_accepted("192.0.2.1", key_id="colleague")
    security.note_accepted("192.0.2.9", key_id="elsewhere")
    await block(security, "192.0.2.1")
    security.check_source("192.0.2.1", claimed_key_id="colleague")
    for stranger in ("elsewhere", "unknown", None):
        with pytest.raises(SourceBlockedError):
            security.check_source("192.0.2.1", claimed_key_id=stranger)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.53", "::1"])
async def test_the_machines_own_address_is_never_blocked_but_the_operator_is_told(security, address, caplog):
    with caplog.at_level(logging.WARNING):
        await block(security, address)
    assert not security.is_blocked(address)
    assert "20 failed authentications" in caplog.text


async def test_a_network_of_ipv6_is_blocked_under_its_name(security):
    await block(security, "2001:db8:1:2::/64")
    assert list(security.blocked()) == ["2001:db8:1:2::/64"]


async def test_the_operator_lifts_a_block_once(security):
    await block(security, "192.0.2.1")
    await security.unblock("192.0.2.1")
    security.check_source("192.0.2.1", claimed_key_id=None)
    with pytest.raises(NotFoundError):
        await security.unblock("192.0.2.1")


async def test_only_the_newest_acquaintances_are_kept(security, monkeypatch):
    monkeypatch.setattr("tritium_platform.security.service.MAX_FAMILIAR", 2)
    for name in ("first", "second", "first", "third"):
        security.note_accepted("192.0.2.1", key_id=name)
    await block(security, "192.0.2.1")
    security.check_source("192.0.2.1", claimed_key_id="first")
    security.check_source("192.0.2.1", claimed_key_id="third")
    with pytest.raises(SourceBlockedError):
        security.check_source("192.0.2.1", claimed_key_id="second")


def test_a_detail_that_names_no_threat_is_none():
    assert classify_refusal(ValidationError("x", threat=None)) is None
    assert (
        classify_refusal(ValidationError("x", threat="size_mismatch"))
        is SecurityEventType.SYSTEM_INTRUSION_ATTEMPT
    )
