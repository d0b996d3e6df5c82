"""Plans, contracts and operations in SQL: each is written once."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import rfc8785
from sqlalchemy import select

from tritium_platform.adapters.sql.tables.invoices import (
    billing_operations,
    buyers,
    contracts,
    price_plans,
)
from tritium_platform.adapters.sql.tables.tenancy import tenants
from tritium_platform.billing.books import Operation
from tritium_platform.billing.contract import Contract
from tritium_platform.billing.party import Party
from tritium_platform.billing.rating.plan_json import canonical_plan, plan_from_dict, plan_id
from tritium_platform.billing.rating.tax import TaxStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Row

    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.billing.rating.plan import Plan


class SqlPlanStore:
    """Keeps plans by the digest of their content, and contracts: neither ever changes. And who buys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_plan(self, plan: Plan, *, at: datetime) -> bool:
        """Keep a plan; False if it is kept already."""
        statement = (
            self._database.insert(price_plans)
            .values(
                id=plan_id(plan),
                name=plan.name,
                currency=plan.currency,
                body=canonical_plan(plan),
                created_at=at,
            )
            .on_conflict_do_nothing()
            .returning(price_plans.c.id)
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def get_plan(self, plan_id: str) -> Plan | None:
        """Return a plan."""
        statement = select(price_plans.c.body).where(price_plans.c.id == plan_id)
        async with self._database.read() as connection:
            body = (await connection.execute(statement)).scalar_one_or_none()
        return None if body is None else plan_from_dict(json.loads(body))

    async def list_plans(self, *, limit: int, after: str | None = None) -> Sequence[Plan]:
        """Return plans by their ids, those after `after`."""
        statement = select(price_plans.c.body).order_by(price_plans.c.id).limit(limit)
        if after is not None:
            statement = statement.where(price_plans.c.id > after)
        async with self._database.read() as connection:
            bodies = (await connection.execute(statement)).scalars().all()
        return [plan_from_dict(json.loads(body)) for body in bodies]

    async def hold(self, tenant_id: UUID) -> None:
        """Wait for whoever holds the tenant, and hold it until the unit of work ends."""
        # Only the key stays free (FOR NO KEY UPDATE): rows that refer to the tenant come in meanwhile.
        statement = select(tenants.c.id).where(tenants.c.id == tenant_id).with_for_update(key_share=True)
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def add_contract(self, contract: Contract) -> bool:
        """Keep a contract; False if another one of the tenant starts at the same instant."""
        statement = (
            self._database.insert(contracts)
            .values(**_contract_values(contract))
            .on_conflict_do_nothing()
            .returning(contracts.c.id)
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def list_contracts(
        self, tenant_id: UUID, *, limit: int | None = None, after: UUID | None = None
    ) -> Sequence[Contract]:
        """Return a tenant's contracts by their starts, oldest first; those after `after`, no limit: all."""
        mine = contracts.c.tenant_id == tenant_id
        statement = select(contracts).where(mine).order_by(contracts.c.starts_at).limit(limit)
        if after is not None:
            start = select(contracts.c.starts_at).where(mine, contracts.c.id == after)
            statement = statement.where(contracts.c.starts_at > start.scalar_subquery())
        async with self._database.read() as connection:
            return [_contract(row) for row in await connection.execute(statement)]

    async def put_buyer(self, tenant_id: UUID, buyer: Party, *, at: datetime) -> None:
        """Keep who a tenant is on its invoices from now on."""
        values = {"body": rfc8785.dumps(buyer.to_dict()), "updated_at": at}
        statement = (
            self._database.insert(buyers)
            .values(tenant_id=tenant_id, **values)
            .on_conflict_do_update(index_elements=[buyers.c.tenant_id], set_=values)
        )
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def buyer(self, tenant_id: UUID) -> Party | None:
        """Return who a tenant is on its invoices."""
        statement = select(buyers.c.body).where(buyers.c.tenant_id == tenant_id)
        async with self._database.read() as connection:
            body = (await connection.execute(statement)).scalar_one_or_none()
        return None if body is None else Party.of(json.loads(body))


class SqlOperationStore:
    """Remembers for ever which operation of whose key did what."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, operation: Operation) -> Operation:
        """Keep an operation and return it; if its id is taken, return the one that has it."""
        fresh = self._database.insert(billing_operations).values(**asdict(operation)).on_conflict_do_nothing()
        kept = select(billing_operations).where(billing_operations.c.id == operation.id)
        async with self._database.write() as connection:
            await connection.execute(fresh)
            return Operation(**(await connection.execute(kept)).one()._asdict())


def _contract_values(contract: Contract) -> dict[str, Any]:
    values = asdict(contract)
    del values["tax"]
    return values | {
        "tax_jurisdiction": contract.tax.jurisdiction,
        "is_reverse_charge": contract.tax.is_reverse_charge,
        "tax_id": contract.tax.tax_id,
    }


def _contract(row: Row[Any]) -> Contract:
    return Contract(
        id=row.id,
        tenant_id=row.tenant_id,
        plan_id=row.plan_id,
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        payment_days=row.payment_days,
        tax=TaxStatus(row.tax_jurisdiction, row.is_reverse_charge, row.tax_id),
        created_at=row.created_at,
    )
