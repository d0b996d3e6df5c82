"""One life of the platform: the real services over what outlives it, wired as `compose` wires them."""

from __future__ import annotations

import asyncio
import contextlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tritium_platform.adapters.memory.audit_outbox import MemoryAuditOutbox
from tritium_platform.adapters.memory.billing_store import MemoryPriceStore
from tritium_platform.adapters.memory.fairuse_store import MemoryFairUseStore
from tritium_platform.adapters.memory.health_store import MemoryOutcomeStore
from tritium_platform.adapters.memory.invoice_store import MemoryBilledUsageStore, MemoryInvoiceStore
from tritium_platform.adapters.memory.metering_store import MemoryUsageStore
from tritium_platform.adapters.memory.money_stores import (
    MemoryCreditStore,
    MemoryJournalStore,
    MemoryOperationStore,
    MemoryPlanStore,
)
from tritium_platform.adapters.memory.payment_store import MemoryNoticeStore, MemoryPaymentStore
from tritium_platform.adapters.memory.quota_store import MemoryReservationStore
from tritium_platform.adapters.memory.spool_positions import MemorySpoolPositions
from tritium_platform.adapters.memory.tenancy_store import MemoryTenantStore
from tritium_platform.adapters.settlement_store import GroupSettlement, RoomStores
from tritium_platform.adapters.spooled_settlements import SpooledSettlements
from tritium_platform.audit.log import AuditLog
from tritium_platform.audit.note import NoteSigner
from tritium_platform.audit.service import AuditService
from tritium_platform.billing.books import BillingBooks
from tritium_platform.billing.desk import open_desk, open_payments
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.books import Books
from tritium_platform.errors import BitNetServiceError
from tritium_platform.gateway import Gateway
from tritium_platform.insight.health import HealthService
from tritium_platform.metering.service import MeteringService
from tritium_platform.quotas.enforcement import FairUseMode, FairUseService
from tritium_platform.quotas.service import QuotaService
from tritium_platform.tenancy.service import TenancyService

SIGNER = NoteSigner("sim.example/audit", private_key=Ed25519PrivateKey.from_private_bytes(b"7" * 32))
RESERVATION_SECONDS = 20.0
SWEEP_SECONDS = 2.0


class Uncounted:
    """Metrics are no books."""

    def piece(self, **_):
        """Nothing."""

    def finished(self, **_):
        """Nothing."""

    def refused(self, **_):
        """Nothing."""


class Process:
    """The services of one process; `open` first."""

    def __init__(self, *, database, disk, files, clock, chance, lock_directory):
        self.database = database
        self.clock = clock
        self._disk = disk
        self._files = files
        self._chance = chance
        self._lock_directory = lock_directory
        self._log = None
        self._loops = []
        self.is_closed = False

    async def open(self):
        """Start, and finish what an earlier life left."""
        database, clock = self.database, self.clock
        outbox, usage = MemoryAuditOutbox(database), MemoryUsageStore(database)
        await asyncio.to_thread(self._open_log)
        self.audit = AuditService(self._log, outbox=outbox)
        self.tenancy = TenancyService(store=MemoryTenantStore(database), pepper=bytes(32), clock=clock)
        reservations, outcomes = MemoryReservationStore(database), MemoryOutcomeStore(database)
        stores = RoomStores(
            unit_of_work=database.unit_of_work,
            usage=usage,
            reservations=reservations,
            intents=outbox,
            outcomes=outcomes,
            positions=MemorySpoolPositions(database),
            clock=clock,
        )
        self.journal = SpooledSettlements(
            self._disk.Path("/spool"), store=GroupSettlement(stores), clock=clock, spool_bytes=4000
        )
        await self.journal.recover()
        database.settle_first = self.journal.drained
        self.metering = MeteringService(store=usage)
        billing = BillingService(prices=MemoryPriceStore(database), clock=clock)
        await billing.publish_prices(default_price_version())
        self.quotas = QuotaService(store=reservations, clock=clock, reservation_seconds=RESERVATION_SECONDS)
        fair_use = FairUseService(
            store=MemoryFairUseStore(database),
            activity=usage,
            tenants=self.tenancy,
            trail=outbox,
            unit_of_work=database.unit_of_work,
            clock=clock,
            mode=FairUseMode.DRY_RUN,
        )
        books = Books(
            unit_of_work=database.unit_of_work,
            quotas=self.quotas,
            fair_use=fair_use,
            metering=self.metering,
            billing=billing,
            outbox=outbox,
            audit=self.audit,
            health=HealthService(store=outcomes, clock=clock),
            telemetry=Uncounted(),
            clock=clock,
            journal=self.journal,
        )
        self.gateway = Gateway(tenancy=self.tenancy, books=books, randomness=self._chance)
        self._open_desk(outbox, billing)
        await self._recover_audit()
        self._loops = [
            asyncio.create_task(self._every(SWEEP_SECONDS, self.quotas.sweep)),
            asyncio.create_task(self._every(1.0, self._recover_audit)),
        ]

    def _open_log(self):
        self._log = AuditLog.open(self._lock_directory, signer=SIGNER, clock=self.clock, files=self._files)

    def _open_desk(self, outbox, prices):
        database = self.database
        self.money = BillingBooks(
            unit_of_work=database.unit_of_work,
            invoices=MemoryInvoiceStore(database),
            usage=MemoryBilledUsageStore(database),
            journal=MemoryJournalStore(database),
            credits=MemoryCreditStore(database),
            operations=MemoryOperationStore(database),
            payments=MemoryPaymentStore(database),
            outbox=outbox,
            clock=self.clock,
        )
        self.desk = open_desk(
            self.money,
            plan_store=MemoryPlanStore(database),
            prices=prices,
            tenants=self.tenancy,
            signer=SIGNER,
            grace_days=2,
            payments=open_payments(self.money, events=MemoryNoticeStore(database)),
        )

    async def close(self):
        """Stop as the platform stops."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.gateway.close()
        await self.journal.close()
        with contextlib.suppress(BitNetServiceError):
            await self.quotas.close()
        with contextlib.suppress(BitNetServiceError):
            await self.audit.recover()
        await self.audit.close()
        self.is_closed = True

    def release_lock(self):
        """What the kernel does when a process is gone."""
        if self._log is not None:
            self._log.close()

    async def _recover_audit(self):
        with contextlib.suppress(BitNetServiceError):
            await self.audit.recover()

    async def _every(self, seconds, work):
        while True:
            await asyncio.sleep(seconds)
            with contextlib.suppress(BitNetServiceError):
                await work()
