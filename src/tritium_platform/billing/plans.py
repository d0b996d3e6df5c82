"""Plans and contracts: published once, never changed; and which of them prices a month."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.billing.contract import Contract, contracts_of
from tritium_platform.billing.invoice import InvoiceStatus
from tritium_platform.billing.list_plan import plan_of
from tritium_platform.billing.rating.plan_json import plan_id
from tritium_platform.billing.refusals import (
    require_last,
    require_one_invoice,
    require_open_month,
    require_printable,
    require_publishable,
    require_rates,
)
from tritium_platform.billing.terms import Slice, Terms, choose_cut, cut_month
from tritium_platform.errors import ConflictError, NotFoundError, PlatformError, ValidationError
from tritium_platform.metering.event import EARLIEST
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.billing.books import BillingBooks
    from tritium_platform.billing.invoice import FiledLine
    from tritium_platform.billing.model import PriceVersion
    from tritium_platform.billing.party import Party
    from tritium_platform.billing.rating.plan import Plan
    from tritium_platform.billing.rating.tax import TaxStatus
    from tritium_platform.billing.terms import PartTerms
    from tritium_platform.values import Interval

MOST_DRAFTS = 1000


class PlanStore(Protocol):
    """Keeps plans by the digest of their content, and contracts: neither ever changes. And who buys."""

    async def add_plan(self, plan: Plan, *, at: datetime) -> bool:
        """Keep a plan; False if it is kept already."""

    async def get_plan(self, plan_id: str) -> Plan | None:
        """Return a plan."""

    async def list_plans(self, *, limit: int, after: str | None = None) -> Sequence[Plan]:
        """Return plans by their ids, those after `after`."""

    async def hold(self, tenant_id: UUID) -> None:
        """Wait for whoever holds the tenant, and hold it until the unit of work ends."""

    async def add_contract(self, contract: Contract) -> bool:
        """Keep a contract; False if another one of the tenant starts at the same instant."""

    async def list_contracts(
        self, tenant_id: UUID, *, limit: int | None = None, after: UUID | None = None
    ) -> Sequence[Contract]:
        """Return a tenant's contracts by their starts, oldest first; those after `after`, no limit: all."""

    async def put_buyer(self, tenant_id: UUID, buyer: Party, *, at: datetime) -> None:
        """Keep who a tenant is on its invoices from now on."""

    async def buyer(self, tenant_id: UUID) -> Party | None:
        """Return who a tenant is on its invoices."""


class PriceLists(Protocol):
    """Knows the price list that is in force."""

    async def prices_for(self, period: CalendarMonth) -> PriceVersion:
        """Return the list that prices a month for who has no contract."""

    async def find_prices(self, period: CalendarMonth) -> PriceVersion | None:
        """Return the same; None if no prices were ever published."""


class PlanService:
    """Publishes plans, concludes contracts, and finds the terms of a month."""

    def __init__(self, *, store: PlanStore, prices: PriceLists, books: BillingBooks) -> None:
        self._store = store
        self._prices = prices
        self._books = books

    async def publish(self, plan: Plan, *, actor: str) -> str:
        """Keep a plan for ever and return its id; the same content again is the same plan.

        Raises:
            ValidationError: a text of it cannot be printed, or it has two tax rates for the same thing.
        """
        require_publishable(plan)
        identity = plan_id(plan)
        async with self._books.unit_of_work():
            if await self._store.add_plan(plan, at=self._books.clock.now()):
                await self._books.note(
                    "plan.publish",
                    subject=ResourceIdentifier("plan", identity),
                    tenant_id=None,
                    actor=actor,
                    name=plan.name,
                    currency=plan.currency,
                )
        return identity

    async def get(self, identity: str) -> Plan:
        """Return a plan; NotFoundError if there is none."""
        plan = await self._store.get_plan(identity) if identity.isprintable() else None
        if plan is None:
            raise NotFoundError("There is no such plan.")
        return plan

    async def list(self, *, limit: int, after: str | None = None) -> Sequence[Plan]:
        """Return a page of plans by their ids."""
        return await self._store.list_plans(limit=limit, after=after)

    async def conclude(
        self,
        tenant_id: UUID,
        *,
        plan: str,
        starts_at: datetime,
        ends_at: datetime | None,
        payment_days: int,
        tax: TaxStatus,
        actor: str,
    ) -> Contract:
        """Conclude a contract that pins a plan.

        Raises:
            NotFoundError: there is no such plan.
            ValidationError: the plan has no tax rate for the jurisdiction, or it starts before there were
                uses.
            ConflictError: it changes a month that is billed already, or starts within a month of another one
                and differs in currency or taxes.
        """
        contract = Contract(
            id=uuid7(self._books.clock),
            tenant_id=tenant_id,
            plan_id=plan,
            starts_at=starts_at,
            ends_at=ends_at,
            payment_days=payment_days,
            tax=tax,
            created_at=self._books.clock.now(),
        )
        require_printable([tax.jurisdiction, tax.tax_id], field="tax")
        if starts_at < EARLIEST:  # every month from then on is looked at
            raise ValidationError(f"A contract starts in {EARLIEST.year} or later.", field="starts_at")
        async with self._books.unit_of_work():
            await self.hold(tenant_id)
            pinned = await self.get(plan)
            require_rates(pinned, pinned, tax=tax, at=starts_at)
            for earlier in await self.contracts(tenant_id):  # whose late uses this one's invoices charge
                require_rates(await self.get(earlier.plan_id), pinned, tax=tax, at=starts_at)
            await self._require_free(contract)
            if not await self._store.add_contract(contract):
                raise ConflictError("Another contract of this tenant starts at the same instant.")
            await self._books.note(
                "contract.conclude",
                subject=ResourceIdentifier("contract", str(contract.id)),
                tenant_id=tenant_id,
                actor=actor,
                plan_id=plan,
            )
        return contract

    async def hold(self, tenant_id: UUID) -> None:
        """Hold a tenant until the unit of work ends: meanwhile nobody else concludes or drafts for it."""
        await self._store.hold(tenant_id)

    async def contracts(
        self, tenant_id: UUID, *, limit: int | None = None, after: UUID | None = None
    ) -> Sequence[Contract]:
        """Return a tenant's contracts by their starts, oldest first; those after `after`, no limit: all."""
        return await self._store.list_contracts(tenant_id, limit=limit, after=after)

    async def name_buyer(self, tenant_id: UUID, buyer: Party, *, actor: str) -> None:
        """Say who a tenant is on invoices that are finalized from now on."""
        async with self._books.unit_of_work():
            await self._store.put_buyer(tenant_id, buyer, at=self._books.clock.now())
            await self._books.note(
                "buyer.name",
                subject=ResourceIdentifier("buyer", str(tenant_id)),
                tenant_id=tenant_id,
                actor=actor,
                country=buyer.country,
            )

    async def buyer(self, tenant_id: UUID) -> Party | None:
        """Return who a tenant is on its invoices; None if nobody said."""
        return await self._store.buyer(tenant_id)

    async def terms_of(
        self,
        tenant_id: UUID,
        *,
        month: CalendarMonth,
        charged: Sequence[FiledLine] = (),
        pinned: str | None = None,
    ) -> Terms:
        """Return what prices a month: the plans that priced it before, the contracts', or the price list.

        Args:
            tenant_id: whose month it is.
            month: what is priced.
            charged: what invoices charged for it already.
            pinned: the plan of a draft of it.

        Raises:
            PlatformError: no prices were ever published.
        """
        held = contracts_of(await self._store.list_contracts(tenant_id), month=month)
        is_whole = any(line.interval is None for line in charged)
        if is_whole:  # whatever contract came after that
            held = contracts_of([contract for contract, _ in held[:1]], month=month)
        contract, covered = held[-1] if held else (None, month.interval)
        identity = charged[0].plan_id if is_whole else pinned or (contract.plan_id if contract else None)
        if identity is None:
            plan = plan_of(await self._prices.prices_for(month))
            identity = plan_id(plan)
        else:
            plan = await self.get(identity)
        if held and not is_whole:
            parts = await self._parts_of(month, held=held, charged=charged)
        else:
            parts = (Slice(None, contract, covered).priced_by(plan, identity, month=month),)
        return Terms(plan=plan, plan_id=identity, contract=contract, parts=parts)

    async def _parts_of(
        self,
        month: CalendarMonth,
        *,
        held: Sequence[tuple[Contract, Interval]],
        charged: Sequence[FiledLine],
    ) -> tuple[PartTerms, ...]:
        """Return how a month with contracts is priced; in their currency, the list prices what is between."""
        last = held[-1][0].plan_id
        version, plan = await self._prices.find_prices(month), await self.get(last)
        is_listed = version is not None and version.currency == plan.currency
        cuts = [cut_month(month, held=held, is_listed=each) for each in (is_listed, not is_listed)]
        pinned = {line.interval: line.plan_id for line in charged}
        parts = []
        for piece in choose_cut(cuts, charged=pinned):
            identity = piece.contract.plan_id if piece.contract else pinned.get(piece.interval)
            if identity is not None:
                parts.append(piece.priced_by(await self.get(identity), identity, month=month))
            elif version is not None and is_listed:
                plan = plan_of(version)
                parts.append(piece.priced_by(plan, plan_id(plan), month=month))
            else:  # the list that was there is not: late uses cost as in the contract, and time costs nothing
                terms = piece.priced_by(await self.get(last), last, month=month)
                parts.append(replace(terms, part=Fraction(0)))
        if len({part.plan.currency for part in parts}) > 1:
            raise PlatformError("Contracts within a month have several currencies: no invoice can be made.")
        return tuple(parts)

    async def keep(self, terms: Terms) -> None:
        """Keep the plans of some terms, so that an invoice can pin them."""
        for part in terms.parts:
            await self._store.add_plan(part.plan, at=self._books.clock.now())

    async def _require_free(self, contract: Contract) -> None:
        """Refuse a contract that changes a month which an invoice is about, or other contracts."""
        invoices = self._books.invoices
        drafts = await invoices.list(
            tenant_id=contract.tenant_id, statuses=(InvoiceStatus.DRAFT,), limit=MOST_DRAFTS
        )
        # After the drafts: one that is finalized in between is found here, and the other way round nowhere.
        billed = await invoices.last_period(contract.tenant_id)
        require_open_month(contract, billed=billed, drafted=[draft.period for draft in drafts])
        others = await self._store.list_contracts(contract.tenant_id)
        require_last(contract, others=others)
        held = contracts_of(others, month=CalendarMonth.of(contract.starts_at))
        if held:
            earlier, _ = held[-1]
            plans = await self.get(contract.plan_id), await self.get(earlier.plan_id)
            require_one_invoice(contract, earlier, currencies=(plans[0].currency, plans[1].currency))
