"""When an invoice is charged, charged again, and given up: the class of the decline decides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from itertools import takewhile
from typing import TYPE_CHECKING
from uuid import UUID

from tritium_platform.billing.dunning_notice import DunningNotice, NoticeKind, end_text, hard_text, soft_text
from tritium_platform.billing.invoice import OPEN
from tritium_platform.billing.payment import UNRESOLVED, AttemptState, Decline
from tritium_platform.billing.setbacks import Setbacks
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from tritium_platform.billing.books import BillingBooks
    from tritium_platform.billing.invoice import Invoice
    from tritium_platform.billing.payment import PaymentAttempt, PaymentMethod
    from tritium_platform.billing.payments import PaymentService
    from tritium_platform.billing.settlement import SettlementService

ACTOR = "dunning"
AT_ONCE = 100
# Days after the first soft decline on which the same charge is tried again.
RETRY_DAYS = (1, 3, 5, 7)
# How long a customer has after a hard decline to name another card.
HARD_DAYS = 7
Suspend = Callable[[UUID], Awaitable[None]]


class DunningStep(StrEnum):
    """What is due for an open invoice."""

    WAIT = "wait"
    CHARGE = "charge"
    NOTIFY = "notify"
    END = "end"


class DunningEnd(StrEnum):
    """What follows when nothing more is tried."""

    NOTHING = "nothing"
    UNCOLLECTIBLE = "uncollectible"
    SUSPEND = "suspend"


@dataclass(frozen=True, slots=True, kw_only=True)
class DunningRun:
    """What one run did: counts."""

    told: int
    charged: int
    notified: int
    ended: int
    failed: int


def next_step(
    invoice: Invoice, attempts: Sequence[PaymentAttempt], *, method: PaymentMethod, now: datetime
) -> DunningStep:
    """Return what is due: charged when it is due, after soft declines on days 1, 3, 5 and 7, then no more.

    What was paid and refunded is not charged again by itself; another card is a new beginning.
    """
    if any(each.state in UNRESOLVED for each in attempts):
        return DunningStep.WAIT
    failures = list(takewhile(lambda each: each.state is AttemptState.FAILED, reversed(attempts)))
    if not attempts or (failures and method.created_at > failures[0].changed_at):
        is_due = invoice.due_at is not None and invoice.due_at <= now
        return DunningStep.CHARGE if is_due else DunningStep.WAIT
    if not failures:
        return DunningStep.WAIT
    last = failures[0]
    if last.decline is not Decline.SOFT:
        is_over = last.changed_at + timedelta(days=HARD_DAYS) <= now
        return DunningStep.END if is_over else DunningStep.NOTIFY
    declined = [each for each in failures if method.created_at <= each.changed_at]
    if len(declined) > len(RETRY_DAYS):
        return DunningStep.END
    is_time = declined[-1].changed_at + timedelta(days=RETRY_DAYS[len(declined) - 1]) <= now
    return DunningStep.CHARGE if is_time else DunningStep.WAIT


def due_notice(
    invoice: Invoice, attempts: Sequence[PaymentAttempt], *, method: PaymentMethod
) -> tuple[NoticeKind, tuple[str, str]] | None:
    """Return what the customer is to be told of the last decline, None if there is nothing to tell.

    After the last soft decline it is the end, which is told when it comes.
    """
    failures = list(takewhile(lambda each: each.state is AttemptState.FAILED, reversed(attempts)))
    declined = [each for each in failures if method.created_at <= each.changed_at]
    if not declined:
        return None
    if declined[0].decline is not Decline.SOFT:
        until = declined[0].changed_at + timedelta(days=HARD_DAYS)
        return NoticeKind.HARD, hard_text(invoice, until=until)
    if len(declined) > len(RETRY_DAYS):
        return None
    next_try = declined[-1].changed_at + timedelta(days=RETRY_DAYS[len(declined) - 1])
    return NoticeKind.SOFT, soft_text(invoice, next_try=next_try)


class DunningService:
    """Collects what tenants with a payment method owe; running it twice does everything once.

    Args:
        books: what every change is written into.
        payments: charges.
        settlement: writes off.
        end: what follows when nothing more is tried.
        suspend: closes a tenant's account; needed for that end only.
    """

    def __init__(
        self,
        *,
        books: BillingBooks,
        payments: PaymentService,
        settlement: SettlementService,
        end: DunningEnd,
        suspend: Suspend | None,
    ) -> None:
        self._books = books
        self._payments = payments
        self._settlement = settlement
        self._end = end
        self._suspend = suspend

    async def run(self) -> DunningRun:
        """Do what is due for every open invoice; what fails for one is logged and left for the next run.

        Raises:
            PlatformError: an error that nobody foresaw was among it; the other invoices are done.
        """
        counts = {DunningStep.CHARGE: 0, DunningStep.NOTIFY: 0, DunningStep.END: 0}
        setbacks, told = Setbacks(), 0
        async for invoice in self._open_invoices():
            with setbacks.logged(
                "dunning_failed", invoice_id=str(invoice.id), tenant_id=str(invoice.tenant_id)
            ):
                method = await self._books.payments.method(invoice.tenant_id)
                if method is None:
                    continue
                attempts = await self._books.payments.of_invoice(invoice.id)
                # First: what is charged next must not leave a decline untold that a crash has cut off.
                told += await self._tell(invoice, attempts, method=method)
                step = next_step(invoice, attempts, method=method, now=self._books.clock.now())
                if step is not DunningStep.WAIT:
                    counts[step] += await self._take(step, invoice, attempts)
                if step is DunningStep.CHARGE:
                    attempts = await self._books.payments.of_invoice(invoice.id)
                    told += await self._tell(invoice, attempts, method=method)
        setbacks.report("Dunning")
        return DunningRun(
            told=told,
            charged=counts[DunningStep.CHARGE],
            notified=counts[DunningStep.NOTIFY],
            ended=counts[DunningStep.END],
            failed=setbacks.failed,
        )

    async def _take(self, step: DunningStep, invoice: Invoice, attempts: Sequence[PaymentAttempt]) -> int:
        key = f"dunning:{invoice.id}:{len(attempts)}:{step.value}"
        if step is DunningStep.CHARGE:
            await self._payments.process_payment(invoice.id, key=key, actor=ACTOR)
            return 1
        async with self._books.unit_of_work():
            subject_id = uuid7(self._books.clock)
            if await self._books.begin(key, request=(key,), subject_id=subject_id) is not None:
                return 0
            await self._books.note_invoice(
                f"dunning.{step.value}", invoice, actor=ACTOR, code=attempts[-1].code or None
            )
            if step is DunningStep.END:
                text = end_text(invoice, is_suspended=self._end is DunningEnd.SUSPEND)
                await self._keep(NoticeKind.END, text, invoice=invoice, attempt=attempts[-1])
            if step is DunningStep.END and self._end is DunningEnd.UNCOLLECTIBLE:
                await self._settlement.write_off(invoice.id, actor=ACTOR)
            if step is DunningStep.END and self._end is DunningEnd.SUSPEND and self._suspend is not None:
                await self._suspend(invoice.tenant_id)
        return 1

    async def _tell(
        self, invoice: Invoice, attempts: Sequence[PaymentAttempt], *, method: PaymentMethod
    ) -> int:
        due = due_notice(invoice, attempts, method=method)
        if due is None:
            return 0
        kind, text = due
        async with self._books.unit_of_work():
            return int(await self._keep(kind, text, invoice=invoice, attempt=attempts[-1]))

    async def _keep(
        self, kind: NoticeKind, text: tuple[str, str], *, invoice: Invoice, attempt: PaymentAttempt
    ) -> bool:
        """Keep a notice and its audit entry, unless they are kept already."""
        notice = DunningNotice(
            id=uuid7(self._books.clock),
            tenant_id=invoice.tenant_id,
            invoice_id=invoice.id,
            attempt_number=attempt.number,
            kind=kind,
            subject=text[0],
            body=text[1],
            created_at=self._books.clock.now(),
        )
        is_new = await self._books.payments.add_notice(notice)
        if is_new:
            details = {"kind": kind.value, "notice_id": str(notice.id)}
            await self._books.note_invoice("dunning.tell", invoice, actor=ACTOR, **details)
        return is_new

    async def _open_invoices(self) -> AsyncIterator[Invoice]:
        after = None
        while True:
            page = await self._books.invoices.list(
                tenant_id=None, statuses=sorted(OPEN), limit=AT_ONCE, after=after
            )
            for each in page:
                yield each
            if len(page) < AT_ONCE:
                return
            after = page[-1].id
