"""Plans and contracts: published once, never changed; and which of them prices a month."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.billing.contract import UNTAXED, Contract, contract_of
from tritium_platform.billing.invoice import InvoiceStatus
from tritium_platform.billing.list_plan import plan_of
from tritium_platform.billing.rating.plan_json import plan_id, plan_to_dict
from tritium_platform.billing.rating.tax import STANDARD, knows_rate, rate_of
from tritium_platform.errors import ConflictError, NotFoundError, ValidationError
from tritium_platform.metering.event import EARLIEST
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.billing.books import BillingBooks
    from tritium_platform.billing.model import PriceVersion
    from tritium_platform.billing.party import Party
    from tritium_platform.billing.rating.plan import Plan
    from tritium_platform.billing.rating.tax import TaxStatus

WHOLE = Fraction(1)
MOST_DRAFTS = 1000


class PlanStore(Protocol):
    """Keeps plans by the digest of their content, and contracts: neither ever changes. And who buys."""

    async def add_plan(self, plan: Plan, *, at: datetime) -> bool:
        """Keep a plan; False if it is kept already."""

    async def get_plan(self, plan_id: str) -> Plan | None:
        """Return a plan."""

    async def list_plans(self, *, limit: int, after: str | None = None) -> Sequence[Plan]:
        """Return plans by their ids, those after `after`."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a tenant's month is priced by."""

    plan: Plan
    plan_id: str
    contract: Contract | None
    part: Fraction

    @property
    def tax(self) -> TaxStatus:
        """Where the tenant is taxed; nowhere without a contract."""
        return self.contract.tax if self.contract else UNTAXED


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
        _require_publishable(plan)
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
            ConflictError: it changes a month that is billed already, or breaks into the month of another one.
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
        _require_printable([tax.jurisdiction, tax.tax_id], field="tax")
        if starts_at < EARLIEST:  # every month from then on is looked at
            raise ValidationError(f"A contract starts in {EARLIEST.year} or later.", field="starts_at")
        async with self._books.unit_of_work():
            pinned = await self.get(plan)
            _require_rates(pinned, pinned, tax=tax, at=starts_at)
            for earlier in await self.contracts(tenant_id):  # whose late uses this one's invoices charge
                _require_rates(await self.get(earlier.plan_id), pinned, tax=tax, at=starts_at)
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

    async def terms_of(self, tenant_id: UUID, *, month: CalendarMonth, pinned: str | None = None) -> Terms:
        """Return what prices a month: the plan that priced it before, the contract's, or the price list.

        Raises:
            PlatformError: no prices were ever published.
        """
        contract = contract_of(await self._store.list_contracts(tenant_id), month=month)
        identity = pinned or (contract.plan_id if contract else None)
        if identity is None:
            plan = plan_of(await self._prices.prices_for(month))
            return Terms(plan=plan, plan_id=plan_id(plan), contract=None, part=WHOLE)
        plan = await self.get(identity)
        part = contract.part_of(month, plan=plan) if contract else WHOLE
        return Terms(plan=plan, plan_id=identity, contract=contract, part=part)

    async def keep(self, terms: Terms) -> None:
        """Keep the plan of some terms, so that an invoice can pin it."""
        await self._store.add_plan(terms.plan, at=self._books.clock.now())

    async def _require_free(self, contract: Contract) -> None:
        month = CalendarMonth.of(contract.starts_at)
        billed = await self._books.invoices.last_period(contract.tenant_id)
        if billed is not None and month <= billed:
            raise ConflictError(
                f"{billed} is billed already: a contract starts in a later month.", field="starts_at"
            )
        drafts = await self._books.invoices.list(
            tenant_id=contract.tenant_id, statuses=(InvoiceStatus.DRAFT,), limit=MOST_DRAFTS
        )
        if any(draft.period >= month for draft in drafts):
            raise ConflictError(
                "There is a draft of that month already: void it before the contract changes what it says.",
                field="starts_at",
            )
        others = await self._store.list_contracts(contract.tenant_id)
        if others and contract.starts_at != month.start:
            raise ConflictError(
                "A contract that follows another one starts with a calendar month (UTC).", field="starts_at"
            )
        if any(other.starts_at > contract.starts_at for other in others):
            raise ConflictError("A contract that starts later exists already.", field="starts_at")


def _require_rates(plan: Plan, pinned: Plan, *, tax: TaxStatus, at: datetime) -> None:
    """Find out now, not at the end of a month, that neither plan knows the tax on what the first charges."""
    for category in sorted({STANDARD, *(charge.tax_category for charge in plan.charges)}):
        if not knows_rate(plan.taxes, status=tax, category=category, at=at):
            rate_of(pinned.taxes, status=tax, category=category, at=at)


def _require_publishable(plan: Plan) -> None:
    """Refuse what a new plan may not say; those of before are read as they are. ValidationError."""
    _require_printable(plan_to_dict(plan), field="plan")
    rates = {(each.jurisdiction, each.category, each.valid_from) for each in plan.taxes}
    if len(rates) < len(plan.taxes):
        raise ValidationError("Two tax rates of a plan are for the same thing.", field="taxes")


def _require_printable(plain: object, *, field: str) -> None:
    """Refuse a text that no database keeps or no page prints, at any depth; ValidationError."""
    if isinstance(plain, str) and not plain.isprintable():
        raise ValidationError(f"Every text of the {field} can be printed on one line.", field=field)
    if isinstance(plain, dict | list):
        for each in plain.values() if isinstance(plain, dict) else plain:
            _require_printable(each, field=field)
