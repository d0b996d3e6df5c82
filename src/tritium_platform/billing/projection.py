"""What a draft would say now: the lines of a month and of earlier ones, worked out from the uses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tritium_platform.billing.document import EventDigest, invoice_to_dict, line_to_dict
from tritium_platform.billing.drafting import PartFacts, draft_lines, total_of
from tritium_platform.billing.invoice import InvoiceStatus
from tritium_platform.billing.party import Parties
from tritium_platform.billing.rating.credits import Credit, draw_credits
from tritium_platform.billing.rating.plan import Usage
from tritium_platform.billing.rating.proration import TICK
from tritium_platform.billing.rating.rate import add_taxes, charge_of
from tritium_platform.billing.rating.tax import knows_rate, rate_of
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from fractions import Fraction
    from uuid import UUID

    from tritium_platform.billing.books import BillingBooks
    from tritium_platform.billing.drafting import DraftLine
    from tritium_platform.billing.invoice import CreditGrant, Invoice
    from tritium_platform.billing.party import Seller
    from tritium_platform.billing.plans import PlanService
    from tritium_platform.billing.rating.plan import LineKey
    from tritium_platform.billing.rating.tax import TaxRate
    from tritium_platform.billing.terms import Terms
    from tritium_platform.metering.model import UsageRecord
    from tritium_platform.values import Interval

EVENTS_AT_ONCE = 1000
MOST_DRAFTS = 1000


class Projection:
    """Works out drafts; nothing of them is kept until they are finalized."""

    def __init__(self, *, books: BillingBooks, plans: PlanService, seller: Seller | None = None) -> None:
        self._books = books
        self._plans = plans
        self._seller = seller

    async def body(self, invoice: Invoice) -> dict[str, Any]:
        """Return what an invoice that was never finalized would say now."""
        if invoice.status is InvoiceStatus.VOID:  # a draft that was discarded says nothing any more
            return invoice_to_dict(
                invoice,
                lines=[],
                tax=(await self.terms_of(invoice)).tax,
                parties=await self.parties(invoice),
            )
        months = await self.months_of(invoice)
        lines = await self.lines(invoice, months=months, is_final=False)
        terms = await self.terms_of(invoice)
        plain = [line_to_dict(number, line, events=None) for number, line in enumerate(lines, start=1)]
        grants = await self._books.credits.list(invoice.tenant_id)
        draws = self.draws(invoice, lines=lines, grants=grants)
        parties = await self.parties(invoice)
        return invoice_to_dict(invoice, lines=plain, tax=terms.tax, parties=parties, draws=draws)

    async def lines(
        self, invoice: Invoice, *, months: Mapping[CalendarMonth, Terms], is_final: bool
    ) -> list[DraftLine]:
        """Work out the lines with their taxes, from all uses or from those that are billed."""
        facts = {
            month: await self.facts(invoice.tenant_id, month=month, terms=terms, is_only_billed=is_final)
            for month, terms in months.items()
        }
        drafted = draft_lines(invoice.period, months=facts)
        tables = {part.plan_id: part.plan.taxes for each in months.values() for part in each.parts}
        terms = months.get(invoice.period) or await self.terms_of(invoice)
        taxed = add_taxes(
            [each.line for each in drafted],
            plan=terms.plan,
            status=terms.tax,
            rates=[_tax_rate(each, terms=terms, table=tables[each.plan_id]) for each in drafted],
        )
        return [replace(each, line=line) for each, line in zip(drafted, taxed, strict=True)]

    async def facts(
        self, tenant_id: UUID, *, month: CalendarMonth, terms: Terms, is_only_billed: bool
    ) -> list[PartFacts]:
        """Return what was used and charged of each part of a month."""
        charged = await self._books.invoices.charged(tenant_id, month)
        return [
            PartFacts(
                terms=part,
                usage=await self._books.usage.usage(
                    tenant_id, interval=part.interval or month.interval, is_only_billed=is_only_billed
                ),
                charged=[line for line in charged if line.interval == part.interval],
            )
            for part in terms.parts
        ]

    async def by_currency(
        self, tenant_id: UUID, *, period: CalendarMonth
    ) -> dict[str, tuple[Terms, dict[CalendarMonth, Terms]]]:
        """Return, per currency, the terms of the invoice (of its last month) and those of every month."""
        late = await self._books.usage.unbilled_months(tenant_id, before=period.end)
        drafts = await self._books.invoices.list(
            tenant_id=tenant_id, statuses=(InvoiceStatus.DRAFT,), limit=MOST_DRAFTS
        )
        own_draft = {(draft.period, draft.currency): draft.plan_id for draft in drafts}
        found: dict[str, tuple[Terms, dict[CalendarMonth, Terms]]] = {}
        for month in sorted({*late, period}):
            charged = await self._books.invoices.charged(tenant_id, month)
            terms = await self._plans.terms_of(tenant_id, month=month, charged=charged)
            terms.require_parts_of(charged)
            drafted = own_draft.get((month, terms.plan.currency))
            if drafted is not None and month != period:
                continue  # that one charges for it
            if drafted is not None and not charged:  # a list that came later does not price a draft anew
                terms = await self._plans.terms_of(tenant_id, month=month, pinned=drafted)
            _, months = found.get(terms.plan.currency, (terms, {}))
            found[terms.plan.currency] = (terms, {**months, month: terms})
        return found

    async def months_of(self, invoice: Invoice) -> dict[CalendarMonth, Terms]:
        """Return the months that an invoice is about, with what prices each."""
        found = await self.by_currency(invoice.tenant_id, period=invoice.period)
        _, months = found.get(invoice.currency, (None, {}))
        return months

    async def terms_of(self, invoice: Invoice) -> Terms:
        """Return what prices the month of an invoice."""
        return await self._plans.terms_of(invoice.tenant_id, month=invoice.period, pinned=invoice.plan_id)

    async def parties(self, invoice: Invoice) -> Parties:
        """Return who sells and who buys."""
        return Parties(seller=self._seller, buyer=await self._plans.buyer(invoice.tenant_id))

    def draws(
        self, invoice: Invoice, *, lines: Sequence[DraftLine], grants: Sequence[CreditGrant]
    ) -> Sequence[tuple[UUID, int]]:
        """Return what each grant would pay of some lines now."""
        usable = [
            Credit(
                id=grant.id,
                remaining=grant.remaining_minor,
                priority=grant.priority,
                expires_at=grant.expires_at,
            )
            for grant in grants
            if grant.currency == invoice.currency
        ]
        return draw_credits(max(0, total_of(lines)), grants=usable, at=self._books.clock.now())

    async def digests(
        self, invoice: Invoice, *, lines: Sequence[DraftLine], months: Mapping[CalendarMonth, Terms]
    ) -> list[EventDigest]:
        """Read every use that is charged, once, and digest it into its line."""
        digests = {_place(each): EventDigest() for each in lines}
        after = None
        while True:
            records = await self._books.usage.events(invoice.id, limit=EVENTS_AT_ONCE, after=after)
            for record in records:
                month = CalendarMonth.of(record.occurred_at)
                part = months[month].part_at(record.occurred_at)
                for use in uses_of(record):
                    key = charge_of(part.plan, use)
                    digest = digests.get((month, part.interval, key)) if key else None
                    if digest is not None:
                        digest.add(source=record.source, event_id=record.event_id, quantity=use.quantity)
            if len(records) < EVENTS_AT_ONCE:
                return [digests[_place(each)] for each in lines]
            after = records[-1].id


def _place(line: DraftLine) -> tuple[CalendarMonth, Interval | None, LineKey]:
    return line.month, line.interval, line.line.key


def _tax_rate(line: DraftLine, *, terms: Terms, table: Sequence[TaxRate]) -> Fraction:
    """Return the rate of a line: that of the end of its month, whenever the invoice is finalized.

    The table is that of the plan that prices the line; else the invoice's plan has the rate, for the customer
    may be taxed elsewhere now.
    """
    at = line.month.end - TICK
    if terms.contract is not None:  # of which it is known that it has a rate at its start
        at = max(at, terms.contract.starts_at)
    if not knows_rate(table, status=terms.tax, category=line.line.tax_category, at=at):
        table = terms.plan.taxes
    return rate_of(table, status=terms.tax, category=line.line.tax_category, at=at)


def uses_of(record: UsageRecord) -> list[Usage]:
    """Return what a record counts, meter by meter."""
    return [
        Usage(meter=meter, tier=record.tier, quantity=quantity, model=record.model, device=record.device)
        for meter, quantity in record.metered().items()
        if quantity
    ]
