"""Compares invoices with their documents, lines, uses, credit, payments and movements: pure functions."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from tritium_platform.billing.document import EventDigest, interval_of, read_body
from tritium_platform.billing.invoice import InvoiceKind, InvoiceStatus
from tritium_platform.billing.journal import Account, entries_of
from tritium_platform.billing.reconciliation.model import Check, Difference
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tritium_platform.billing.invoice import Invoice
    from tritium_platform.billing.journal import JournalEntry
    from tritium_platform.billing.rating.plan import LineKey
    from tritium_platform.billing.reconciliation.model import InvoiceFacts
    from tritium_platform.values import Interval

FINAL = frozenset(InvoiceStatus) - {InvoiceStatus.DRAFT, InvoiceStatus.VOID}


class Tally:
    """The uses that an invoice charges, gathered by line while they are read."""

    def __init__(self) -> None:
        self.quantities: Counter[tuple[Interval, LineKey]] = Counter()
        self._digests: dict[tuple[Interval, LineKey], EventDigest] = {}

    def add(self, interval: Interval, key: LineKey, *, source: str, event_id: str, quantity: int) -> None:
        """Take one use in."""
        self.quantities[interval, key] += quantity
        digest = self._digests.setdefault((interval, key), EventDigest())
        digest.add(source=source, event_id=event_id, quantity=quantity)

    def events(self, interval: Interval, key: LineKey) -> dict[str, Any]:
        """Return what a document would say of a line's uses."""
        return self._digests.get((interval, key), EventDigest()).to_dict()


def compare_invoice(facts: InvoiceFacts, tally: Tally) -> list[Difference]:
    """Compare an invoice with everything that is filed about it; a document that is not believed is left."""
    return [
        *compare_document(facts),
        *compare_movements(facts),
        *compare_line_events(facts, tally),
        *compare_settled(facts),
    ]


def read_document(facts: InvoiceFacts) -> Mapping[str, Any] | None:
    """Return what a document says, if it can be believed: it has its digest, and that is the signed one."""
    document = facts.document
    if document is None:
        return None
    digest = hashlib.sha256(document.body).digest()
    is_signed = base64.b64encode(digest) in document.note.splitlines()
    if digest != document.sha256 or not is_signed:
        return None
    return read_body(document.body)


def compare_document(facts: InvoiceFacts) -> list[Difference]:
    """Compare an invoice's head and lines with its document, and the document with its digest."""
    invoice, document, body = facts.invoice, facts.document, read_document(facts)
    if document is None:
        is_missing = invoice.status in FINAL or invoice.finalized_at is not None
        return [_about(invoice, Check.DOCUMENT, expected="a document", found="none")] if is_missing else []
    if body is None:
        digest = hashlib.sha256(document.body).hexdigest()
        signed = f"{document.sha256.hex()}, and the same in its note"
        return [_about(invoice, Check.DOCUMENT, expected=signed, found=digest)]
    lines = sum(line["net_minor"] + line["tax_minor"] for line in body["lines"])
    pairs = {
        "total": (body["total_minor"], invoice.total_minor),
        "sum of lines": (body["total_minor"], lines),
        "currency": (body["currency"], invoice.currency),
        "period": (body["period"], str(invoice.period)),
        "number": (body["number"], invoice.number),
        "tenant": (body["tenant_id"], str(invoice.tenant_id)),
    }
    found = [
        _about(invoice, Check.TOTAL, subject=name, expected=said, found=stands)
        for name, (said, stands) in pairs.items()
        if said != stands
    ]
    return found + (_compare_lines(facts, body) if invoice.kind is InvoiceKind.INVOICE else [])


def _compare_lines(facts: InvoiceFacts, body: Mapping[str, Any]) -> list[Difference]:
    said = {line["number"]: _said_line(line) for line in body["lines"]}
    filed = {
        line.number: (
            str(line.interval or line.period.interval),
            line.charge,
            list(line.cell),
            str(line.quantity),
            line.net_minor,
            line.tax_minor,
        )
        for line in facts.lines
    }
    return [
        _about(
            facts.invoice,
            Check.LINE,
            subject=f"line {number}",
            expected=said.get(number, "no such line"),
            found=filed.get(number, "no such line"),
        )
        for number in sorted(said.keys() | filed.keys())
        if said.get(number) != filed.get(number)
    ]


def _said_line(line: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        str(interval_of(line)),
        *(line[name] for name in ("charge", "cell", "quantity", "net_minor", "tax_minor")),
    )


def compare_line_events(facts: InvoiceFacts, tally: Tally) -> list[Difference]:
    """Compare every metered line of a document with the uses that it charges: quantity and digest."""
    body = read_document(facts)
    if body is None or facts.invoice.kind is not InvoiceKind.INVOICE:
        return []
    found, seen = [], set()
    for line in body["lines"]:
        interval, key = interval_of(line), (line["charge"], tuple(line["cell"]))
        seen.add((interval, key))
        if not line["meter"]:
            continue
        said = (line["quantity"], line["events"])
        stands = (str(tally.quantities[interval, key]), tally.events(interval, key))
        if said != stands:
            found.append(
                _about(
                    facts.invoice,
                    Check.LINE_EVENTS,
                    subject=f"line {line['number']}",
                    account=line["meter"],
                    expected=stands,
                    found=said,
                    month=line["period"],
                )
            )
    missing = [each for each, quantity in tally.quantities.items() if quantity and each not in seen]
    return found + [
        _about(
            facts.invoice,
            Check.LINE_EVENTS,
            subject=" ".join([charge, *cell]),
            expected=tally.quantities[interval, (charge, cell)],
            found="no line",
            month=str(CalendarMonth.of(interval.start)),
        )
        for interval, (charge, cell) in missing
    ]


def compare_settled(facts: InvoiceFacts) -> list[Difference]:
    """Compare draws, payments and credit notes with the head of an invoice and with its document."""
    invoice = facts.invoice
    drawn = sum(amount for _, amount in facts.draws)
    paid = sum(payment.amount_minor for payment in facts.payments)
    credited = -sum(
        entry.amount_minor
        for note in facts.notes
        for entry in facts.movements.get(f"credit:{note}", ())
        if entry.account is Account.RECEIVABLE
    )
    pairs: list[tuple[Check, object, object]] = [
        (Check.DRAWS, drawn, invoice.drawn_minor),
        (Check.CREDITED, credited, invoice.credited_minor),
    ]
    if not facts.is_paid_through_provider:
        pairs.append((Check.PAYMENTS, paid, invoice.paid_minor))
    body = read_document(facts)
    if body is not None and invoice.kind is InvoiceKind.INVOICE:
        said = {each["grant_id"]: each["amount_minor"] for each in body["credits"]}
        pairs.append((Check.DRAWS, said, {str(grant): amount for grant, amount in facts.draws}))
    is_paid = invoice.kind is InvoiceKind.INVOICE and invoice.status is InvoiceStatus.PAID
    if is_paid:
        settled = invoice.drawn_minor + invoice.paid_minor + invoice.credited_minor
        pairs.append((Check.PAYMENTS, max(0, invoice.total_minor), settled))
    return [
        _about(invoice, check, expected=expected, found=found)
        for check, expected, found in pairs
        if expected != found
    ]


def compare_movements(facts: InvoiceFacts) -> list[Difference]:
    """Compare the journal's groups about an invoice with what its document and its life should have moved."""
    body = read_document(facts)
    if body is None:
        return []
    wanted = _movements(facts, body)
    mine = {f"{kind}:{facts.invoice.id}" for kind in ("finalize", "void", "write_off", "credit")}
    if not facts.is_paid_through_provider:
        mine |= {f"payment:{payment.id}" for payment in facts.payments}
    found = []
    for operation in sorted(mine):
        expected = _sums(wanted.get(operation, ()))
        stands = _sums(facts.movements.get(operation, ()))
        found += [
            _about(
                facts.invoice,
                Check.MOVEMENT,
                subject=operation,
                account=account,
                expected=expected[account, currency],
                found=stands[account, currency],
            )
            for account, currency in sorted(expected.keys() | stands.keys())
            if expected[account, currency] != stands[account, currency]
        ]
    return found


def _movements(facts: InvoiceFacts, body: Mapping[str, Any]) -> dict[str, tuple[JournalEntry, ...]]:
    """Return what should stand in the journal, by operation."""
    invoice = facts.invoice
    total, tax, currency = body["total_minor"], body["tax_minor"], body["currency"]
    if invoice.kind is InvoiceKind.CREDIT_NOTE:
        return {f"credit:{invoice.id}": _credit(facts, total=total, tax=tax, currency=currency)}
    drawn, surplus = sum(each["amount_minor"] for each in body["credits"]), max(0, -total)
    finalized = entries_of(
        currency,
        receivable=total + surplus - drawn,
        customer_credit=drawn - surplus,
        revenue=tax - total,
        tax_payable=-tax,
    )
    wanted = {f"finalize:{invoice.id}": finalized}
    if invoice.status is InvoiceStatus.VOID:
        wanted[f"void:{invoice.id}"] = entries_of(
            currency, receivable=drawn - total, customer_credit=-drawn, revenue=total - tax, tax_payable=tax
        )
    if invoice.status is InvoiceStatus.UNCOLLECTIBLE:
        lost = total - drawn - invoice.paid_minor - invoice.credited_minor
        wanted[f"write_off:{invoice.id}"] = entries_of(currency, write_off=lost, receivable=-lost)
    for payment in facts.payments:
        amount = payment.amount_minor
        wanted[f"payment:{payment.id}"] = entries_of(currency, cash_clearing=amount, receivable=-amount)
    return wanted


def _credit(facts: InvoiceFacts, *, total: int, tax: int, currency: str) -> tuple[JournalEntry, ...]:
    """Return what a credit note moves; how much of it was open then is known from the journal alone."""
    stands = facts.movements.get(f"credit:{facts.invoice.id}", ())
    off = -sum(entry.amount_minor for entry in stands if entry.account is Account.RECEIVABLE)
    off = min(max(off, 0), total)
    return entries_of(
        currency, revenue=total - tax, tax_payable=tax, receivable=-off, customer_credit=off - total
    )


def _sums(entries: Iterable[JournalEntry]) -> Counter[tuple[str, str]]:
    sums: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        sums[entry.account.value, entry.currency] += entry.amount_minor
    return sums


def _about(
    invoice: Invoice,
    check: Check,
    *,
    expected: object,
    found: object,
    subject: str = "",
    account: str = "",
    month: str = "",
) -> Difference:
    name = invoice.number or str(invoice.id)
    return Difference(
        check=check,
        tenant_id=invoice.tenant_id,
        month=month or str(invoice.period),
        account=account,
        subject=f"{invoice.kind.value} {name} {subject}".strip(),
        expected=str(expected),
        found=str(found),
        look=f"tritiumd invoice show {invoice.id}; GET /api/v1/billing/journal",
    )
