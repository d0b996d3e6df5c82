"""A tenancy service over memory and a clock that the test owns."""

from __future__ import annotations

import pytest

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.tenancy_store import MemoryTenantStore
from tritium_platform.errors import OverloadedError
from tritium_platform.tenancy.service import TenancyService

PEPPER = b"pepper-for-tests-32-bytes-long!!"


class CountingStore(MemoryTenantStore):
    """Counts what reaches the database, which can be away."""

    def __init__(self) -> None:
        super().__init__(MemoryDatabase())
        self.is_away = False
        self.lookups = 0
        self.polls = 0

    def _ask(self) -> None:
        if self.is_away:
            raise OverloadedError("The database does not answer.")

    async def find_key(self, key_id):
        self.lookups += 1
        self._ask()
        return await super().find_key(key_id)

    async def tiers(self, tenant_ids):
        self._ask()
        return await super().tiers(tenant_ids)

    async def authorization_epoch(self):
        self.polls += 1
        self._ask()
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
