"""Everything that reconciliation reads, in memory: what the SQL does with joins, by looking at everything."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from tritium_platform.billing.invoice import InvoiceStatus
from tritium_platform.billing.journal import Account
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
from tritium_platform.billing.refunds import credit_source
from tritium_platform.quotas.model import QuotaMeter, ReservationState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.billing.invoice import Invoice, Payment
    from tritium_platform.billing.journal import JournalEntry, JournalGroup
    from tritium_platform.billing.reconciliation.model import ReconciliationRun

Item = TypeVar("Item")
ACCOUNTS = ("receivable", "customer_credit")


class MemoryBooksReader:
    """Reads the books of all tenants by pages."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    def snapshot(self) -> AbstractAsyncContextManager[None]:
        """Let nobody write while the books are read."""
        return self._database.unit_of_work()

    async def uses(self, *, limit: int, after: KeptUse | None) -> Sequence[KeptUse]:
        """Return uses by their ids; what is in memory has the digest of what it is."""
        uses = [KeptUse(each, each.body_sha256()) for each in self._all("usage_records")]
        return _page(uses, key=lambda use: use.record.id, limit=limit, after=after)

    async def counters(self, *, limit: int, after: CounterFacts | None) -> Sequence[CounterFacts]:
        """Return quota counters by tenant, meter and period, beside the sums of their reservations."""
        found = []
        for key, counter in self._database.tables["quota_counters"].items():
            mine = [
                each for each in self._all("reservations") if (each.tenant_id, each.meter, each.period) == key
            ]
            held = [each.amount - each.used for each in mine if each.state is ReservationState.HELD]
            found.append(
                CounterFacts(
                    tenant_id=key[0],
                    meter=key[1].value,
                    period=key[2],
                    ceiling=counter.limit,
                    used=counter.used,
                    held=counter.held,
                    reserved_used=sum(each.used for each in mine),
                    reserved_held=sum(held),
                )
            )
        return _page(
            found, key=lambda each: (each.tenant_id, each.meter, each.period), limit=limit, after=after
        )

    async def requests(self, *, limit: int, after: RequestFacts | None) -> Sequence[RequestFacts]:
        """Return, by tenant, requests of the gateway that succeeded and what is used of their quota."""
        counters = self._database.tables["quota_counters"].items()
        mine = [(key[0], counter) for key, counter in counters if key[1] is QuotaMeter.REQUESTS]
        found = [
            RequestFacts(
                tenant_id=tenant_id,
                succeeded=sum(
                    (each.tenant_id, each.source, each.outcome) == (tenant_id, "gateway", "success")
                    for each in self._all("usage_records")
                ),
                used=sum(counter.used for owner, counter in mine if owner == tenant_id),
                is_clipped=any(not counter.remaining for owner, counter in mine if owner == tenant_id),
            )
            for tenant_id in {owner for owner, _ in mine}
        ]
        return _page(found, key=lambda each: each.tenant_id, limit=limit, after=after)

    async def invoices(self, *, limit: int, after: InvoiceFacts | None) -> Sequence[InvoiceFacts]:
        """Return invoices and credit notes by their ids, with everything that is filed about them."""
        found = [self._facts(each) for each in self._all("invoices")]
        return _page(found, key=lambda facts: facts.invoice.id, limit=limit, after=after)

    def _facts(self, invoice: Invoice) -> InvoiceFacts:
        payments: list[Payment] = [
            each for each in self._all("invoice_payments") if each.invoice_id == invoice.id
        ]
        notes = [each.id for each in self._all("invoices") if each.credits_invoice_id == invoice.id]
        names = {f"{kind}:{invoice.id}" for kind in ("finalize", "void", "write_off", "credit")}
        names |= {f"payment:{each.id}" for each in payments} | {f"credit:{note}" for note in notes}
        return InvoiceFacts(
            invoice=invoice,
            document=self._database.tables["invoice_documents"].get(invoice.id),
            lines=tuple(self._database.tables["invoice_lines"].get(invoice.id, ())),
            payments=tuple(sorted(payments, key=lambda each: each.id)),
            draws=tuple(self._database.tables["credit_draws"].get(invoice.id, ())),
            notes=tuple(sorted(notes)),
            movements={name: entries for name, entries in self._journal().items() if name in names},
            is_paid_through_provider=any(
                each.invoice_id == invoice.id and each.received_minor
                for each in self._all("payment_attempts")
            ),
        )

    async def movements(self, operations: Sequence[str]) -> Mapping[str, Sequence[JournalEntry]]:
        """Return the entries of operations that are in the journal."""
        journal = self._journal()
        return {name: journal[name] for name in operations if name in journal}

    async def months(self, *, limit: int, after: MonthKey | None) -> Sequence[MonthKey]:
        """Return the months that invoices charged, by tenant."""
        invoices: Mapping[UUID, Invoice] = self._database.tables["invoices"]
        of_months: dict[Any, list[Invoice]] = {}
        for invoice_id, lines in self._database.tables["invoice_lines"].items():
            for period in {line.period for line in lines}:
                invoice = invoices[invoice_id]
                of_months.setdefault((invoice.tenant_id, period), []).append(invoice)
        voided = {group.operation_id: group.occurred_at for group in self._groups()}
        found = []
        for (tenant_id, month), mine in of_months.items():
            lasting = [each.finalized_at for each in mine if each.status is not InvoiceStatus.VOID]
            last = max((at for at in lasting if at is not None), default=None)
            voids = [voided.get(f"void:{each.id}") for each in mine if each.status is InvoiceStatus.VOID]
            if last is not None:
                is_reopened = any(at is None or at >= last for at in voids)
                found.append(MonthKey(tenant_id=tenant_id, month=month, is_reopened=is_reopened))
        return _page(found, key=lambda each: (each.tenant_id, each.month), limit=limit, after=after)

    async def grants(self, *, limit: int, after: GrantFacts | None) -> Sequence[GrantFacts]:
        """Return grants of credit by their ids."""
        invoices: Mapping[UUID, Invoice] = self._database.tables["invoices"]
        drawn: Counter[UUID] = Counter()
        for invoice_id, draws in self._database.tables["credit_draws"].items():
            if invoices[invoice_id].status is not InvoiceStatus.VOID:
                for grant_id, amount in draws:
                    drawn[grant_id] += amount
        journal, refunded = self._journal(), self._refunded()
        found = [
            GrantFacts(
                grant=each,
                drawn=drawn[each.id],
                refunded=refunded[each.reason],
                movement=journal.get(f"grant:{each.id}"),
            )
            for each in self._all("credit_grants")
        ]
        return _page(found, key=lambda facts: facts.grant.id, limit=limit, after=after)

    async def groups(self, *, limit: int, after: GroupFacts | None) -> Sequence[GroupFacts]:
        """Return the groups of the journal by their ids."""
        money = ("invoices", "invoice_payments", "credit_grants")
        asked = ("payment_attempts", "payment_refunds", "payment_disputes")
        known = {identity for name in (*money, *asked) for identity in self._database.tables[name]}
        found = [
            GroupFacts(
                id=group.id,
                operation_id=group.operation_id,
                tenant_id=group.tenant_id,
                entries=group.entries,
                has_subject=UUID(group.operation_id.split(":")[1]) in known,
            )
            for group in self._groups()
        ]
        return _page(found, key=lambda group: group.id, limit=limit, after=after)

    async def balances(self, *, limit: int, after: BalanceFacts | None) -> Sequence[BalanceFacts]:
        """Return the tenants' balances of receivable and customer credit, by tenant."""
        owners = [
            each.tenant_id
            for name in ("journal_groups", "invoices", "credit_grants")
            for each in self._all(name)
        ]
        found = []
        for tenant_id in set(owners):
            facts = BalanceFacts(tenant_id=tenant_id, journal=Counter(), standing=Counter())
            for group in self._groups():
                for entry in group.entries:
                    if group.tenant_id == tenant_id and entry.account in ACCOUNTS:
                        facts.journal[entry.account.value, entry.currency] += entry.amount_minor
            for invoice in self._all("invoices"):
                if invoice.tenant_id == tenant_id and invoice.open_minor:
                    facts.standing["receivable", invoice.currency] += invoice.open_minor
            for grant in self._all("credit_grants"):
                if grant.tenant_id == tenant_id:
                    facts.standing["customer_credit", grant.currency] -= grant.remaining_minor
            found.append(facts)
        return _page(found, key=lambda facts: facts.tenant_id, limit=limit, after=after)

    def _refunded(self) -> Counter[str]:
        """Return what refunds took from credit, by the reason for which that was granted."""
        refunded: Counter[str] = Counter()
        for refund in self._all("payment_refunds"):
            source = credit_source(refund.attempt_id, refund.credit_note_id)
            for group in self._groups():
                if group.operation_id.startswith(f"refund:{refund.id}:"):
                    refunded[source] += sum(
                        entry.amount_minor
                        for entry in group.entries
                        if entry.account is Account.CUSTOMER_CREDIT and entry.amount_minor > 0
                    )
        return refunded

    def _all(self, name: str) -> list[Any]:
        return list(self._database.tables[name].values())

    def _groups(self) -> Sequence[JournalGroup]:
        return self._all("journal_groups")

    def _journal(self) -> dict[str, tuple[JournalEntry, ...]]:
        return {group.operation_id: group.entries for group in self._groups()}


class MemoryRunStore:
    """Keeps runs of the reconciliation."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, run: ReconciliationRun) -> None:
        """Keep a run."""
        async with self._database.write():
            self._database.tables["reconciliation_runs"][run.id] = run

    async def list(self, *, limit: int, after: UUID | None = None) -> Sequence[ReconciliationRun]:
        """Return runs, newest first, those older than `after`."""
        runs: list[ReconciliationRun] = list(self._database.tables["reconciliation_runs"].values())
        older = [run for run in runs if after is None or run.id < after]
        return sorted(older, key=lambda run: run.id, reverse=True)[:limit]


def _page(items: Iterable[Item], *, key: Callable[[Item], Any], limit: int, after: Item | None) -> list[Item]:
    """Return the items behind one, in order."""
    ordered = sorted(items, key=key)
    return [each for each in ordered if after is None or key(each) > key(after)][:limit]
