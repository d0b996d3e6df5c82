"""What an invoice says, as JSON; once finalized in its canonical bytes, with their digest signed.

Whole numbers beyond 2^53 are written as text, for JSON has no exact numbers there; so are all quantities.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import rfc8785

from tritium_platform.billing.invoice import SERIES, InvoiceDocument
from tritium_platform.errors import ValidationError
from tritium_platform.values import CURRENCY_DIGITS, CalendarMonth, Interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from tritium_platform.audit.note import NoteSigner
    from tritium_platform.billing.drafting import DraftLine
    from tritium_platform.billing.invoice import Invoice
    from tritium_platform.billing.party import Parties
    from tritium_platform.billing.rating.tax import TaxStatus

# v1 knew no parties, no rates of tax and no breakdown of it; its documents stay as they are.
SCHEMA = "tritium.invoice.v2"
NOTE_HEADING = "invoice v1"
LARGEST_WHOLE = 2**53 - 1
LARGEST_AMOUNT = 2**63 - 1
# A fraction, and so always text.
EXACT = "exact_minor"


@dataclass(slots=True)
class EventDigest:
    """Which uses a line is made of: how many, and a digest over `source event_id quantity` of each, by id."""

    count: int = 0
    _sha256: Any = field(default_factory=hashlib.sha256)

    def add(self, *, source: str, event_id: str, quantity: int) -> None:
        """Take one more use in."""
        self.count += 1
        self._sha256.update(json.dumps([source, event_id, str(quantity)]).encode() + b"\n")

    def to_dict(self) -> dict[str, Any]:
        """Return what the document says of them."""
        return {"count": str(self.count), "sha256": self._sha256.hexdigest()}


def line_to_dict(number: int, draft: DraftLine, *, events: EventDigest | None) -> dict[str, Any]:
    """Spell a line: how it came about, in exact terms, and its amounts in minor units."""
    line = draft.line
    plain: dict[str, Any] = {
        "number": number,
        "kind": "adjustment" if draft.is_adjustment else "charge",
        "period": str(draft.month),
        "plan_id": draft.plan_id,
        "charge": line.charge,
        "meter": line.meter.value if line.meter else None,
        "tier": line.tier.value if line.tier else None,
        "cell": list(line.cell),
        "quantity": str(line.quantity),
        "included": str(line.included),
        EXACT: str(line.exact),
        "charged_before_minor": draft.charged,
        "amount_minor": line.amount,
        "discount_minor": line.discount,
        "net_minor": line.net,
        "tax_minor": line.tax,
        "tax_code": line.tax_code.value,
        "tax_rate": str(line.tax_rate),
    }
    if draft.interval is not None:
        plain |= {"starts_at": _moment(draft.interval.start), "ends_at": _moment(draft.interval.end)}
    if events is not None:
        plain["events"] = events.to_dict()
    return plain


def interval_of(line: Mapping[str, Any]) -> Interval:
    """Return when what a line charges was used: in its month, or in the part of it that the line is about."""
    if "starts_at" in line:
        return Interval(*(datetime.fromisoformat(line[name]) for name in ("starts_at", "ends_at")))
    return CalendarMonth.parse(line["period"]).interval


def invoice_to_dict(
    invoice: Invoice,
    *,
    lines: Sequence[Mapping[str, Any]],
    tax: TaxStatus,
    parties: Parties,
    draws: Sequence[tuple[UUID, int]] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Spell an invoice, a draft or a credit note; the sums are those of its lines."""
    net, taxes = (sum(line[name] for line in lines) for name in ("net_minor", "tax_minor"))
    drawn = sum(amount for _, amount in draws)
    return {
        "schema": SCHEMA,
        "kind": invoice.kind.value,
        "id": str(invoice.id),
        "number": invoice.number,
        "tenant_id": str(invoice.tenant_id),
        "period": str(invoice.period),
        "currency": invoice.currency,
        "minor_digits": CURRENCY_DIGITS[invoice.currency],
        "plan_id": invoice.plan_id,
        "contract_id": str(invoice.contract_id) if invoice.contract_id else None,
        "issued_at": _moment(invoice.finalized_at),
        "due_at": _moment(invoice.due_at),
        **parties.to_dict(),
        "tax": {
            "jurisdiction": tax.jurisdiction,
            "is_reverse_charge": tax.is_reverse_charge,
            "tax_id": tax.tax_id,
        },
        "lines": list(lines),
        "net_minor": net,
        "tax_minor": taxes,
        "taxes": tax_breakdown(lines),
        "total_minor": net + taxes,
        "credits": [{"grant_id": str(grant), "amount_minor": amount} for grant, amount in draws],
        "due_minor": max(0, net + taxes) - drawn,
        **(extra or {}),
    }


def tax_breakdown(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the sums of lines by code and rate of their tax; of a line that names none there are none."""
    sums: dict[tuple[str, str], list[int]] = {}
    for line in lines:
        if "tax_code" in line:
            sum_of = sums.setdefault((line["tax_code"], line["tax_rate"]), [0, 0])
            sum_of[0] += line["net_minor"]
            sum_of[1] += line["tax_minor"]
    return [
        {"code": code, "rate": rate, "net_minor": net, "tax_minor": tax}
        for (code, rate), (net, tax) in sums.items()
    ]


def sign_document(
    invoice: Invoice, *, body: Mapping[str, Any], sequence: int, signer: NoteSigner
) -> InvoiceDocument:
    """Fix what an invoice says: canonical bytes, digest, signed note.

    Raises:
        ValidationError: an amount is beyond what the books hold.
    """
    try:
        data = rfc8785.dumps(_written(body))
    except (rfc8785.CanonicalizationError, ValueError) as error:
        raise ValidationError(f"The invoice has no canonical JSON form: {error}.") from error
    digest, number = hashlib.sha256(data).digest(), str(invoice.number)
    return InvoiceDocument(
        invoice_id=invoice.id,
        tenant_id=invoice.tenant_id,
        series=SERIES[invoice.kind],
        sequence=sequence,
        number=number,
        body=data,
        sha256=digest,
        note=signer.sign_note(note_text(signer.name, number=number, sha256=digest)),
        verifier_key=signer.verifier.vkey,
    )


def read_body(data: bytes) -> dict[str, Any]:
    """Read what a document says, with every amount as a number."""
    body: dict[str, Any] = json.loads(data, object_hook=_amounts)
    return body


def _amounts(plain: dict[str, Any]) -> dict[str, Any]:
    return {
        name: int(value) if isinstance(value, str) and name.endswith("_minor") and name != EXACT else value
        for name, value in plain.items()
    }


def _written(value: Any) -> Any:
    """Return something as JSON writes it exactly; `read_body` undoes it."""
    if isinstance(value, dict):
        return {name: _written(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_written(each) for each in value]
    if type(value) is not int or abs(value) <= LARGEST_WHOLE:
        return value
    if abs(value) > LARGEST_AMOUNT:
        raise ValidationError("An amount of the invoice is beyond what the books hold: 2^63 minor units.")
    return str(value)


def note_text(name: str, *, number: str, sha256: bytes) -> str:
    """Return what is signed; its first line is the origin of no log: it never reads as a checkpoint."""
    return f"{name} {NOTE_HEADING}\n{number}\n{base64.b64encode(sha256).decode()}\n"


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
