"""Plans, contracts, invoices, credit and the journal: the operator's routes.

What moves money takes an `Idempotency-Key` and happens once under it, for ever; what only changes a state
(generate, finalize, void, write off) is harmless to repeat by itself.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response

from tritium_platform.api.deps import ThePlatform, admin, admin_key
from tritium_platform.api.idempotency import KEY_HEADER, LONGEST_KEY, parse_key
from tritium_platform.api.invoices import (
    EventLimit,
    IfNoneMatch,
    Limit,
    LineNumber,
    Period,
    Status,
    detail_of,
    events_of,
    focus_of,
    page_of,
    printed,
)
from tritium_platform.api.money_schemas import (
    BuyerWish,
    ContractOut,
    ContractPage,
    CreditOut,
    CreditPage,
    InvoiceDetailOut,
    InvoiceOut,
    InvoicePage,
    JournalPage,
    LineEventPage,
    NewContract,
    NewCredit,
    NewCreditNote,
    NewDrafts,
    NewPayment,
    PlanOut,
    PlanPage,
    contract_out,
    credit_out,
    group_out,
    invoice_out,
)
from tritium_platform.billing.beancount import write_beancount
from tritium_platform.billing.party import Party
from tritium_platform.billing.rating.plan_json import plan_from_dict, plan_id, plan_to_dict
from tritium_platform.billing.rating.tax import TaxStatus
from tritium_platform.errors import NotFoundError, ValidationError
from tritium_platform.values import CalendarMonth

router = APIRouter(prefix="/api/v1/billing", tags=["billing"], dependencies=[admin_key, admin])
OPERATOR = "operator"


def stored_key(
    request: Request,
    _: Annotated[
        str, Header(alias=KEY_HEADER, description=f"1 to {LONGEST_KEY} ASCII characters, in quotes or plain.")
    ],
) -> str:
    """Return the key in the `Idempotency-Key` header."""
    return parse_key([value.encode("latin-1") for value in request.headers.getlist(KEY_HEADER)])


IdempotencyKey = Annotated[str, Depends(stored_key)]
PlanId = Annotated[str | None, Query(max_length=64, pattern=r"^[0-9a-f]+$")]


@router.post("/plans", status_code=201)
async def publish_plan(platform: ThePlatform, plan: Annotated[dict[str, Any], Body()]) -> PlanOut:
    """Publish a plan; the same content again is the same plan."""
    read = plan_from_dict(plan)
    identity = await platform.desk.plans.publish(read, actor=OPERATOR)
    return PlanOut(id=identity, plan=plan_to_dict(read))


@router.get("/plans")
async def list_plans(platform: ThePlatform, limit: Limit = 20, after: PlanId = None) -> PlanPage:
    """List plans by their ids."""
    found = await platform.desk.plans.list(limit=limit, after=after)
    return PlanPage(
        plans=[PlanOut(id=plan_id(plan), plan=plan_to_dict(plan)) for plan in found],
        next_after=plan_id(found[-1]) if len(found) == limit else None,
    )


@router.get("/plans/{plan_id}")
async def get_plan(platform: ThePlatform, plan_id: str) -> PlanOut:
    """Show a plan."""
    return PlanOut(id=plan_id, plan=plan_to_dict(await platform.desk.plans.get(plan_id)))


@router.post("/contracts", status_code=201)
async def conclude_contract(platform: ThePlatform, wish: NewContract) -> ContractOut:
    """Conclude a contract that pins a plan, from any instant on in a month that is not billed yet."""
    await platform.tenancy.get_tenant(wish.tenant_id)
    contract = await platform.desk.plans.conclude(
        wish.tenant_id,
        plan=wish.plan_id,
        starts_at=wish.starts_at,
        ends_at=wish.ends_at,
        payment_days=wish.payment_days,
        tax=TaxStatus(wish.tax.jurisdiction, wish.tax.is_reverse_charge, wish.tax.tax_id),
        actor=OPERATOR,
    )
    return contract_out(contract)


@router.get("/contracts")
async def list_contracts(
    platform: ThePlatform, tenant_id: UUID, limit: Limit = 20, after: UUID | None = None
) -> ContractPage:
    """List the contracts of a tenant by their starts, oldest first."""
    await platform.tenancy.get_tenant(tenant_id)
    found = await platform.desk.plans.contracts(tenant_id, limit=limit, after=after)
    return ContractPage(
        contracts=[contract_out(each) for each in found],
        next_after=found[-1].id if len(found) == limit else None,
    )


@router.put("/buyers/{tenant_id}")
async def name_buyer(platform: ThePlatform, tenant_id: UUID, wish: BuyerWish) -> BuyerWish:
    """Say who a tenant is on invoices that are finalized from now on."""
    await platform.tenancy.get_tenant(tenant_id)
    await platform.desk.plans.name_buyer(tenant_id, Party.of(wish.model_dump()), actor=OPERATOR)
    return wish


@router.get("/buyers/{tenant_id}")
async def get_buyer(platform: ThePlatform, tenant_id: UUID) -> BuyerWish:
    """Show who a tenant is on its invoices."""
    await platform.tenancy.get_tenant(tenant_id)
    buyer = await platform.desk.plans.buyer(tenant_id)
    if buyer is None:
        raise NotFoundError("Nobody has said who this tenant is on its invoices.")
    return BuyerWish.model_validate(buyer.to_dict())


@router.post("/invoices")
async def generate_invoices(platform: ThePlatform, wish: NewDrafts) -> list[InvoiceOut]:
    """Make the drafts of a tenant's month; those that exist already are not made again."""
    await platform.tenancy.get_tenant(wish.tenant_id)
    period = CalendarMonth.parse(wish.period)
    made = await platform.desk.invoices.generate(wish.tenant_id, period=period, actor=OPERATOR)
    return [invoice_out(each) for each in made]


@router.get("/invoices")
async def list_all_invoices(
    platform: ThePlatform,
    tenant_id: UUID | None = None,
    status: Status = None,
    limit: Limit = 20,
    after: UUID | None = None,
) -> InvoicePage:
    """List invoices of one tenant or of all, newest first."""
    return await page_of(platform, tenant_id=tenant_id, status=status, limit=limit, after=after)


@router.get("/invoices/{invoice_id}")
async def get_any_invoice(platform: ThePlatform, invoice_id: UUID) -> InvoiceDetailOut:
    """Show an invoice of any tenant."""
    return await detail_of(platform, await platform.desk.invoices.get(invoice_id))


@router.get("/focus.csv", response_class=Response)
async def get_all_focus(platform: ThePlatform, period: Period, tenant_id: UUID | None = None) -> Response:
    """Give cost and usage of a month of one tenant or of all as FOCUS 1.2 (CSV)."""
    return focus_of(platform, tenant_id=tenant_id, period=CalendarMonth.parse(period))


@router.get("/invoices/{invoice_id}/document.pdf", response_class=Response)
async def get_any_pdf(platform: ThePlatform, invoice_id: UUID, if_none_match: IfNoneMatch = None) -> Response:
    """Give a finalized invoice or credit note of any tenant as PDF/A-3."""
    invoice = await platform.desk.invoices.get(invoice_id)
    return await printed(platform, invoice, suffix="pdf", if_none_match=if_none_match)


@router.get("/invoices/{invoice_id}/document.xml", response_class=Response)
async def get_any_xml(platform: ThePlatform, invoice_id: UUID, if_none_match: IfNoneMatch = None) -> Response:
    """Give a finalized invoice or credit note of any tenant as EN 16931 XML."""
    invoice = await platform.desk.invoices.get(invoice_id)
    return await printed(platform, invoice, suffix="xml", if_none_match=if_none_match)


@router.get("/invoices/{invoice_id}/events")
async def get_any_events(
    platform: ThePlatform,
    invoice_id: UUID,
    line: LineNumber = 1,
    limit: EventLimit = 100,
    after: UUID | None = None,
) -> LineEventPage:
    """List the uses behind a line of any tenant's finalized invoice or credit note."""
    invoice = await platform.desk.invoices.get(invoice_id)
    return await events_of(platform, invoice, line=line, limit=limit, after=after)


@router.post("/invoices/{invoice_id}/finalize")
async def finalize_invoice(platform: ThePlatform, invoice_id: UUID) -> InvoiceOut:
    """Finalize a draft: number, document, signature, journal; it never changes after that."""
    return invoice_out(await platform.desk.invoices.finalize(invoice_id, actor=OPERATOR))


@router.post("/invoices/{invoice_id}/void")
async def void_invoice(platform: ThePlatform, invoice_id: UUID) -> InvoiceOut:
    """Void an invoice of which nothing is paid; its uses are billed again with the next draft."""
    return invoice_out(await platform.desk.settlement.void(invoice_id, actor=OPERATOR))


@router.post("/invoices/{invoice_id}/write-off")
async def write_off_invoice(platform: ThePlatform, invoice_id: UUID) -> InvoiceOut:
    """Give up what is open of an invoice."""
    return invoice_out(await platform.desk.settlement.write_off(invoice_id, actor=OPERATOR))


@router.post("/invoices/{invoice_id}/payments")
async def record_payment(
    platform: ThePlatform, invoice_id: UUID, wish: NewPayment, idempotency_key: IdempotencyKey
) -> InvoiceOut:
    """Record money that came in for an invoice."""
    paid = await platform.desk.settlement.record_payment(
        invoice_id,
        amount_minor=wish.amount_minor,
        reference=wish.reference,
        key=idempotency_key,
        actor=OPERATOR,
    )
    return invoice_out(paid)


@router.post("/invoices/{invoice_id}/credit-notes")
async def write_credit_note(
    platform: ThePlatform, invoice_id: UUID, wish: NewCreditNote, idempotency_key: IdempotencyKey
) -> InvoiceOut:
    """Write a credit note over lines of an invoice."""
    amounts = {each.line: each.amount_minor for each in wish.lines}
    if len(amounts) < len(wish.lines):
        raise ValidationError("A credit note names each line once.", field="lines")
    note = await platform.desk.credit_notes.credit(
        invoice_id, amounts=amounts, reason=wish.reason, key=idempotency_key, actor=OPERATOR
    )
    return invoice_out(note)


@router.post("/credits", status_code=201)
async def grant_credit(platform: ThePlatform, wish: NewCredit, idempotency_key: IdempotencyKey) -> CreditOut:
    """Grant prepaid credit that was paid for."""
    await platform.tenancy.get_tenant(wish.tenant_id)
    grant = await platform.desk.grants.grant(
        wish.tenant_id,
        currency=wish.currency,
        amount_minor=wish.amount_minor,
        reason=wish.reason,
        priority=wish.priority,
        expires_at=wish.expires_at,
        key=idempotency_key,
        actor=OPERATOR,
    )
    return credit_out(grant)


@router.get("/credits")
async def list_credits(
    platform: ThePlatform, tenant_id: UUID, limit: Limit = 20, after: UUID | None = None
) -> CreditPage:
    """List the credit of a tenant, oldest first."""
    await platform.tenancy.get_tenant(tenant_id)
    found = await platform.desk.grants.list(tenant_id, limit=limit, after=after)
    return CreditPage(
        credits=[credit_out(each) for each in found],
        next_after=found[-1].id if len(found) == limit else None,
    )


@router.get("/journal")
async def get_journal(platform: ThePlatform, limit: Limit = 100, after: UUID | None = None) -> JournalPage:
    """Show the journal, oldest first."""
    groups = await platform.desk.books.journal.list(limit=limit, after=after)
    return JournalPage(
        groups=[group_out(each) for each in groups],
        next_after=groups[-1].id if len(groups) == limit else None,
    )


@router.get("/journal.beancount", response_class=Response)
async def get_beancount(platform: ThePlatform) -> Response:
    """Give the whole journal as text for beancount."""
    lines = write_beancount(await platform.desk.whole_journal())
    return Response("\n".join([*lines, ""]), media_type="text/plain; charset=utf-8")
