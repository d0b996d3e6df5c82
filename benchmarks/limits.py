"""What the limits cost a request, and how many requests of one hot tenant are reserved and settled a second.

    python benchmarks/limits.py [--processes 1 2 8] [--seconds 2] [--redis redis://127.0.0.1:6379/0]
    python benchmarks/limits.py --pairs DATABASE_URL [--requests 50000]

The first form enters and leaves one tenant's limits again and again: in this process, in the table that the
gateways of a machine share, alone and from several processes at once, and (for comparison) asks Redis to run
a script that does the one rate only. Microseconds are wall time; processor time stands beside it.

The second reserves and settles one request after the other of one tenant, 256 at a time. "quota": taken from
the lease and used up of it, in groups of a thousand, each one transaction. "books": the same with a usage
record, an audit intent and a customer's health, durable in the spool before it counts. "transactions":
reserved and settled in two transactions each, as without leases.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import books

from tritium_platform.adapters.shared_limiter import SharedLimiter
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.migrate import migrate
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.adapters.sql.settling import open_journal
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
from tritium_platform.quotas.limiter import LocalLimiter
from tritium_platform.quotas.service import QuotaService
from tritium_platform.tenancy.model import TIER_LIMITS, TenantTier, override_limits
from tritium_platform.tenancy.service import TenancyService

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from uuid import UUID

    from tritium_platform.quotas.limiter import Limiter
    from tritium_platform.tenancy.model import TenantContext

GROUP = 1000
AT_ONCE = 256
LIMITS = override_limits(TIER_LIMITS[TenantTier.BUSINESS], books.UNLIMITED)
SCRIPT = """
local now, tat = tonumber(ARGV[1]), tonumber(redis.call('GET', KEYS[1]) or '0')
local new = math.max(tat, now) + tonumber(ARGV[2])
if new - now > 60000000 then return 0 end
redis.call('SET', KEYS[1], new, 'PX', 60000)
return 1
"""


def rounds(limiter: Limiter, *, tenant_id: UUID, seconds: float) -> dict[str, float]:
    """Enter and leave for some time; return rounds a second, and microseconds of each."""
    count, began, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        for _ in range(100):
            now = time.monotonic_ns()
            limiter.enter(tenant_id, limits=LIMITS, requests=1, tokens=100, now=now)
            limiter.leave(tenant_id, requests=1, tokens=40)
        count += 100
    wall, used = time.perf_counter() - began, time.process_time() - used
    return {
        "per second": round(count / wall),
        "wall us": round(1e6 * wall / count, 1),
        "processor us": round(1e6 * used / count, 1),
    }


def shared_rounds(directory: str, tenant_id: UUID, seconds: float) -> dict[str, float]:
    """Be one of several processes."""
    limiter = SharedLimiter(Path(directory))
    try:
        return rounds(limiter, tenant_id=tenant_id, seconds=seconds)
    finally:
        limiter.close()


def measure_limits(processes: list[int], *, seconds: float, redis_url: str | None) -> dict[str, object]:
    """Measure each way."""
    tenant_id = uuid4()
    results: dict[str, object] = {
        "this process": rounds(LocalLimiter(), tenant_id=tenant_id, seconds=seconds)
    }
    for number in processes:
        with tempfile.TemporaryDirectory() as directory, multiprocessing.Pool(number) as pool:
            each = pool.starmap(shared_rounds, [(directory, tenant_id, seconds)] * number)
        results[f"shared table, {number} processes"] = {
            "per second together": sum(one["per second"] for one in each),
            "processor us": max(one["processor us"] for one in each),
        }
    if redis_url:
        results["Redis, one rate, no places"] = asyncio.run(ask_redis(redis_url, seconds=seconds))
    return results


async def ask_redis(url: str, *, seconds: float) -> dict[str, float]:
    """Ask a server for one decision after the other."""
    import redis.asyncio  # noqa: PLC0415 - for comparison only

    client = redis.asyncio.from_url(url)
    script, key = client.register_script(SCRIPT), f"tritium-benchmark-{uuid4()}"
    count, began, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        await script(keys=[key], args=[time.monotonic_ns() // 1000, 1])
        count += 1
    wall, used = time.perf_counter() - began, time.process_time() - used
    await client.aclose()
    return {"wall us": round(1e6 * wall / count, 1), "processor us": round(1e6 * used / count, 1)}


class HotTenant:
    """One tenant and its quota over a database."""

    def __init__(self, database: Database, *, limiter: Limiter) -> None:
        self.database = database
        self.store = SqlReservationStore(database)
        self.quotas = QuotaService(store=self.store, clock=books.CLOCK, limiter=limiter)
        self.used: dict[UUID, int] = {}

    async def open(self) -> None:
        """Make the tenant."""
        tenancy = TenancyService(store=SqlTenantStore(self.database), pepper=bytes(32), clock=books.CLOCK)
        tenant = await tenancy.create_tenant(
            organization_name="hot", tier=TenantTier.BUSINESS, limit_overrides=books.UNLIMITED
        )
        _, token = await tenancy.create_key(tenant.id, name="benchmark")
        self.context: TenantContext = await tenancy.authenticate_request(token)

    async def pair(self) -> None:
        """Reserve one request and settle it; every thousandth one brings the use into the database."""
        (admission,) = await self.quotas.admit_all(self.context, tokens=[120])
        lease_id = admission.reservation.id
        self.used[lease_id] = self.used.get(lease_id, 0) + 1
        self.quotas.finish(self.context, admission=admission, tokens=120, is_counted=True)
        if self.used[lease_id] == GROUP:
            await self.apply()

    async def apply(self) -> None:
        """Bring what was used into the database."""
        used, self.used = self.used, {}
        async with self.database.unit_of_work():
            for lease_id, amount in used.items():
                tenant_id, now = self.context.tenant_id, books.CLOCK.now()
                if not await self.store.use(lease_id, tenant_id=tenant_id, amount=amount, at=now):
                    raise AssertionError("a lease was overdrawn")

    async def transactions(self) -> None:
        """Reserve and settle in a transaction each."""
        admission = await self.quotas.reserve(self.context, tokens=120)
        await self.quotas.settle(self.context, admission=admission, tokens=120)


async def at_once(work: Callable[[], Awaitable[None]], *, count: int) -> None:
    """Do something many times, many at one time."""

    async def client(left: Iterator[int]) -> None:
        for _ in left:
            await work()

    left = iter(range(count))
    await asyncio.gather(*(client(left) for _ in range(AT_ONCE)))


async def measure_pairs(database_url: str, *, requests: int) -> dict[str, object]:
    """Measure all three over one database, with the shared table as limiter."""
    await asyncio.to_thread(migrate, database_url)
    database = Database(database_url)
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as directory:
        hot = HotTenant(database, limiter=SharedLimiter(Path(directory) / "limits"))
        await hot.open()
        journal = await open_journal(Path(directory) / "spool", database=database, clock=books.CLOCK)

        async def in_the_books() -> None:
            (admission,) = await hot.quotas.admit_all(hot.context, tokens=[120])
            await journal.append(books.settlement_of(hot.context, admission=admission))
            hot.quotas.finish(hot.context, admission=admission, tokens=120, is_counted=True)

        for name, work, count, end in (
            ("quota", hot.pair, requests, hot.apply),
            ("books", in_the_books, requests // 5, journal.drained),
            ("transactions", hot.transactions, requests // 100, None),
        ):
            began, used = time.perf_counter(), time.process_time()
            await at_once(work, count=count)
            durable = time.perf_counter() - began
            if end is not None:
                await end()
            wall, used = time.perf_counter() - began, time.process_time() - used
            results[name] = {
                "pairs per second": round(count / durable),
                "in the database too, per second": round(count / wall),
                "processor us": round(1e6 * used / count, 1),
            }
        counter = await hot.quotas.usage_of_month(hot.context)
        results["used"], results["held"] = counter.used, counter.held
        await journal.close()
        await hot.quotas.close()
    await database.close()
    return results


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 8])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--redis")
    parser.add_argument("--pairs", metavar="DATABASE_URL")
    parser.add_argument("--requests", type=int, default=50_000)
    options = parser.parse_args()
    if options.pairs:
        results = asyncio.run(measure_pairs(options.pairs, requests=options.requests))
    else:
        results = measure_limits(options.processes, seconds=options.seconds, redis_url=options.redis)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
