"""The operator: changes limits, lets months go by, bills, takes payments, corrects."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from simulated.clock import START
from tritium_platform.billing.invoice import OPEN, InvoiceKind, InvoiceStatus
from tritium_platform.changes import tenant_changed
from tritium_platform.errors import BitNetServiceError, OverloadedError
from tritium_platform.values import CalendarMonth

ACTOR = "operator"
PATIENCE = 60
MOST_MONTHS = 3


class Operator:
    """One operator's client."""

    def __init__(self, world, process, *, chance):
        self._world = world
        self._process = process
        self._chance = chance

    async def act(self):
        """Do something an operator does."""
        await asyncio.sleep(self._chance.random() * 0.5)
        money = [self.bill, self.pay, self.pay, self.void, self.void, self.credit, self.grant, self.write_off]
        does = self._chance.choice([*money, self.change_limits, self.pass_a_month, self.set_clock])
        await self._try(does)

    async def meddle(self):
        """Do something that is not about money."""
        await asyncio.sleep(self._chance.random() * 0.5)
        await self._try(self._chance.choice([self.change_limits, self.set_clock, self.pass_a_month]))

    async def _try(self, does):
        try:
            await does()
        except BitNetServiceError as error:
            self._world.note(f"operator: {does.__name__}: {error.code}")

    async def bill(self):
        """Do what is due by the calendar, and finalize what can be."""
        await self._process.desk.calendar.run()
        drafts = await self._process.desk.invoices.list(statuses=(InvoiceStatus.DRAFT,))
        for draft in drafts[: self._chance.randint(1, 3)]:
            invoice = await self._process.desk.invoices.finalize(draft.id, actor=ACTOR)
            self._world.note(f"operator: finalized {invoice.number}")
        await self.read_documents()

    async def read_documents(self):
        """Read every document; what one said once is what it says for ever."""
        for invoice in await self._process.desk.invoices.list(limit=1000):
            document = await self._process.money.invoices.document(invoice.id)
            if document is not None:
                self._world.witness.documents.setdefault(invoice.id, document.body)

    async def pay(self):
        invoice = await self._pick(*OPEN)
        if invoice is not None:
            whole = self._chance.random() < 0.5
            amount = invoice.open_minor if whole else self._chance.randint(1, invoice.open_minor)
            await self.insist("pay", self._world.new_key(), invoice.id, amount)

    async def credit(self):
        invoice = await self._pick(*OPEN, InvoiceStatus.PAID)
        if invoice is not None:
            await self.insist("credit", self._world.new_key(), invoice.id, self._chance.randint(1, 3))

    async def grant(self):
        _, tenant_id, _ = self._chance.choice(self._world.tenants)
        await self.insist("grant", self._world.new_key(), tenant_id, self._chance.randint(1, 400))

    async def void(self):
        invoice = await self._pick(*InvoiceStatus)
        if invoice is not None:
            await self._process.desk.settlement.void(invoice.id, actor=ACTOR)

    async def write_off(self):
        invoice = await self._pick(*OPEN)
        if invoice is not None:
            await self._process.desk.settlement.write_off(invoice.id, actor=ACTOR)

    async def change_limits(self):
        name, tenant_id, _ = self._chance.choice(self._world.tenants)
        limits = self._world.limits[name] | {"monthly_quota": self._chance.choice([6, 12, 205, 230, 1000])}
        process = self._process
        await process.gateway.change(
            lambda: process.tenancy.change_tenant(tenant_id, limit_overrides=limits),
            describe=lambda tenant: tenant_changed("tenant.change", tenant),
        )

    async def pass_a_month(self):
        """Let the calendar reach the first days of the next month."""
        now = self._process.clock.now()
        if (now - START).days < 31 * MOST_MONTHS:
            start = CalendarMonth.of(now).end + timedelta(days=self._chance.choice([0, 1, 3]))
            self._world.calendar.jump(start - now)
            self._world.note(f"it is {start:%Y-%m-%d}")

    async def set_clock(self):
        """Set the clock right, as a machine's is from time to time."""
        seconds = self._chance.choice([-1, 1]) * self._chance.choice([0.01, 1, 30])
        self._world.calendar.jump(timedelta(seconds=seconds))
        self._world.is_time_turned |= seconds < 0
        self._world.note(f"the clock was set by {seconds} s")

    async def insist(self, verb, key, subject_id, amount):
        """Do something under its key until it is answered; a crash leaves it to the next life."""
        self._world.unfinished[key] = (verb, subject_id, amount)
        for _ in range(PATIENCE):
            try:
                if self._chance.random() < 0.2:  # somebody pressed the button twice
                    again = getattr(self, f"_{verb}")(key, subject_id, amount)
                    await asyncio.gather(again, return_exceptions=True)
                await getattr(self, f"_{verb}")(key, subject_id, amount)
            except OverloadedError:
                await asyncio.sleep(self._chance.random())
                continue
            except BitNetServiceError as error:
                self._world.note(f"operator: {verb} {key}: {error.code}")
            break
        del self._world.unfinished[key]

    async def _pay(self, key, invoice_id, amount):
        await self._process.desk.settlement.record_payment(
            invoice_id, amount_minor=amount, reference=key, key=key, actor=ACTOR
        )
        self._world.witness.payments[key] = (invoice_id, amount)
        self._world.note(f"operator: paid {amount} under {key}")

    async def _credit(self, key, invoice_id, amount):
        await self._process.desk.credit_notes.credit(
            invoice_id, amounts={1: amount}, reason=key, key=key, actor=ACTOR
        )
        self._world.note(f"operator: credited {amount} under {key}")

    async def _grant(self, key, tenant_id, amount):
        days = amount % 60
        await self._process.desk.grants.grant(
            tenant_id,
            currency="EUR",
            amount_minor=amount,
            reason=key,
            expires_at=START + timedelta(days=60 + days) if amount % 3 == 0 else None,
            key=key,
            actor=ACTOR,
        )
        self._world.witness.grants[key] = amount
        self._world.note(f"operator: granted {amount} under {key}")

    async def _pick(self, *statuses):
        """Return an invoice; with none to choose from, the month ends and is billed first."""
        for _ in range(2):
            found = await self._process.desk.invoices.list(statuses=statuses, limit=100)
            found = [each for each in found if each.kind is InvoiceKind.INVOICE]
            if found:
                return self._chance.choice(found)
            await self.pass_a_month()
            await self.bill()
        return None

    async def close_the_books(self):
        """Bill everything that was ever used."""
        for _ in range(2):
            now = self._process.clock.now()
            self._world.calendar.jump(CalendarMonth.of(now).end - now + timedelta(days=5))
            await self._process.desk.calendar.run()
        await self.read_documents()
