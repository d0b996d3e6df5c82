"""A tenancy service over memory and a clock that the test owns."""

from __future__ import annotations

import pytest

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.tenancy_store import MemoryTenantStore
from tritium_platform.tenancy.service import TenancyService

PEPPER = b"pepper-for-tests-32-bytes-long!!"


class CountingStore(MemoryTenantStore):
    """Counts what reaches the database."""

    def __init__(self) -> None:
        super().__init__(MemoryDatabase())
        self.lookups = 0
        self.polls = 0

    async def find_key(self, key_id):
        self.lookups += 1
        return await super().find_key(key_id)

    async def authorization_epoch(self):
        self.polls += 1
        return await super().authorization_epoch()


@pytest.fixture
def manual_clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tenant_store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def tenancy(tenant_store: CountingStore, manual_clock: ManualClock) -> TenancyService:
    return TenancyService(store=tenant_store, pepper=PEPPER, clock=manual_clock)


@pytest.fixture
def other_process(tenant_store: CountingStore, manual_clock: ManualClock) -> TenancyService:
    """A second process over the same database."""
    return TenancyService(store=tenant_store, pepper=PEPPER, clock=manual_clock)
