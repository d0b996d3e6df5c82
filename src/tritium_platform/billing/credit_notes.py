"""Credit notes: what is taken off the lines of an invoice, with the tax on it."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tritium_platform.billing.document import invoice_to_dict, sign_document
from tritium_platform.billing.invoice import (
    OPEN,
    SERIES,
    CreditGrant,
    Invoice,
    InvoiceKind,
    InvoiceStatus,
)
from tritium_platform.billing.party import Parties
from tritium_platform.billing.rating.rounding import Rounding, round_once
from tritium_platform.billing.rating.tax import TaxStatus
from tritium_platform.billing.settlement import require_text, settled
from tritium_platform.errors import ConflictError, ValidationError
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from tritium_platform.audit.note import NoteSigner
    from tritium_platform.billing.books import BillingBooks


# What a line of a credit note says as the one that it credits.
KEPT = ("starts_at", "ends_at", "tax_code", "tax_rate")


class CreditNoteService:
    """Writes credit notes; they are documents like invoices, with numbers of their own."""

    def __init__(self, *, books: BillingBooks, signer: NoteSigner) -> None:
        self._books = books
        self._signer = signer

    async def credit(
        self, invoice_id: UUID, *, amounts: Mapping[int, int], reason: str, key: str | None, actor: str
    ) -> Invoice:
        """Write a credit note: take amounts (minor units, net) off lines of an invoice, with their tax.

        What is open goes down first; what was paid already becomes prepaid credit.

        Raises:
            NotFoundError: there is no such invoice.
            ValidationError: there is no such line, or more would be credited than it charged.
            ConflictError: the invoice is a draft, void or written off.
        """
        require_text(reason, field="reason")
        note_id = uuid7(self._books.clock)
        request = ("credit", str(invoice_id), json.dumps(sorted(amounts.items())), reason)
        async with self._books.unit_of_work():
            earlier = await self._books.begin(key, request=request, subject_id=note_id)
            if earlier is not None:
                return await self._books.locked(earlier)
            # The number first, as finalizing does: two that wait for each other would wait for ever.
            sequence = await self._books.invoices.next_number(SERIES[InvoiceKind.CREDIT_NOTE])
            invoice = await self._books.locked(invoice_id)
            is_creditable = invoice.status in OPEN or invoice.status is InvoiceStatus.PAID
            if invoice.kind is not InvoiceKind.INVOICE or not is_creditable:
                raise ConflictError("Only an open or paid invoice is credited.", field="invoice_id")
            document = await self._books.said(invoice)
            lines = await self._credited_lines(invoice, document=document, amounts=amounts)
            note = replace(
                _credit_note(invoice, note_id=note_id, lines=lines),
                number=f"{SERIES[InvoiceKind.CREDIT_NOTE]}-{sequence:08d}",
                created_at=self._books.clock.now(),
                finalized_at=self._books.clock.now(),
            )
            await self._write(note, invoice=invoice, lines=lines, sequence=sequence, reason=reason)
            await self._settle_credit(note, invoice=invoice, lines=lines)
            await self._books.note_invoice(
                "credit_note.finalize", note, actor=actor, invoice_id=str(invoice.id)
            )
            return note

    async def _write(
        self,
        note: Invoice,
        *,
        invoice: Invoice,
        lines: Sequence[Mapping[str, Any]],
        sequence: int,
        reason: str,
    ) -> None:
        document = await self._books.said(invoice)
        body = invoice_to_dict(
            note,
            lines=lines,
            tax=TaxStatus(**document["tax"]),
            parties=Parties.of(document),
            extra={
                "credits_invoice": document["number"],
                "credits_issued_at": document["issued_at"],
                "reason": reason,
            },
        )
        await self._books.invoices.add(note)
        await self._books.invoices.add_document(
            sign_document(note, body=body, sequence=sequence, signer=self._signer)
        )

    async def _settle_credit(
        self, note: Invoice, *, invoice: Invoice, lines: Sequence[Mapping[str, Any]]
    ) -> None:
        gross = note.total_minor
        off = min(gross, invoice.open_minor)
        if off:
            await self._books.invoices.save(
                settled(replace(invoice, credited_minor=invoice.credited_minor + off))
            )
        if gross - off:
            await self._books.credits.add(
                CreditGrant(
                    id=uuid7(self._books.clock),
                    tenant_id=invoice.tenant_id,
                    currency=invoice.currency,
                    amount_minor=gross - off,
                    remaining_minor=gross - off,
                    reason=credit_reason(note.id),
                    created_at=self._books.clock.now(),
                )
            )
        tax = sum(line["tax_minor"] for line in lines)
        await self._books.post(
            note,
            f"credit:{note.id}",
            "credit note",
            revenue=gross - tax,
            tax_payable=tax,
            receivable=-off,
            customer_credit=off - gross,
        )

    async def _credited_lines(
        self, invoice: Invoice, *, document: Mapping[str, Any], amounts: Mapping[int, int]
    ) -> list[dict[str, Any]]:
        """Return the lines of a credit note; the tax of all credit on a line is rounded as one amount."""
        before: dict[int, int] = {}
        for earlier in await self._books.invoices.credit_notes(invoice.id):
            for line in (await self._books.said(earlier))["lines"]:
                before[line["credits_line"]] = before.get(line["credits_line"], 0) + line["net_minor"]
        charged = {line["number"]: line for line in document["lines"]}
        lines = []
        for place, (number, amount) in enumerate(sorted(amounts.items()), start=1):
            line, done = charged.get(number), before.get(number, 0)
            if line is None or type(amount) is not int or not 0 < amount <= line["net_minor"] - done:
                raise ValidationError(
                    f"Line {number} has no such amount left to credit.", field="lines", line=number
                )
            whole = Fraction(line["tax_minor"], line["net_minor"])
            taxes = [round_once(whole * part, rounding=Rounding.HALF_EVEN) for part in (done, done + amount)]
            lines.append(
                {
                    "number": place,
                    "credits_line": number,
                    "charge": line["charge"],
                    "period": line["period"],
                    "net_minor": amount,
                    "tax_minor": taxes[1] - taxes[0],
                    **{name: line[name] for name in KEPT if name in line},
                }
            )
        if not lines:
            raise ValidationError("A credit note needs a line.", field="lines")
        return lines


def credit_reason(note_id: UUID) -> str:
    """Return the reason of the credit that a credit note over paid money became."""
    return f"credit note {note_id}"


def _credit_note(invoice: Invoice, *, note_id: UUID, lines: Sequence[Mapping[str, Any]]) -> Invoice:
    return Invoice(
        id=note_id,
        tenant_id=invoice.tenant_id,
        kind=InvoiceKind.CREDIT_NOTE,
        status=InvoiceStatus.FINALIZED,
        period=invoice.period,
        currency=invoice.currency,
        plan_id=invoice.plan_id,
        contract_id=invoice.contract_id,
        credits_invoice_id=invoice.id,
        created_at=invoice.created_at,
        total_minor=sum(line["net_minor"] + line["tax_minor"] for line in lines),
    )
