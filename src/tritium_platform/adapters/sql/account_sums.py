"""What tenants' accounts come to, by the journal and by what they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import case, select

from tritium_platform.adapters.sql.exact_sum import ExactSum
from tritium_platform.adapters.sql.tables.invoices import credit_grants, invoices
from tritium_platform.adapters.sql.tables.journal import journal_entries, journal_groups
from tritium_platform.billing.invoice import OPEN, InvoiceKind

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from sqlalchemy import Select


def journal_sums(tenants: Iterable[UUID]) -> Select[Any]:
    """Sum up receivable and customer credit, by the journal."""
    group, entry = journal_groups.c, journal_entries.c
    key = (group.tenant_id, entry.account, entry.currency)
    return (
        select(*key, ExactSum(entry.amount_minor).label("amount"))
        .join(journal_entries, entry.group_id == group.id)
        .where(group.tenant_id.in_(list(tenants)), entry.account.in_(["receivable", "customer_credit"]))
        .group_by(*key)
    )


def open_sums(tenants: Iterable[UUID]) -> Select[Any]:
    """Sum up what is open, by the heads of invoices."""
    head = invoices.c
    gross = case((head.total_minor > 0, head.total_minor), else_=0)
    amount = gross - head.drawn_minor - head.paid_minor - head.credited_minor
    statuses = sorted(status.value for status in OPEN)
    return (
        select(head.tenant_id, head.currency, ExactSum(amount).label("amount"))
        .where(
            head.tenant_id.in_(list(tenants)),
            head.kind == InvoiceKind.INVOICE.value,
            head.status.in_(statuses),
        )
        .group_by(head.tenant_id, head.currency)
    )


def refunded_sums(tenants: Iterable[UUID]) -> Select[Any]:
    """Sum up what refunds took from credit, operation by operation."""
    group, entry = journal_groups.c, journal_entries.c
    return (
        select(group.operation_id, ExactSum(entry.amount_minor).label("amount"))
        .join(journal_entries, entry.group_id == group.id)
        .where(
            group.tenant_id.in_(list(tenants)),
            group.operation_id.like("refund:%"),
            entry.account == "customer_credit",
            entry.amount_minor > 0,
        )
        .group_by(group.operation_id)
    )


def left_sums(tenants: Iterable[UUID]) -> Select[Any]:
    """Sum up what is left of grants; an account of what is owed to somebody stands below zero."""
    grant = credit_grants.c
    return (
        select(grant.tenant_id, grant.currency, ExactSum(-grant.remaining_minor).label("amount"))
        .where(grant.tenant_id.in_(list(tenants)))
        .group_by(grant.tenant_id, grant.currency)
    )
