"""Walks through the books in one snapshot, page by page, compares, and keeps what was found."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from tritium_platform.audit.model import ActionOutcome, AuditIntent, ComplianceImpact, ResourceIdentifier
from tritium_platform.billing.drafting import rate_parts
from tritium_platform.billing.projection import Projection, uses_of
from tritium_platform.billing.rating.rate import charge_of
from tritium_platform.billing.reconciliation import documents, sums
from tritium_platform.billing.reconciliation.model import ReconciliationRun
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.billing.books import BillingBooks
    from tritium_platform.billing.invoice import Payment
    from tritium_platform.billing.journal import JournalEntry
    from tritium_platform.billing.plans import PlanService
    from tritium_platform.billing.reconciliation.model import (
        BalanceFacts,
        CounterFacts,
        Difference,
        GrantFacts,
        GroupFacts,
        InvoiceFacts,
        KeptUse,
        MonthKey,
        RequestFacts,
    )

_log = structlog.get_logger(__name__)
PAGE = 500
MOST_KEPT = 1000
MOST_ALARMS = 100


class BooksReader(Protocol):
    """Reads the books of all tenants by pages; a page follows the last item of the one before."""

    def snapshot(self) -> AbstractAsyncContextManager[None]:
        """Let everything read inside be of one moment, whoever writes; nothing is written inside."""

    async def uses(self, *, limit: int, after: KeptUse | None) -> Sequence[KeptUse]:
        """Return uses by their ids."""

    async def counters(self, *, limit: int, after: CounterFacts | None) -> Sequence[CounterFacts]:
        """Return quota counters by tenant, meter and period."""

    async def requests(self, *, limit: int, after: RequestFacts | None) -> Sequence[RequestFacts]:
        """Return, by tenant, requests of the gateway that succeeded and what is used of their quota."""

    async def invoices(self, *, limit: int, after: InvoiceFacts | None) -> Sequence[InvoiceFacts]:
        """Return invoices and credit notes by their ids."""

    async def movements(self, operations: Sequence[str]) -> Mapping[str, Sequence[JournalEntry]]:
        """Return the entries of operations that are in the journal."""

    async def months(self, *, limit: int, after: MonthKey | None) -> Sequence[MonthKey]:
        """Return the months that invoices charged, by tenant."""

    async def grants(self, *, limit: int, after: GrantFacts | None) -> Sequence[GrantFacts]:
        """Return grants of credit by their ids."""

    async def groups(self, *, limit: int, after: GroupFacts | None) -> Sequence[GroupFacts]:
        """Return the groups of the journal by their ids, whether they balance or not."""

    async def balances(self, *, limit: int, after: BalanceFacts | None) -> Sequence[BalanceFacts]:
        """Return the tenants' balances of receivable and customer credit, by tenant."""


class ProviderBalance(Protocol):
    """Knows what a payment provider took."""

    async def taken(self, payments: Sequence[Payment]) -> Mapping[UUID, int]:
        """Return what the provider took for payments, minor units; without those that it does not know."""


class Statements(Protocol):
    """Compares payments one by one with what their providers list."""

    async def compare(self) -> tuple[Counter[str], Sequence[Difference]]:
        """Return how many of each were compared, and what differs."""


class RunStore(Protocol):
    """Keeps runs of the reconciliation and the differences that they found."""

    async def add(self, run: ReconciliationRun) -> None:
        """Keep a run."""

    async def list(self, *, limit: int, after: UUID | None = None) -> Sequence[ReconciliationRun]:
        """Return runs, newest first, those older than `after`."""


class Alarm(Protocol):
    """Tells the operator that the books contradict themselves."""

    async def differs(self, difference: Difference, *, run_id: UUID) -> None:
        """Raise the alarm about one difference."""


class ReconciliationService:
    """Compares uses, counters, invoice lines, journal and payments; see `documents` and `sums` for how.

    Memory is bounded by a page of rows and by the lines of one invoice. At most `MOST_KEPT` differences are
    kept and `MOST_ALARMS` alarms raised; all are counted.
    """

    def __init__(
        self,
        *,
        reader: BooksReader,
        runs: RunStore,
        books: BillingBooks,
        plans: PlanService,
        provider: ProviderBalance,
        alarm: Alarm,
        statements: Statements | None = None,
    ) -> None:
        self._reader = reader
        self._runs = runs
        self._books = books
        self._plans = plans
        self._projection = Projection(books=books, plans=plans)
        self._provider = provider
        self._alarm = alarm
        self._statements = statements

    async def run(self, *, page: int = PAGE) -> ReconciliationRun:
        """Compare everything once, keep what was found, and raise the alarm about every difference."""
        started_at, found = self._books.clock.now(), _Findings()
        async with self._reader.snapshot():
            await self._compare(found, at=started_at, page=page)
        if self._statements is not None:  # outside: nobody is asked over the network inside a snapshot
            counted, differences = await self._statements.compare()
            found.note("statements", differences)
            found.counted.update(counted)
        run = ReconciliationRun(
            id=uuid7(self._books.clock),
            started_at=started_at,
            finished_at=self._books.clock.now(),
            counted=dict(sorted(found.counted.items())),
            num_differences=found.count,
            differences=tuple(found.kept),
        )
        async with self._books.unit_of_work():
            await self._runs.add(run)
            await self._books.outbox.add(self._intent(run))
        for difference in run.differences[:MOST_ALARMS]:
            await self._alarm.differs(difference, run_id=run.id)
        _log.info("books_reconciled", differences=run.num_differences, **run.counted)
        return run

    async def recent(self, *, limit: int = 20, after: UUID | None = None) -> Sequence[ReconciliationRun]:
        """Return the newest runs, newest first, those older than `after`."""
        return await self._runs.list(limit=limit, after=after)

    async def _compare(self, found: _Findings, *, at: datetime, page: int) -> None:
        reader = self._reader
        walks: tuple[tuple[str, Callable[..., Any], Callable[[Any], Iterable[Difference]]], ...] = (
            ("uses", reader.uses, sums.compare_use),
            ("counters", reader.counters, sums.compare_counter),
            ("tenants_with_requests", reader.requests, sums.compare_requests),
            ("grants", reader.grants, partial(sums.compare_grant, at=at)),
            ("journal_groups", reader.groups, sums.compare_group),
            ("balances", reader.balances, sums.compare_balance),
        )
        for name, read, compare in walks:
            async for items in _pages(read, limit=page):
                for item in items:
                    found.note(name, compare(item))
        await self._compare_invoices(found, page=page)
        await self._compare_months(found, page=page)

    async def _compare_invoices(self, found: _Findings, *, page: int) -> None:
        async for invoices in _pages(self._reader.invoices, limit=page):
            by_hand = (facts for facts in invoices if not facts.is_paid_through_provider)
            payments = [payment for facts in by_hand for payment in facts.payments]
            taken = await self._provider.taken(payments) if payments else {}
            found.note("payments", sums.compare_provider(payments, taken=taken), count=len(payments))
            for facts in invoices:
                tally = await self._tally(facts, page=page)
                found.note("invoices", documents.compare_invoice(facts, tally))

    async def _tally(self, facts: InvoiceFacts, *, page: int) -> documents.Tally:
        """Read the uses that an invoice charges into its lines."""
        tally = documents.Tally()
        plans = {
            line.interval or line.period.interval: await self._plans.get(line.plan_id) for line in facts.lines
        }
        after = None
        while True:
            records = await self._books.usage.events(facts.invoice.id, limit=page, after=after)
            for record in records:
                interval = next((each for each in plans if each.holds(record.occurred_at)), None)
                for use in uses_of(record):
                    key = charge_of(plans[interval], use) if interval else None
                    if interval is not None and key is not None:
                        tally.add(
                            interval,
                            key,
                            source=record.source,
                            event_id=record.event_id,
                            quantity=use.quantity,
                        )
            if len(records) < page:
                return tally
            after = records[-1].id

    async def _compare_months(self, found: _Findings, *, page: int) -> None:
        async for keys in _pages(self._reader.months, limit=page):
            for key in keys:
                if key.is_reopened:  # the next invoice puts it right
                    found.counted["months_reopened"] += 1
                else:
                    found.note("months", await self._compare_month(key))

    async def _compare_month(self, key: MonthKey) -> Sequence[Difference]:
        filed = await self._books.invoices.charged(key.tenant_id, key.month)
        if not filed:
            return []
        terms = await self._plans.terms_of(key.tenant_id, month=key.month, charged=filed)
        parts = await self._projection.facts(key.tenant_id, month=key.month, terms=terms, is_only_billed=True)
        known = {facts.terms.interval for facts in parts}
        lost = [line for line in filed if line.interval not in known]
        return sums.compare_month(key, filed=lost, rated=()) + [
            difference
            for facts, rated in zip(parts, rate_parts(parts), strict=True)
            for difference in sums.compare_month(
                key, filed=facts.charged, rated=rated, interval=facts.terms.interval
            )
        ]

    def _intent(self, run: ReconciliationRun) -> AuditIntent:
        return AuditIntent(
            id=uuid7(self._books.clock),
            event_id=run.id,
            occurred_at=run.finished_at,
            action="books.reconcile",
            resource_affected=ResourceIdentifier("reconciliation", str(run.id)),
            outcome=ActionOutcome.FAILURE if run.num_differences else ActionOutcome.SUCCESS,
            compliance_impact=ComplianceImpact.FINANCIAL,
            details={"differences": run.num_differences, **run.counted},
        )


async def _pages(read: Callable[..., Any], *, limit: int) -> AsyncIterator[Sequence[Any]]:
    """Give pages, one after the other, until one is not full."""
    after = None
    while True:
        items = await read(limit=limit, after=after)
        yield items
        if len(items) < limit:
            return
        after = items[-1]


class _Findings:
    """What one run has found so far."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self.kept: list[Difference] = []
        self.count = 0

    def note(self, name: str, differences: Iterable[Difference], *, count: int = 1) -> None:
        """Count what was looked at, and keep the first differences."""
        self.counted[name] += count
        for each in differences:
            self.count += 1
            if len(self.kept) < MOST_KEPT:
                self.kept.append(each)
