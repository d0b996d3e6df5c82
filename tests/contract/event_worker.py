"""Takes events of a tenant in until it is killed: event_worker.py DATABASE_URL DIRECTORY TENANT TURN.

Its database goes away and comes back all the time. It says `taken ID.` of each event that it acknowledged.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
from tritium_platform.adapters.sql.billing_store import SqlPriceStore
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.event_store import SqlEventStore
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore

GATEWAY = Path(__file__).with_name("event_gateway.py")


def load_gateway():
    spec = importlib.util.spec_from_file_location("tritium_event_gateway", GATEWAY)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


async def work(url: str, directory: Path, tenant_id: UUID, turn: str) -> None:
    module, database, clock = load_gateway(), Database(url), ManualClock()
    books = SimpleNamespace(
        database=database,
        unit_of_work=database.unit_of_work,
        events=SqlEventStore(database),
        reservations=SqlReservationStore(database),
        prices=SqlPriceStore(database),
        outbox=SqlAuditOutbox(database),
        tenants=SqlTenantStore(database),
    )
    gateway = module.Gateway(books, clock, directory, file_bytes=2000)
    await gateway.spending.refresh()
    await gateway.spool.open()
    for number in range(10**9):
        gateway.fate.is_away = number // 5 % 2 == 0
        name = f"{turn}-{number}"
        await gateway.send(module.an_event(clock, tenant_id, name))
        print(f"taken {name}.", flush=True)  # noqa: T201 - what the parent may hold us to


def main() -> None:
    url, directory, tenant_id, turn = sys.argv[1:]
    asyncio.run(work(url, Path(directory), UUID(tenant_id), turn))


if __name__ == "__main__":
    main()
