from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tritium_platform.audit.log import AuditLog
from tritium_platform.audit.model import ActionOutcome, AuditIntent, ResourceIdentifier
from tritium_platform.audit.note import NoteSigner

TENANTS = [None, UUID(int=1), UUID(int=2)]


class SteppingClock:
    """A clock that goes one second further each time somebody looks."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 23, tzinfo=UTC)

    def now(self) -> datetime:
        self.moment += timedelta(seconds=1)
        return self.moment

    def monotonic_nanoseconds(self) -> int:
        return int(self.moment.timestamp() * 1e9)

    async def sleep(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    return SteppingClock()


@pytest.fixture(scope="session")
def signer():
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    return NoteSigner("audit.test/log", private_key=key)


@pytest.fixture(scope="session")
def intent():
    """Return a maker of the n-th intent; the tenants take turns."""

    def make(number: int) -> AuditIntent:
        return AuditIntent(
            id=UUID(int=1000 + number),
            event_id=UUID(int=2000 + number),
            occurred_at=datetime(2026, 11, 22, 23, tzinfo=UTC),
            action="inference.complete",
            resource_affected=ResourceIdentifier("model", f"model-{number}"),
            outcome=ActionOutcome.SUCCESS,
            tenant_id=TENANTS[number % 3],
            details={"tokens": number},
        )

    return make


@pytest.fixture
def open_log(signer, clock):
    """Return an opener of logs, which closes what it opened when the test is over."""
    opened = []

    def open_it(directory, **arguments):
        log = AuditLog.open(directory, signer=signer, clock=clock, **arguments)
        opened.append(log)
        return log

    yield open_it
    for log in opened:
        log.close()
