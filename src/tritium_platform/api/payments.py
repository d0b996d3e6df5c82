"""Attempts to be paid, refunds and disputes: a tenant sees its own, the operator makes them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING
from uuid import UUID

from fastapi import APIRouter

from tritium_platform.api.billing import OPERATOR, IdempotencyKey
from tritium_platform.api.deps import ThePlatform, UsageCaller, admin, admin_key, tenant_key
from tritium_platform.api.invoices import Limit
from tritium_platform.api.payment_schemas import (
    AttemptDetailOut,
    AttemptOut,
    AttemptPage,
    MethodOut,
    NewAttempt,
    NewMethod,
    NewRefund,
    NewTransfer,
    NoticeOut,
    NoticePage,
    RefundOut,
    attempt_out,
    attempt_page,
    dispute_out,
    method_out,
    refund_out,
)
from tritium_platform.errors import NotFoundError

if TYPE_CHECKING:
    from tritium_platform.compose import Platform

router = APIRouter(prefix="/api/v1/payments", tags=["invoices"], dependencies=[tenant_key])
operator_router = APIRouter(prefix="/api/v1/billing", tags=["billing"], dependencies=[admin_key, admin])


@router.get("")
async def list_payments(
    platform: ThePlatform, caller: UsageCaller, limit: Limit = 20, after: UUID | None = None
) -> AttemptPage:
    """List attempts to pay the tenant's invoices, newest first."""
    store = platform.desk.books.payments
    return attempt_page(await store.list(tenant_id=caller.tenant_id, limit=limit, after=after), limit=limit)


@router.get("/notices")
async def list_notices(
    platform: ThePlatform, caller: UsageCaller, limit: Limit = 20, after: UUID | None = None
) -> NoticePage:
    """List what the tenant is to be told of invoices that could not be charged, oldest first."""
    return await _notices(platform, tenant_id=caller.tenant_id, limit=limit, after=after)


@router.get("/{attempt_id}")
async def get_payment(platform: ThePlatform, caller: UsageCaller, attempt_id: UUID) -> AttemptDetailOut:
    """Show an attempt with its refunds and disputes."""
    return await _detail(platform, attempt_id, tenant_id=caller.tenant_id)


@operator_router.put("/payment-methods/{tenant_id}")
async def set_payment_method(platform: ThePlatform, tenant_id: UUID, wish: NewMethod) -> MethodOut:
    """Let a tenant be charged at a provider from now on; its invoices are charged when they are due."""
    await platform.tenancy.get_tenant(tenant_id)
    method = await platform.desk.payments.service.set_method(
        tenant_id, provider=wish.provider, customer=wish.customer, method=wish.method, actor=OPERATOR
    )
    return method_out(method)


@operator_router.get("/payment-methods/{tenant_id}")
async def get_payment_method(platform: ThePlatform, tenant_id: UUID) -> MethodOut:
    """Show what a tenant is charged with."""
    method = await platform.desk.books.payments.method(tenant_id)
    if method is None:
        raise NotFoundError("This tenant pays by bank transfer.")
    return method_out(method)


@operator_router.post("/invoices/{invoice_id}/pay")
async def pay_invoice(
    platform: ThePlatform, invoice_id: UUID, wish: NewAttempt, idempotency_key: IdempotencyKey
) -> AttemptOut:
    """Try to be paid for an invoice: by the tenant's payment method, or by a transfer that is waited for."""
    attempt = await platform.desk.payments.service.process_payment(
        invoice_id, amount_minor=wish.amount_minor, key=idempotency_key, actor=OPERATOR
    )
    return attempt_out(attempt)


@operator_router.get("/payments")
async def list_all_payments(
    platform: ThePlatform, tenant_id: UUID | None = None, limit: Limit = 20, after: UUID | None = None
) -> AttemptPage:
    """List attempts of one tenant or of all, newest first."""
    store = platform.desk.books.payments
    return attempt_page(await store.list(tenant_id=tenant_id, limit=limit, after=after), limit=limit)


@operator_router.get("/payments/notices")
async def list_all_notices(
    platform: ThePlatform, tenant_id: UUID | None = None, limit: Limit = 20, after: UUID | None = None
) -> NoticePage:
    """List what customers are to be told, oldest first; a sender keeps the ids of what it has sent."""
    return await _notices(platform, tenant_id=tenant_id, limit=limit, after=after)


@operator_router.get("/payments/{attempt_id}")
async def get_any_payment(platform: ThePlatform, attempt_id: UUID) -> AttemptDetailOut:
    """Show an attempt of any tenant with its refunds and disputes."""
    return await _detail(platform, attempt_id, tenant_id=None)


@operator_router.post("/payments/{attempt_id}/receive")
async def receive_transfer(
    platform: ThePlatform, attempt_id: UUID, wish: NewTransfer, idempotency_key: IdempotencyKey
) -> AttemptOut:
    """Note that the transfer came in that an attempt waits for; what is too much becomes credit."""
    attempt = await platform.desk.payments.service.receive(
        attempt_id,
        amount_minor=wish.amount_minor,
        reference=wish.reference,
        key=idempotency_key,
        actor=OPERATOR,
    )
    return attempt_out(attempt)


@operator_router.post("/payments/{attempt_id}/cancel")
async def cancel_payment(platform: ThePlatform, attempt_id: UUID) -> AttemptOut:
    """Give up an attempt that waits for the payer."""
    return attempt_out(await platform.desk.payments.service.cancel(attempt_id))


@operator_router.post("/payments/{attempt_id}/refunds", status_code=201)
async def refund_payment(
    platform: ThePlatform, attempt_id: UUID, wish: NewRefund, idempotency_key: IdempotencyKey
) -> RefundOut:
    """Give money back; of a bank transfer this notes what the operator has sent."""
    refund = await platform.desk.payments.refunds.refund(
        attempt_id,
        amount_minor=wish.amount_minor,
        reason=wish.reason,
        credit_note_id=wish.credit_note_id,
        key=idempotency_key,
        actor=OPERATOR,
    )
    return refund_out(refund)


async def _notices(
    platform: Platform, *, tenant_id: UUID | None, limit: int, after: UUID | None
) -> NoticePage:
    kept = await platform.desk.books.payments.notices(tenant_id=tenant_id, limit=limit, after=after)
    buyers = {each: await platform.desk.plans.buyer(each) for each in {notice.tenant_id for notice in kept}}
    emails = {tenant: buyer.email or None for tenant, buyer in buyers.items() if buyer is not None}
    return NoticePage(
        notices=[NoticeOut(**asdict(each), email=emails.get(each.tenant_id)) for each in kept],
        next_after=kept[-1].id if len(kept) == limit else None,
    )


async def _detail(platform: Platform, attempt_id: UUID, *, tenant_id: UUID | None) -> AttemptDetailOut:
    payments = platform.desk.payments
    attempt = await payments.service.get(attempt_id, tenant_id=tenant_id)
    return AttemptDetailOut(
        attempt=attempt_out(attempt),
        refunds=[refund_out(each) for each in await payments.refunds.list(attempt_id)],
        disputes=[dispute_out(each) for each in await payments.disputes.list(attempt_id)],
    )
