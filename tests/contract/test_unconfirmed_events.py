"""Events of senders that could not be asked for while the database was away: they are, before any counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tritium_event_gateway import Gateway, an_event, entries, records

from tritium_platform.errors import OverloadedError
from tritium_platform.tenancy.model import ALL_SCOPES, ApiKey, Tenant, TenantTier
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock


@pytest.fixture
def gateway(books: Books, clock: ManualClock, tmp_path: Path) -> Gateway:
    return Gateway(books, clock, tmp_path / "events")


async def test_who_could_not_be_asked_for_is_asked_for_before_anything_counts(
    books: Books, clock: ManualClock, gateway: Gateway
) -> None:
    """A revoked key brings no use, and what is counted has the tier of its tenant."""
    tenant = Tenant(uuid7(clock), "Ada", TenantTier.BUSINESS, clock.now())
    await books.tenants.add_tenant(tenant)
    for key_id in ("a" * 12, "b" * 12, "c" * 12):
        key = ApiKey(key_id, tenant.id, "laptop", ALL_SCOPES, clock.now())
        await books.tenants.add_key(key, secret_hash=b"x" * 32)
    await books.tenants.revoke_key("b" * 12, tenant_id=tenant.id, at=clock.now())
    clock.advance(seconds=1)
    gateway.fate.is_away = True
    for key_id in ("a" * 12, "b" * 12, "c" * 12, None):
        said = [an_event(clock, tenant.id, f"{key_id} {number}") for number in range(2)]
        # The gateway, which cannot ask, believes that the tenant has a lower tier.
        assert await gateway.send(*said, key_id=key_id, is_confirmed=False) == ["deferred"] * 2
    operators = an_event(clock, tenant.id, "said", dimensions={"tier": "developer"})
    assert await gateway.send(operators, is_confirmed=False) == ["deferred"]
    nobodys = an_event(clock, uuid7(clock), "nobody's")
    assert await gateway.send(nobodys, is_confirmed=False) == ["deferred"]
    clock.advance(seconds=1)
    await books.tenants.revoke_key("c" * 12, tenant_id=tenant.id, at=clock.now())
    gateway.fate.is_away = False
    await gateway.drained()
    found = {each.event_id: each.tier for each in await records(books, clock, tenant.id)}
    allowed = [f"{key_id} {number}" for key_id in ("a" * 12, "c" * 12, None) for number in range(2)]
    assert found == {**dict.fromkeys(allowed, TenantTier.BUSINESS), "said": TenantTier.DEVELOPER}
    (refused,) = await entries(books, "usage.refuse", tenant.id)
    assert (refused.key_id, refused.details["code"]) == ("b" * 12, "invalid_token")
    assert sorted(str(refused.details["ids"]).split("\n")) == [f"{'b' * 12} {number}" for number in range(2)]
    (unknown,) = await entries(books, "usage.refuse", nobodys.tenant_id)
    assert (unknown.details["code"], unknown.details["ids"]) == ("not_found", "nobody's")
    # A refused event has not taken its id.
    assert await gateway.send(an_event(clock, tenant.id, f"{'b' * 12} 0")) == ["accepted"]
    await gateway.ingestion.close()


async def test_who_could_not_be_asked_for_waits_though_the_database_is_back(
    books: Books, clock: ManualClock, gateway: Gateway
) -> None:
    tenant_id = uuid7(clock)
    assert await gateway.send(an_event(clock, tenant_id), is_confirmed=False) == ["deferred"]
    await gateway.drained()
    assert await records(books, clock, tenant_id) == []
    gateway.ingestion._spool = None
    with pytest.raises(OverloadedError):
        await gateway.send(an_event(clock, tenant_id), is_confirmed=False)
    assert await gateway.send(an_event(clock, tenant_id)) == ["accepted"]
