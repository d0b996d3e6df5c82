"""An invoice as a computer of the customer reads it: EN 16931 in the syntax of UN/CEFACT CII (Factur-X).

A line is billed as one unit of its amount: a price by steps has no single unit price, and one that is rounded
would not come to the amount. What was counted stands beside it, as properties of the item.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET  # it is written here, never read

from tritium_platform.billing.decimals import decimal_of, exact_decimal
from tritium_platform.billing.document import interval_of
from tritium_platform.billing.invoice import InvoiceKind
from tritium_platform.billing.line_text import line_title
from tritium_platform.billing.party import Parties, plain_text
from tritium_platform.billing.rating.proration import TICK
from tritium_platform.billing.rating.tax import TaxCode
from tritium_platform.errors import ConflictError
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium_platform.billing.party import Party, Seller
    from tritium_platform.values import Interval

GUIDELINE = "urn:cen.eu:en16931:2017"
_URN = "urn:un:unece:uncefact:data:standard"
NAMESPACES = {
    "rsm": f"{_URN}:CrossIndustryInvoice:100",
    "ram": f"{_URN}:ReusableAggregateBusinessInformationEntity:100",
    "qdt": f"{_URN}:QualifiedDataType:100",
    "udt": f"{_URN}:UnqualifiedDataType:100",
}
TYPE_CODES = {InvoiceKind.INVOICE: "380", InvoiceKind.CREDIT_NOTE: "381"}
ONE = "C62"  # UN/ECE recommendation 20
CREDIT_TRANSFER = "30"
DISCOUNT = "95"  # UNTDID 5189
DATE = "102"  # UNTDID 2379: CCYYMMDD
MOST_DIGITS = 2
PERCENT = 100
TAXED = {TaxCode.STANDARD, TaxCode.ZERO, TaxCode.EXEMPT, TaxCode.REVERSE_CHARGE}
REASONS = {
    TaxCode.REVERSE_CHARGE: ("Reverse charge", "VATEX-EU-AE"),
    TaxCode.NOT_TAXED: ("Not subject to VAT", "VATEX-EU-O"),
}


def missing_facts(body: Mapping[str, Any]) -> list[str]:
    """Return by name what EN 16931 asks for and a document does not say; empty if nothing is missing."""
    parties = Parties.of(body)
    codes = {TaxCode(each["code"]) for each in body.get("taxes", ())}
    missing = _missing_of_seller(parties.seller, codes=codes) + _missing_of_buyer(parties.buyer)
    if TaxCode.REVERSE_CHARGE in codes and not body["tax"]["tax_id"]:
        missing.append("contract.tax.tax_id")
    if not body["lines"] or any("tax_code" not in line for line in body["lines"]):
        missing.append("lines.tax_code")
    if body["minor_digits"] > MOST_DIGITS:
        missing.append(f"currency with {MOST_DIGITS} decimals")
    for each in body.get("taxes", ()):
        if exact_decimal(PERCENT * Fraction(each["rate"])) is None:
            missing.append(f"tax rate in decimals (it is {each['rate']})")
        elif not _is_close(each, digits=body["minor_digits"]):
            missing.append("tax of the sum of lines (the tax of each line was rounded)")
    return missing


def write_cii(body: Mapping[str, Any]) -> bytes:
    """Write the XML of a finalized invoice or credit note; the same document gives the same bytes.

    Source: EN 16931-1 and its binding to CII D16B (CEN/TS 16931-3-3).

    Raises:
        ConflictError: the document lacks mandatory facts; the message names them.
    """
    missing = missing_facts(body)
    if missing:
        raise ConflictError(
            f"There is no EN 16931 XML of {body['number']}: the document lacks {', '.join(missing)}. What "
            "the configuration and the buyer's data say counts for invoices that are finalized after it.",
            field="document",
            missing=", ".join(missing),
        )
    root = ET.Element("rsm:CrossIndustryInvoice", {f"xmlns:{name}": urn for name, urn in NAMESPACES.items()})
    context = _add(root, "rsm:ExchangedDocumentContext")
    _add(_add(context, "ram:GuidelineSpecifiedDocumentContextParameter"), "ram:ID", GUIDELINE)
    _add_document(root, body)
    transaction = _add(root, "rsm:SupplyChainTradeTransaction")
    for line in body["lines"]:
        _add_line(transaction, line, body=body)
    _add_agreement(transaction, body)
    delivery = _add(transaction, "ram:ApplicableHeaderTradeDelivery")
    delivered = _add(_add(delivery, "ram:ActualDeliverySupplyChainEvent"), "ram:OccurrenceDateTime")
    _add_date(delivered, _last_day(CalendarMonth.parse(body["period"]).interval))
    _add_settlement(transaction, body)
    ET.indent(root)
    xml: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return xml + b"\n"


def _missing_of_seller(seller: Seller | None, *, codes: set[TaxCode]) -> list[str]:
    if seller is None:
        return ["seller.name"]
    facts = {
        "seller.country": seller.party.country,
        "seller.registration_id or seller.vat_id": seller.registration_id
        or (seller.vat_id if TaxCode.NOT_TAXED not in codes else ""),
    }
    if codes & TAXED:
        facts["seller.vat_id or seller.tax_number"] = seller.vat_id or seller.tax_number
    if TaxCode.REVERSE_CHARGE in codes:
        facts["seller.vat_id"] = seller.vat_id
    if TaxCode.EXEMPT in codes:
        facts["seller.exemption_reason"] = seller.exemption_reason
    return [name for name, value in facts.items() if not value]


def _missing_of_buyer(buyer: Party | None) -> list[str]:
    if buyer is None:
        return ["buyer.name"]
    return [] if buyer.country else ["buyer.country"]


def _is_close(tax: Mapping[str, Any], *, digits: int) -> bool:
    """Return whether a tax is that of the sum, to less than one major unit: so far readers tolerate it."""
    exact = Fraction(tax["rate"]) * int(tax["net_minor"])
    return bool(abs(exact - int(tax["tax_minor"])) < 10**digits)


def _add_document(root: ET.Element, body: Mapping[str, Any]) -> None:
    document = _add(root, "rsm:ExchangedDocument")
    _add(document, "ram:ID", body["number"])
    _add(document, "ram:TypeCode", TYPE_CODES[InvoiceKind(body["kind"])])
    _add_date(_add(document, "ram:IssueDateTime"), body["issued_at"])
    if body.get("reason"):
        _add(_add(document, "ram:IncludedNote"), "ram:Content", body["reason"])


def _add_line(transaction: ET.Element, line: Mapping[str, Any], *, body: Mapping[str, Any]) -> None:
    def amount(minor: int) -> str:
        return decimal_of(minor, digits=body["minor_digits"])

    item = _add(transaction, "ram:IncludedSupplyChainTradeLineItem")
    _add(_add(item, "ram:AssociatedDocumentLineDocument"), "ram:LineID", str(line["number"]))
    product = _add(item, "ram:SpecifiedTradeProduct")
    _add(product, "ram:Name", line_title(line))
    for name in ("charge", "meter", "quantity", "included", "credits_line"):
        if line.get(name) is not None:
            property_ = _add(product, "ram:ApplicableProductCharacteristic")
            _add(property_, "ram:Description", name)
            _add(property_, "ram:Value", str(line[name]))
    gross = line["net_minor"] + line.get("discount_minor", 0)
    price = _add(_add(item, "ram:SpecifiedLineTradeAgreement"), "ram:NetPriceProductTradePrice")
    _add(price, "ram:ChargeAmount", amount(abs(gross)))
    delivery = _add(item, "ram:SpecifiedLineTradeDelivery")
    _add(delivery, "ram:BilledQuantity", "-1" if gross < 0 else "1", unitCode=ONE)
    settlement = _add(item, "ram:SpecifiedLineTradeSettlement")
    _add_tax_of_line(settlement, line)
    _add_period(settlement, interval_of(line))
    if line.get("discount_minor"):
        allowance = _add(settlement, "ram:SpecifiedTradeAllowanceCharge")
        _add(_add(allowance, "ram:ChargeIndicator"), "udt:Indicator", "false")
        _add(allowance, "ram:ActualAmount", amount(line["discount_minor"]))
        _add(allowance, "ram:ReasonCode", DISCOUNT)
        _add(allowance, "ram:Reason", "Discount")
    total = _add(settlement, "ram:SpecifiedTradeSettlementLineMonetarySummation")
    _add(total, "ram:LineTotalAmount", amount(line["net_minor"]))


def _add_tax_of_line(settlement: ET.Element, line: Mapping[str, Any]) -> None:
    tax = _add(settlement, "ram:ApplicableTradeTax")
    _add(tax, "ram:TypeCode", "VAT")
    _add(tax, "ram:CategoryCode", line["tax_code"])
    _add_rate(tax, code=line["tax_code"], rate=line["tax_rate"])


def _add_agreement(transaction: ET.Element, body: Mapping[str, Any]) -> None:
    parties = Parties.of(body)
    assert parties.seller is not None and parties.buyer is not None  # noqa: S101, PT018 - missing_facts looked
    # What bears no VAT at all names no VAT id, of nobody (BR-O-02).
    is_taxed = any(each["code"] != TaxCode.NOT_TAXED for each in body["taxes"])
    agreement = _add(transaction, "ram:ApplicableHeaderTradeAgreement")
    if parties.buyer.reference:
        _add(agreement, "ram:BuyerReference", parties.buyer.reference)
    seller = parties.seller
    _add_party(
        _add(agreement, "ram:SellerTradeParty"),
        seller.party,
        registration_id=seller.registration_id,
        tax_ids={"VA": seller.vat_id if is_taxed else "", "FC": seller.tax_number},
    )
    tax_id = body["tax"]["tax_id"]
    _add_party(
        _add(agreement, "ram:BuyerTradeParty"), parties.buyer, tax_ids={"VA": tax_id if is_taxed else ""}
    )
    if body["contract_id"]:
        contract = _add(agreement, "ram:ContractReferencedDocument")
        _add(contract, "ram:IssuerAssignedID", body["contract_id"])


def _add_party(
    element: ET.Element, party: Party, *, tax_ids: Mapping[str, str], registration_id: str = ""
) -> None:
    _add(element, "ram:Name", party.name)
    if registration_id:
        _add(_add(element, "ram:SpecifiedLegalOrganization"), "ram:ID", registration_id)
    address = _add(element, "ram:PostalTradeAddress")
    lines = dict(zip(("ram:LineOne", "ram:LineTwo", "ram:LineThree"), party.street, strict=False))
    parts = {"ram:PostcodeCode": party.post_code, **lines, "ram:CityName": party.city}
    for name, text in (parts | {"ram:CountryID": party.country}).items():
        if text:
            _add(address, name, text)
    if party.email:
        _add(_add(element, "ram:URIUniversalCommunication"), "ram:URIID", party.email, schemeID="EM")
    for scheme, number in tax_ids.items():
        if number:
            _add(_add(element, "ram:SpecifiedTaxRegistration"), "ram:ID", number, schemeID=scheme)


def _add_settlement(transaction: ET.Element, body: Mapping[str, Any]) -> None:
    settlement = _add(transaction, "ram:ApplicableHeaderTradeSettlement")
    _add(settlement, "ram:PaymentReference", body["number"])
    _add(settlement, "ram:InvoiceCurrencyCode", body["currency"])
    seller = Parties.of(body).seller
    if seller is not None and seller.iban and body["kind"] == InvoiceKind.INVOICE:
        means = _add(settlement, "ram:SpecifiedTradeSettlementPaymentMeans")
        _add(means, "ram:TypeCode", CREDIT_TRANSFER)
        _add(_add(means, "ram:PayeePartyCreditorFinancialAccount"), "ram:IBANID", seller.iban)
        if seller.bic:
            _add(_add(means, "ram:PayeeSpecifiedCreditorFinancialInstitution"), "ram:BICID", seller.bic)
    for tax in body["taxes"]:
        _add_tax(settlement, tax, body=body)
    _add_period(settlement, CalendarMonth.parse(body["period"]).interval)
    terms = _add(settlement, "ram:SpecifiedTradePaymentTerms")
    if body["due_at"]:
        _add_date(_add(terms, "ram:DueDateDateTime"), body["due_at"])
    else:
        _add(terms, "ram:Description", f"Set off against {body.get('credits_invoice')}, the rest is credit.")
    _add_totals(settlement, body)
    if body.get("credits_invoice"):
        credited = _add(settlement, "ram:InvoiceReferencedDocument")
        _add(credited, "ram:IssuerAssignedID", body["credits_invoice"])
        _add_date(_add(credited, "ram:FormattedIssueDateTime"), body["credits_issued_at"], prefix="qdt")


def _add_tax(settlement: ET.Element, tax: Mapping[str, Any], *, body: Mapping[str, Any]) -> None:
    code, digits = TaxCode(tax["code"]), body["minor_digits"]
    reason, reason_code = REASONS.get(code, ("", ""))
    if code is TaxCode.EXEMPT:
        reason = body["seller"]["exemption_reason"]
    element = _add(settlement, "ram:ApplicableTradeTax")
    _add(element, "ram:CalculatedAmount", decimal_of(tax["tax_minor"], digits=digits))
    _add(element, "ram:TypeCode", "VAT")
    if reason:
        _add(element, "ram:ExemptionReason", reason)
    _add(element, "ram:BasisAmount", decimal_of(tax["net_minor"], digits=digits))
    _add(element, "ram:CategoryCode", code.value)
    if reason_code:
        _add(element, "ram:ExemptionReasonCode", reason_code)
    _add_rate(element, code=code, rate=tax["rate"])


def _add_totals(settlement: ET.Element, body: Mapping[str, Any]) -> None:
    # Prepaid credit is what is paid already; so is a total below zero, which became credit.
    totals = {
        "ram:LineTotalAmount": body["net_minor"],
        "ram:TaxBasisTotalAmount": body["net_minor"],
        "ram:TaxTotalAmount": body["tax_minor"],
        "ram:GrandTotalAmount": body["total_minor"],
        "ram:TotalPrepaidAmount": body["total_minor"] - body["due_minor"],
        "ram:DuePayableAmount": body["due_minor"],
    }
    element = _add(settlement, "ram:SpecifiedTradeSettlementHeaderMonetarySummation")
    for name, minor in totals.items():
        currency = {"currencyID": body["currency"]} if name == "ram:TaxTotalAmount" else {}
        _add(element, name, decimal_of(minor, digits=body["minor_digits"]), **currency)


def _add_rate(tax: ET.Element, *, code: str, rate: str) -> None:
    if code != TaxCode.NOT_TAXED:
        _add(tax, "ram:RateApplicablePercent", exact_decimal(PERCENT * Fraction(rate)) or "")


def _add_period(element: ET.Element, interval: Interval) -> None:
    span = _add(element, "ram:BillingSpecifiedPeriod")
    _add_date(_add(span, "ram:StartDateTime"), interval.start.date().isoformat())
    _add_date(_add(span, "ram:EndDateTime"), _last_day(interval))


def _last_day(interval: Interval) -> str:
    return (interval.end - TICK).date().isoformat()


def _add_date(element: ET.Element, moment: str, *, prefix: str = "udt") -> None:
    _add(element, f"{prefix}:DateTimeString", moment[:10].replace("-", ""), format=DATE)


def _add(parent: ET.Element, name: str, text: str | None = None, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, name, attributes)
    if text is not None:
        element.text = plain_text(text)
    return element
