"""Bills made-up tenants until it is killed: money_worker.py DATABASE_URL SEED [PAYMENTS [only]].

What it says of a payment (`paying INVOICE AMOUNT`) it says before it pays. The lines of the file PAYMENTS are
paid first, once more, under the keys that they had; with `only`, that is all.
"""

from __future__ import annotations

import asyncio
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.sql.billing_store import SqlPriceStore
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.adapters.sql.money import open_sql_desk
from tritium_platform.audit.note import NoteSigner
from tritium_platform.billing.invoice import OPEN
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from tritium_platform.billing.desk import BillingDesk

NOW = datetime(2026, 11, 5, tzinfo=UTC)
MONTH = CalendarMonth(2026, 10)


async def pay(desk: BillingDesk, invoice_id: UUID, amount: int) -> None:
    await desk.settlement.record_payment(
        invoice_id, amount_minor=amount, reference="wire", key=str(invoice_id), actor="worker"
    )


async def pay_again(desk: BillingDesk, lines: list[str]) -> None:
    for line in lines:
        _, invoice_id, amount = line.split()
        await pay(desk, UUID(invoice_id), int(amount))


class NoTenants:
    async def list_tenants(self) -> list[Any]:
        return []


async def bill_for_ever(
    url: str, chance: random.Random, *, earlier: list[str] | None, is_only_paying: bool
) -> None:
    database = Database(url)
    clock = ManualClock(NOW)
    usage = SqlUsageStore(database)
    prices = BillingService(prices=SqlPriceStore(database), clock=clock)
    await prices.publish_prices(default_price_version())
    signer = NoteSigner("tritium.example/audit", private_key=Ed25519PrivateKey.from_private_bytes(b"7" * 32))
    desk = open_sql_desk(
        database, prices=prices, tenants=NoTenants(), signer=signer, clock=clock, grace_days=None
    )

    if earlier is not None:
        await pay_again(desk, earlier)
        print("ready", flush=True)  # noqa: T201 - the parent waits for it
    if is_only_paying:
        await database.close()
        return

    async def one_life(place: int) -> None:
        while True:
            clock.advance(seconds=0.001)
            tenant_id = uuid7()
            for number in range(chance.randint(1, 4)):
                await usage.insert(
                    UsageRecord(
                        id=uuid7(),
                        tenant_id=tenant_id,
                        source="gateway",
                        event_id=f"{place} {number}",
                        operation=OperationType.CHAT,
                        tier=TenantTier.TEAM,
                        outcome="success",
                        occurred_at=MONTH.start + timedelta(days=chance.randint(0, 27)),
                        quantities=UsageQuantities(output_tokens=chance.randint(1, 10**8)),
                        resources=ResourceUsage(),
                    )
                )
            (draft,) = await desk.invoices.generate(tenant_id, period=MONTH, actor="worker")
            invoice = await desk.invoices.finalize(draft.id, actor="worker")
            print(f"finalized {invoice.id}", flush=True)  # noqa: T201 - what the parent may hold us to
            if invoice.status not in OPEN:
                continue
            choice = chance.random()
            if choice < 0.3:
                amount = chance.randint(1, invoice.open_minor)
                print(f"paying {invoice.id} {amount}", flush=True)  # noqa: T201 - it is tried again if it was cut
                await pay(desk, invoice.id, amount)
            elif choice < 0.5:
                await desk.settlement.void(invoice.id, actor="worker")
            elif choice < 0.7:
                await desk.credit_notes.credit(
                    invoice.id, amounts={1: 1}, reason="sorry", key=None, actor="worker"
                )

    await asyncio.gather(*(one_life(place) for place in range(4)))


def main() -> None:
    url, seed, *payments = sys.argv[1:]
    lines = Path(payments[0]).read_text().splitlines() if payments else None
    asyncio.run(bill_for_ever(url, random.Random(seed), earlier=lines, is_only_paying=len(payments) > 1))


if __name__ == "__main__":
    main()
