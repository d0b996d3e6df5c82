"""What every store of security events promises."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.security_store import MemorySecurityEventStore
from tritium_platform.adapters.sql.security_store import SqlSecurityEventStore
from tritium_platform.security.model import SecurityEvent, SecurityEventType, ThreatLevel


@pytest.fixture
def store(books):
    kind = MemorySecurityEventStore if isinstance(books.database, MemoryDatabase) else SqlSecurityEventStore
    return kind(books.database)


@pytest.fixture
def event_at(clock):
    def make(number: int, **fields) -> SecurityEvent:
        return SecurityEvent(
            id=UUID(int=number),
            event_type=fields.pop("event_type", SecurityEventType.AUTHENTICATION_FAILURE),
            severity=ThreatLevel.MEDIUM,
            timestamp=clock.now() + timedelta(seconds=number),
            **fields,
        )

    return make


async def test_an_event_comes_back_as_it_was_and_only_once(store, event_at):
    event = event_at(
        1,
        source_ip="2001:db8::1",
        tenant_id=UUID(int=5),
        key_id="K1",
        resource="model:a",
        reason="invalid_token",
        event_data={"count": 3, "file": "weights"},
    )
    await store.add(event)
    await store.add(event)
    assert list(await store.recent(limit=9)) == [event]


async def test_related_events_share_a_subject_and_a_type_and_come_newest_first(store, event_at, clock):
    events = [
        event_at(1, source_ip="a"),
        event_at(2, key_id="K"),
        event_at(3, tenant_id=UUID(int=5)),
        event_at(4, source_ip="b", key_id="L"),
        event_at(5, source_ip="a", event_type=SecurityEventType.DATA_ACCESS_ANOMALY),
        event_at(6),
    ]
    for event in events:
        await store.add(event)
    asked = event_at(9, source_ip="a", key_id="K", tenant_id=UUID(int=5))
    found = await store.related(asked, since=clock.now(), limit=9)
    assert [event.id.int for event in found] == [3, 2, 1]
    later = await store.related(asked, since=clock.now() + timedelta(seconds=2), limit=1)
    assert [event.id.int for event in later] == [3]
    assert list(await store.related(event_at(9), since=clock.now(), limit=9)) == []


async def test_what_is_old_is_forgotten(store, event_at, clock):
    for number in range(1, 6):
        await store.add(event_at(number))
    assert await store.remove_before(clock.now() + timedelta(seconds=4)) == 3
    assert [event.id.int for event in await store.recent(limit=9)] == [5, 4]
