"""What billing a month costs: looking at a draft, and finalizing it with every use behind its lines.

    python benchmarks/invoices.py DATABASE_URL [--uses N]

DATABASE_URL names an empty database: sqlite+aiosqlite:///PATH or postgresql+psycopg://... . The uses are put
in first; every figure is of this one process and includes the commit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.sql.billing_store import SqlPriceStore
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.migrate import migrate
from tritium_platform.adapters.sql.money import open_sql_desk
from tritium_platform.adapters.sql.tables.metering import QUANTITIES, RESOURCES, usage_records
from tritium_platform.audit.note import NoteSigner
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from uuid import UUID

MONTH = CalendarMonth(2026, 10)
NOW = datetime(2026, 11, 5, tzinfo=UTC)
LOOKS = 20
AT_ONCE = 2000


class Nobody:
    """Knows no tenants: the calendar is not measured."""

    async def list_tenants(self) -> list[Any]:
        return []


def rows(tenant_id: UUID, count: int) -> list[dict[str, Any]]:
    """Return uses all over the month, of three tiers and five models."""
    tiers = list(TenantTier)
    return [
        {
            "id": uuid7(),
            "tenant_id": tenant_id,
            "source": "gateway",
            "event_id": f"event {number}",
            "operation": "chat",
            "tier": tiers[number % 3].value,
            "outcome": "success",
            "model": f"model-{number % 5}",
            "key_id": None,
            "occurred_at": MONTH.start + timedelta(seconds=number * 2_600_000 // count),
            "body_sha256": b"",
            **dict.fromkeys(QUANTITIES + RESOURCES, 0),
            "input_tokens": 900,
            "output_tokens": 1 + number % 400,
        }
        for number in range(count)
    ]


async def timed(work: Awaitable[Any]) -> tuple[float, Any]:
    """Return how long something took, and what came of it."""
    started = time.perf_counter()
    result = await work
    return time.perf_counter() - started, result


async def measure(url: str, *, uses: int) -> dict[str, Any]:
    database, clock, tenant_id = Database(url), ManualClock(NOW), uuid7()
    prices = BillingService(prices=SqlPriceStore(database), clock=clock)
    await prices.publish_prices(default_price_version())
    signer = NoteSigner("tritium.example/audit", private_key=Ed25519PrivateKey.generate())
    desk = open_sql_desk(
        database, prices=prices, tenants=Nobody(), signer=signer, clock=clock, grace_days=None
    )
    async with database.write() as connection:
        made = rows(tenant_id, uses)
        for start in range(0, uses, AT_ONCE):
            await connection.execute(insert(usage_records), made[start : start + AT_ONCE])
    (draft,) = await desk.invoices.generate(tenant_id, period=MONTH, actor="benchmark")
    looks = [(await timed(desk.invoices.body(draft)))[0] for _ in range(LOOKS)]
    seconds, invoice = await timed(desk.invoices.finalize(draft.id, actor="benchmark"))
    await database.close()
    return {
        "uses": uses,
        "look_at_draft_ms": round(sorted(looks)[LOOKS // 2] * 1000, 1),
        "finalize_ms": round(seconds * 1000, 1),
        "uses_per_second": round(uses / seconds),
        "total": str(invoice.money(invoice.total_minor)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database_url")
    parser.add_argument("--uses", type=int, default=20_000)
    arguments = parser.parse_args()
    migrate(arguments.database_url)
    print(json.dumps(asyncio.run(measure(arguments.database_url, uses=arguments.uses)), indent=2))


if __name__ == "__main__":
    main()
