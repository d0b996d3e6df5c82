"""The whole schema: importing this file fills `metadata` with the tables of every room."""

from __future__ import annotations

from tritium_platform.adapters.sql.tables import (
    audit,
    batches,
    billing,
    fairuse,
    idempotency,
    insight,
    invoices,
    jobs,
    journal,
    metering,
    payments,
    quotas,
    reconciliation,
    security,
    serving,
    spending,
    tenancy,
)
from tritium_platform.adapters.sql.tables.base import metadata

ROOMS = (
    audit,
    batches,
    billing,
    fairuse,
    idempotency,
    insight,
    invoices,
    jobs,
    journal,
    metering,
    payments,
    quotas,
    reconciliation,
    security,
    serving,
    spending,
    tenancy,
)

__all__ = ["ROOMS", "metadata"]
