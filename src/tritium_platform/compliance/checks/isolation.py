"""Every table belongs to tenants row by row, or is known to belong to nobody; none can be forgotten.

On PostgreSQL the database itself keeps tenants' rows apart, too, and binds the role that the service has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tritium_platform.compliance.model import CheckOutcome, Evidence, Framework, Judgement, Requirement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritium_platform.values import Clock

TENANT_COLUMN = "tenant_id"
TENANTS = "tenants"
# Tables whose rows belong to no tenant, with the reason; a table that is in neither camp fails the check.
SHARED_TABLES: Mapping[str, str] = {
    "alembic_version": "the version of the schema",
    "tenants": "the tenants themselves: its id is the tenant",
    "authorization_epoch": "one number for all processes",
    "price_versions": "prices are the same for everybody",
    "price_plans": "a plan is for whoever agrees to it; the contract names the tenant",
    "number_series": "the numbers of invoices count through all tenants",
    "billing_operations": "digests of the operator's requests, by keys that the operator chose",
    "spools": "how far a gateway's own file is in the books",
    "provider_events": "notices of a payment provider: signed ids of its own, looked up there",
    "provider_cursors": "up to where each provider was asked for lost notices",
    "reconciliation_runs": "when the books were compared as a whole; a difference names its tenant",
    "audit_owner": "which audit log the database has",
    "audit_outbox": "the operator's log on its way; an entry names its tenant inside",
}
# Rows about strangers, too: a failed login has no tenant yet.
OPTIONAL_TENANT_TABLES: Mapping[str, str] = {
    "security_events": "an attack may come from nobody's key",
}


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as the database describes it; `parents` are the tables its foreign keys point at."""

    name: str
    has_tenant_column: bool
    is_tenant_required: bool
    rows_without_tenant: int
    parents: tuple[str, ...]
    is_row_secured: bool | None = None
    """Whether a policy binds whoever reads it now, and its owner; None where there is no such thing."""


class SchemaCensus(Protocol):
    """Reads the database's own catalogue."""

    async def tables(self) -> Sequence[TableFacts]:
        """Return every table of the database."""
        ...


class TenantTablesCarryTheirTenant:
    """Reads the catalogue of the running database, not the source code."""

    id = "tenant-tables-carry-their-tenant"
    version = 2
    title = "Every tenant-owned table names the tenant of each row, and the database keeps them apart."
    maps_to = (
        Requirement(Framework.SOC2, "CC6.1"),
        Requirement(Framework.HIPAA, "164.312(a)(1)"),
        Requirement(Framework.GDPR, "25"),
        Requirement(Framework.GDPR, "32"),
    )

    def __init__(self, *, census: SchemaCensus, clock: Clock) -> None:
        self._census = census
        self._clock = clock

    async def collect(self) -> Evidence:
        """Read the catalogue, and count rows without a tenant."""
        tables = sorted(await self._census.tables(), key=lambda each: each.name)
        return Evidence(
            method="catalogue of the running database; count of rows whose tenant_id is null; row security",
            population=len(tables),
            collected_at=self._clock.now(),
            facts={
                "tables": [
                    {
                        "name": table.name,
                        "has_tenant_column": table.has_tenant_column,
                        "is_tenant_required": table.is_tenant_required,
                        "rows_without_tenant": table.rows_without_tenant,
                        "parents": list(table.parents),
                        "is_row_secured": table.is_row_secured,
                    }
                    for table in tables
                ],
                "shared_tables": dict(SHARED_TABLES),
                "optional_tenant_tables": dict(OPTIONAL_TENANT_TABLES),
            },
        )

    def evaluate(self, evidence: Evidence) -> Judgement:
        """Pass if every table is owned, hangs on an owned one, or is listed as shared."""
        facts = evidence.facts
        tables = {table["name"]: table for table in facts["tables"]}
        if not tables:
            return Judgement(outcome=CheckOutcome.NOT_APPLICABLE, reason="the database has no tables")
        owned = {
            name
            for name, table in tables.items()
            if table["is_tenant_required"] or name in facts["optional_tenant_tables"]
        }
        problems: list[str] = []
        for name, table in tables.items():
            # Evidence of version 1 does not say whether rows are secured.
            if table.get("is_row_secured") is False and (
                name not in facts["shared_tables"] or name == TENANTS
            ):
                problems.append(f"table {name}: no row-level security binds the role that the service has")
            if name in facts["shared_tables"]:
                continue
            if name not in owned and not owned.intersection(table["parents"]):
                kind = "may be empty" if table["has_tenant_column"] else "is missing"
                problems.append(f"table {name}: {TENANT_COLUMN} {kind}")
            if name not in facts["optional_tenant_tables"] and table["rows_without_tenant"]:
                problems.append(f"table {name}: {table['rows_without_tenant']} rows have no tenant")
        if problems:
            reason = "rows belong to nobody, or are not kept apart"
            return Judgement(outcome=CheckOutcome.FAIL, reason=reason, problems=tuple(problems))
        return Judgement(outcome=CheckOutcome.PASS, reason=f"{len(tables)} tables are accounted for")
