"""Reads in memory what health scores are made of."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tritium_platform.adapters.memory.health_store import MemoryOutcomeStore
from tritium_platform.billing.journal import Account
from tritium_platform.billing.payment import AttemptState
from tritium_platform.insight.facts import DECLINES_WINDOW, DISPUTES_WINDOW, MoneyFacts, Receivable
from tritium_platform.quotas.model import QuotaMeter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.billing.invoice import Invoice
    from tritium_platform.billing.journal import JournalGroup
    from tritium_platform.billing.payment import PaymentAttempt, PaymentDispute
    from tritium_platform.insight.health import OutcomeCount
    from tritium_platform.quotas.model import QuotaCounter

ENDS = ("void", "write_off")


class MemoryFactsReader:
    """Reads what was recorded about a tenant; every end is exclusive."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._outcomes = MemoryOutcomeStore(database)

    async def outcomes(self, tenant_id: UUID, *, start: datetime, end: datetime) -> Sequence[OutcomeCount]:
        """Return the sums of the outcomes in a period of full hours, by kind and latency."""
        return await self._outcomes.between(tenant_id, start=start, end=end)

    async def last_success(self, tenant_id: UUID, *, before: datetime) -> datetime | None:
        """Return the last hour with a success before a moment."""
        return await self._outcomes.last_success(tenant_id, before=before)

    async def request_ceiling(self, tenant_id: UUID, *, period: str) -> int | None:
        """Return the quota of requests of a month; None while nothing was reserved in it."""
        counter: QuotaCounter | None = self._database.tables["quota_counters"].get(
            (tenant_id, QuotaMeter.REQUESTS, period)
        )
        return counter.limit if counter else None

    async def money(self, tenant_id: UUID, *, before: datetime) -> MoneyFacts:
        """Return what was recorded about money before a moment."""
        attempts: Sequence[PaymentAttempt] = list(self._database.tables["payment_attempts"].values())
        disputes: Sequence[PaymentDispute] = list(self._database.tables["payment_disputes"].values())
        groups = self._groups(tenant_id, before=before)
        owed: Counter[str] = Counter()
        for group in groups:
            for entry in group.entries:
                if entry.account is Account.RECEIVABLE:
                    owed[entry.currency] += entry.amount_minor
        return MoneyFacts(
            owed=dict(owed),
            receivables=self._receivables(groups),
            declined_attempts=sum(
                each.tenant_id == tenant_id
                and each.state is AttemptState.FAILED
                and each.decline is not None
                and before - DECLINES_WINDOW <= each.changed_at < before
                for each in attempts
            ),
            disputes_opened=sum(
                each.tenant_id == tenant_id and before - DISPUTES_WINDOW <= each.created_at < before
                for each in disputes
            ),
        )

    def _groups(self, tenant_id: UUID, *, before: datetime) -> list[JournalGroup]:
        groups: list[JournalGroup] = list(self._database.tables["journal_groups"].values())
        return [each for each in groups if each.tenant_id == tenant_id and each.occurred_at < before]

    def _receivables(self, groups: Sequence[JournalGroup]) -> tuple[Receivable, ...]:
        heads: Sequence[Invoice] = list(self._database.tables["invoices"].values())
        operations = {group.operation_id: group for group in groups}
        found = []
        for head in heads:
            group = operations.get(f"finalize:{head.id}")
            if group is None or head.due_at is None or any(f"{end}:{head.id}" in operations for end in ENDS):
                continue
            found += [
                Receivable(currency=entry.currency, due_at=head.due_at, amount_minor=entry.amount_minor)
                for entry in group.entries
                if entry.account is Account.RECEIVABLE and entry.amount_minor > 0
            ]
        return tuple(found)
