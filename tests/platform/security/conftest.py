from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.security.model import SecurityEvent, SecurityEventType, ThreatLevel


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def make_event():
    start = ManualClock().now()
    numbers = iter(range(1, 1_000_000))

    def make(event_type: SecurityEventType, *, at: float = 0, **fields) -> SecurityEvent:
        return SecurityEvent(
            id=UUID(int=next(numbers)),
            event_type=event_type,
            severity=fields.pop("severity", ThreatLevel.LOW),
            timestamp=start + timedelta(seconds=at),
            **fields,
        )

    return make
