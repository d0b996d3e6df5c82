"""Pages of the books of all tenants, along indexes: the statements that reconciliation reads them by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, func, or_, select, union

from tritium_platform.adapters.sql.exact_sum import ExactSum
from tritium_platform.adapters.sql.tables.invoices import credit_draws, credit_grants, invoice_lines, invoices
from tritium_platform.adapters.sql.tables.journal import journal_groups
from tritium_platform.adapters.sql.tables.metering import usage_records
from tritium_platform.adapters.sql.tables.quotas import quota_counters, reservations
from tritium_platform.billing.invoice import InvoiceStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Select

    from tritium_platform.billing.reconciliation.model import (
        BalanceFacts,
        CounterFacts,
        GrantFacts,
        GroupFacts,
        InvoiceFacts,
        KeptUse,
        MonthKey,
        RequestFacts,
    )

REQUESTS = "requests"
GATEWAY, SUCCESS = "gateway", "success"
IS_VOID = invoices.c.status == InvoiceStatus.VOID.value


def uses(*, limit: int, after: KeptUse | None) -> Select[Any]:
    """Select uses by their ids."""
    last = None if after is None else (after.record.id,)
    return _page(select(usage_records), key=(usage_records.c.id,), limit=limit, last=last)


def counters(*, limit: int, after: CounterFacts | None) -> Select[Any]:
    """Select quota counters by tenant, meter and period, beside the sums of their reservations."""
    table, kept = quota_counters.c, reservations.c
    is_same = and_(kept.tenant_id == table.tenant_id, kept.meter == table.meter, kept.period == table.period)
    holding = case((kept.state == "held", kept.amount - kept.used), else_=0)
    used = select(func.coalesce(ExactSum(kept.used), 0)).where(is_same).scalar_subquery()
    held = select(func.coalesce(ExactSum(holding), 0)).where(is_same).scalar_subquery()
    return _page(
        select(quota_counters, used.label("reserved_used"), held.label("reserved_held")),
        key=(table.tenant_id, table.meter, table.period),
        limit=limit,
        last=None if after is None else (after.tenant_id, after.meter, after.period),
    )


def requests(*, limit: int, after: RequestFacts | None) -> Select[Any]:
    """Select, by tenant, how many requests of the gateway succeeded and what is used of their quota."""
    table, use = quota_counters.c, usage_records.c
    is_full = func.max(case((table.used + table.held >= table.ceiling, 1), else_=0))
    succeeded = (
        select(func.count())
        .where(use.tenant_id == table.tenant_id, use.source == GATEWAY, use.outcome == SUCCESS)
        .scalar_subquery()
    )
    statement = (
        select(
            table.tenant_id,
            succeeded.label("succeeded"),
            ExactSum(table.used).label("used"),
            is_full.label("full"),
        )
        .where(table.meter == REQUESTS)
        .group_by(table.tenant_id)
    )
    last = None if after is None else (after.tenant_id,)
    return _page(statement, key=(table.tenant_id,), limit=limit, last=last)


def invoice_heads(*, limit: int, after: InvoiceFacts | None) -> Select[Any]:
    """Select the heads of invoices and credit notes by their ids."""
    last = None if after is None else (after.invoice.id,)
    return _page(select(invoices), key=(invoices.c.id,), limit=limit, last=last)


def months(*, limit: int, after: MonthKey | None) -> Select[Any]:
    """Select the months that invoices charged, by tenant, and when the last not void was finalized."""
    line = invoice_lines.c
    statement = (
        select(
            line.tenant_id,
            line.period,
            func.max(case((IS_VOID, None), else_=invoices.c.finalized_at)).label("last"),
        )
        .join(invoices, invoices.c.id == line.invoice_id)
        .group_by(line.tenant_id, line.period)
    )
    last = None if after is None else (after.tenant_id, str(after.month))
    return _page(statement, key=(line.tenant_id, line.period), limit=limit, last=last)


def grants(*, limit: int, after: GrantFacts | None) -> Select[Any]:
    """Select grants of credit by their ids, beside what invoices that are not void drew of each."""
    drawn = (
        select(func.coalesce(ExactSum(credit_draws.c.amount_minor), 0))
        .join(invoices, invoices.c.id == credit_draws.c.invoice_id)
        .where(credit_draws.c.grant_id == credit_grants.c.id, ~IS_VOID)
        .scalar_subquery()
    )
    statement = select(credit_grants, drawn.label("drawn"))
    last = None if after is None else (after.grant.id,)
    return _page(statement, key=(credit_grants.c.id,), limit=limit, last=last)


def groups(*, limit: int, after: GroupFacts | None) -> Select[Any]:
    """Select the groups of the journal by their ids."""
    last = None if after is None else (after.id,)
    return _page(select(journal_groups), key=(journal_groups.c.id,), limit=limit, last=last)


def tenants(*, limit: int, after: BalanceFacts | None) -> Select[Any]:
    """Select the tenants that are billed or have credit."""
    found = union(
        *(select(table.c.tenant_id) for table in (journal_groups, invoices, credit_grants))
    ).subquery()
    last = None if after is None else (after.tenant_id,)
    return _page(select(found.c.tenant_id), key=(found.c.tenant_id,), limit=limit, last=last)


def _page(
    statement: Select[Any], *, key: Sequence[ColumnElement[Any]], limit: int, last: Sequence[Any] | None
) -> Select[Any]:
    """Return the part of a statement behind the last row of the page before, in the order of a key."""
    ordered = statement.order_by(*key).limit(limit)
    return ordered if last is None else ordered.where(_behind(key, last))


def _behind(columns: Sequence[ColumnElement[Any]], values: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition of a row behind another one by some columns."""
    first, value = columns[0], values[0]
    is_behind: ColumnElement[bool] = first > value
    if len(columns) == 1:
        return is_behind
    return or_(is_behind, and_(first == value, _behind(columns[1:], values[1:])))
