"""Journal, credit, plans, contracts and operations in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tritium_platform.billing.rating.plan_json import plan_id as id_of
from tritium_platform.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.billing.books import Operation
    from tritium_platform.billing.contract import Contract
    from tritium_platform.billing.invoice import CreditGrant, Invoice
    from tritium_platform.billing.journal import JournalEntry, JournalGroup
    from tritium_platform.billing.party import Party
    from tritium_platform.billing.rating.plan import Plan


class MemoryJournalStore:
    """Keeps the journal: groups that sum to zero, one per operation, never changed."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def post(self, group: JournalGroup) -> None:
        """Keep a group; ConflictError if its operation was posted before."""
        async with self._database.write():
            if any(each.operation_id == group.operation_id for each in self._groups.values()):
                raise ConflictError("This operation is in the journal already.", field="operation_id")
            self._groups[group.id] = group

    async def list(self, *, limit: int, after: UUID | None = None) -> Sequence[JournalGroup]:
        """Return groups in the order of their ids, those after `after`."""
        found = [each for _, each in sorted(self._groups.items()) if after is None or each.id > after]
        return found[:limit]

    async def entries_about(self, operation: str, *, tenant_id: UUID) -> Sequence[JournalEntry]:
        """Return a tenant's entries of an operation and of its parts, whose ids go on with `:`."""
        return [
            entry
            for each in self._groups.values()
            if each.tenant_id == tenant_id and f"{each.operation_id}:".startswith(f"{operation}:")
            for entry in each.entries
        ]

    @property
    def _groups(self) -> dict[UUID, JournalGroup]:
        return self._database.tables["journal_groups"]


class MemoryCreditStore:
    """Keeps prepaid credit; what is left of a grant is never below zero."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, grant: CreditGrant) -> None:
        """Keep a grant."""
        async with self._database.write():
            self._grants[grant.id] = grant

    async def list(
        self, tenant_id: UUID, *, limit: int | None = None, after: UUID | None = None
    ) -> Sequence[CreditGrant]:
        """Return a tenant's grants, oldest first, those after `after`; no limit: all."""
        mine = [each for _, each in sorted(self._grants.items()) if each.tenant_id == tenant_id]
        return [each for each in mine if after is None or each.id > after][:limit]

    async def lock(self, tenant_id: UUID, *, currency: str) -> Sequence[CreditGrant]:
        """Return a tenant's grants of a currency with something left, until the unit of work ends."""
        mine = await self.list(tenant_id)
        return [each for each in mine if each.currency == currency and each.remaining_minor]

    async def draw(self, invoice: Invoice, draws: Sequence[tuple[UUID, int]]) -> None:
        """Take amounts from grants for an invoice."""
        async with self._database.write():
            for grant_id, amount in draws:
                self._add_to(grant_id, -amount)
            self._draws[invoice.id] = tuple(sorted(draws))

    async def draws(self, invoice_id: UUID) -> Sequence[tuple[UUID, int]]:
        """Return what grants paid of an invoice."""
        return self._draws.get(invoice_id, ())

    async def take(self, grant_id: UUID, amount_minor: int) -> None:
        """Take an amount from a grant that is paid out in money."""
        await self.give_back(grant_id, -amount_minor)

    async def give_back(self, grant_id: UUID, amount_minor: int) -> None:
        """Put an amount back that a void invoice had drawn."""
        async with self._database.write():
            self._add_to(grant_id, amount_minor)

    async def expire(self, *, at: datetime, limit: int) -> Sequence[CreditGrant]:
        """Take what is left from grants that expired, and return them as they were before."""
        async with self._database.write():
            expired = [
                each
                for _, each in sorted(self._grants.items())
                if each.expires_at is not None and each.expires_at <= at and each.remaining_minor
            ][:limit]
            for each in expired:
                self._add_to(each.id, -each.remaining_minor)
        return expired

    def _add_to(self, grant_id: UUID, amount: int) -> None:
        grant = self._grants[grant_id]
        left = grant.remaining_minor + amount
        if not 0 <= left <= grant.amount_minor:
            raise ConflictError("More than is left of a grant cannot be drawn from it.")
        self._grants[grant_id] = replace(grant, remaining_minor=left)

    @property
    def _grants(self) -> dict[UUID, CreditGrant]:
        return self._database.tables["credit_grants"]

    @property
    def _draws(self) -> dict[UUID, tuple[tuple[UUID, int], ...]]:
        return self._database.tables["credit_draws"]


class MemoryPlanStore:
    """Keeps plans by the digest of their content, and contracts: neither ever changes. And who buys."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add_plan(self, plan: Plan, *, at: datetime) -> bool:  # noqa: ARG002 - only SQL keeps when
        """Keep a plan; False if it is kept already."""
        async with self._database.write():
            is_new = id_of(plan) not in self._plans
            self._plans.setdefault(id_of(plan), plan)
        return is_new

    async def get_plan(self, plan_id: str) -> Plan | None:
        """Return a plan."""
        return self._plans.get(plan_id)

    async def list_plans(self, *, limit: int, after: str | None = None) -> Sequence[Plan]:
        """Return plans by their ids, those after `after`."""
        found = [plan for key, plan in sorted(self._plans.items()) if after is None or key > after]
        return found[:limit]

    async def hold(self, tenant_id: UUID) -> None:
        """Do nothing more: who writes holds all tenants."""

    async def add_contract(self, contract: Contract) -> bool:
        """Keep a contract; False if another one of the tenant starts at the same instant."""
        async with self._database.write():
            key = (contract.tenant_id, contract.starts_at)
            if key in self._contracts:
                return False
            self._contracts[key] = contract
        return True

    async def list_contracts(
        self, tenant_id: UUID, *, limit: int | None = None, after: UUID | None = None
    ) -> Sequence[Contract]:
        """Return a tenant's contracts by their starts, oldest first; those after `after`, no limit: all."""
        mine = [each for each in self._contracts.values() if each.tenant_id == tenant_id]
        mine.sort(key=lambda each: each.starts_at)
        if after is not None:
            start = next((each.starts_at for each in mine if each.id == after), None)
            mine = [each for each in mine if start is not None and each.starts_at > start]
        return mine[:limit]

    async def put_buyer(self, tenant_id: UUID, buyer: Party, *, at: datetime) -> None:  # noqa: ARG002 - only SQL
        """Keep who a tenant is on its invoices from now on."""
        async with self._database.write():
            self._database.tables["buyers"][tenant_id] = buyer

    async def buyer(self, tenant_id: UUID) -> Party | None:
        """Return who a tenant is on its invoices."""
        return self._database.tables["buyers"].get(tenant_id)

    @property
    def _plans(self) -> dict[str, Plan]:
        return self._database.tables["price_plans"]

    @property
    def _contracts(self) -> dict[tuple[UUID, datetime], Contract]:
        return self._database.tables["contracts"]


class MemoryOperationStore:
    """Remembers for ever which operation of whose key did what."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def begin(self, operation: Operation) -> Operation:
        """Keep an operation and return it; if its id is taken, return the one that has it."""
        async with self._database.write():
            kept: dict[str, Operation] = self._database.tables["billing_operations"]
            return kept.setdefault(operation.id, operation)
