"""The one road from a customer's request to a line in the books.

process_customer_request: authenticate, gate by tier, reserve, dispatch, settle, price, audit, update health.
It sequences; every decision is made in a room below.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

import structlog

from tritium_platform import spans
from tritium_platform.audit.model import ActionOutcome, AuditIntent, ComplianceImpact
from tritium_platform.errors import BitNetServiceError
from tritium_platform.passage import Passage
from tritium_platform.quotas.spend_cap import micro
from tritium_platform.serving import policy
from tritium_platform.settler import Settler
from tritium_platform.tenancy.acting import act_for, acting_for_the_service
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from uuid import UUID

    from tritium_platform.books import AuditTrail, Books
    from tritium_platform.changes import Change
    from tritium_platform.passage import CustomerRequest, OnceOnly, Traffic
    from tritium_platform.quotas.admission import Admission
    from tritium_platform.quotas.model import Reservation
    from tritium_platform.retry import RandomSource
    from tritium_platform.serving.model import Outcome
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.tenancy.service import TenancyService

_log = structlog.get_logger(__name__)
Piece = TypeVar("Piece")
Result = TypeVar("Result")
GROUP_SECONDS = 1.0


class Gateway:
    """The one road in; `randomness` spreads its second attempts at the database."""

    def __init__(
        self, *, tenancy: TenancyService, books: Books, randomness: RandomSource | None = None
    ) -> None:
        self._tenancy = tenancy
        self._books = books
        self._settler = Settler(books, randomness=randomness)
        self.telemetry = books.telemetry
        self.clock = books.clock
        self._is_logging_due = False
        self._is_urgent = asyncio.Event()
        self._background: set[asyncio.Task[object]] = set()

    async def process_customer_request(
        self, request: CustomerRequest[Piece], *, token: str, request_id: str
    ) -> Passage[Piece]:
        """Admit a request and return the passage that does the work while it is iterated.

        The passage settles before it hands out its last piece: what a client has seen complete is in the
        books. Closing it early, failing and being cancelled settle too, with what was consumed until then.

        Raises:
            BitNetServiceError: whatever stands in the way; nothing stays reserved.
        """
        (passage,) = await self.process_customer_requests([request], token=token, request_id=request_id)
        return passage

    async def process_customer_requests(
        self,
        requests: Sequence[CustomerRequest[Piece]],
        *,
        token: str,
        request_id: str,
        event_ids: Sequence[UUID] | None = None,
        traffic: Traffic | None = None,
    ) -> list[Passage[Piece]]:
        """Admit what one call asks for, all of it or nothing; as `process_customer_request` otherwise.

        `event_ids` are those of a call that may run twice: under each id, only the first use is counted. With
        `traffic`, that of the call, the passages settle when they are finished or closed.
        """
        with spans.step("authenticate"):
            context = await self.authenticate(token)
        try:
            context = self._books.fair_use.apply(context)
            admissions, spends = await self._admit(
                requests, context=context, may_run_twice=event_ids is not None
            )
        except BitNetServiceError as error:
            await self._refuse(requests[0], context=context, error=error, request_id=request_id)
            raise
        return [
            Passage(
                self,
                request,
                context=context,
                admission=admission,
                request_id=request_id,
                event_id=event_ids[place] if event_ids else None,
                spend=spends[place] if spends else None,
                traffic=traffic,
            )
            for place, (request, admission) in enumerate(zip(requests, admissions, strict=True))
        ]

    async def _admit(
        self, requests: Sequence[CustomerRequest[Piece]], *, context: TenantContext, may_run_twice: bool
    ) -> tuple[list[Admission], list[Reservation]]:
        quotas, journal = self._books.quotas, self._books.journal
        try:
            with spans.step("reserve"):
                if journal is not None:
                    journal.require_room()
                tokens = []
                for request in requests:
                    context.require(request.scope)
                    tokens.append(await request.admit(context))
                async with self._spending(context, tokens=tokens) as spends:
                    if journal is None or may_run_twice or spends:
                        return await quotas.reserve_all(context, tokens=tokens), spends
                    return await quotas.admit_all(context, tokens=tokens), spends
        except BaseException:
            for request in requests:
                request.release()
            raise

    @contextlib.asynccontextmanager
    async def _spending(
        self, context: TenantContext, *, tokens: Sequence[int]
    ) -> AsyncIterator[list[Reservation]]:
        """Reserve the most that requests can cost, if their tenant has a cap; give it back if they fail."""
        books = self._books
        held: list[Reservation] = []
        if books.spending is not None and books.spending.is_capped(context.tenant_id):
            period = CalendarMonth.of(books.clock.now())
            most = [await books.billing.most(each, tier=context.tier, period=period) for each in tokens]
            held = await books.spending.hold(context, amounts=[micro(each) for each in most])
        try:
            yield held
        except BaseException:
            for each in held:
                if books.spending is not None:
                    await books.spending.void(each.id, tenant_id=each.tenant_id)
            raise

    async def process_deferred_request(
        self,
        request: CustomerRequest[Piece],
        *,
        context: TenantContext,
        request_id: str,
        num_requests: int,
        once: OnceOnly,
    ) -> Passage[Piece]:
        """Admit a request whose turn we choose: as `process_customer_request`, but the rates are left alone.

        Args:
            request: the work; it consumes nothing unless it succeeds.
            context: who asked for it, authenticated then, and what they may do now.
            request_id: names it in the log.
            num_requests: what it counts of the month's quota.
            once: makes it happen once.
        """
        try:
            context = self._books.fair_use.apply(context)
            admission, spends = await self._admit_deferred(
                request, context=context, num_requests=num_requests
            )
        except BitNetServiceError as error:
            await self._refuse(
                request, context=context, error=error, request_id=request_id, is_own_turn=False
            )
            raise
        return Passage(
            self,
            request,
            context=context,
            admission=admission,
            request_id=request_id,
            once=once,
            spend=spends[0] if spends else None,
        )

    async def _admit_deferred(
        self, request: CustomerRequest[Piece], *, context: TenantContext, num_requests: int
    ) -> tuple[Admission, list[Reservation]]:
        try:
            context.require(request.scope)
            tokens = await request.admit(context)
            async with self._spending(context, tokens=[tokens]) as spends:
                return await self._books.quotas.reserve_deferred(context, requests=num_requests), spends
        except BaseException:
            request.release()
            raise

    async def authenticate(self, token: str) -> TenantContext:
        """Return who is calling; what follows in this task sees and writes rows of that tenant only."""
        with acting_for_the_service():  # whose key it is, is not known yet
            context = await self._tenancy.authenticate_request(token)
        act_for(context.tenant_id)
        return context

    async def recognize(self, token: str) -> tuple[TenantContext, bool]:
        """Return the same, and whether it is confirmed: while the database is away it is who is known."""
        with acting_for_the_service():
            context, is_confirmed = await self._tenancy.recognize(token)
        act_for(context.tenant_id)
        return context, is_confirmed

    async def change(
        self, work: Callable[[], Awaitable[Result]], *, describe: Callable[[Result], Change]
    ) -> Result:
        """Make a change that is nobody's use (of a tenant, a key) together with its audit intent."""
        async with self._books.unit_of_work():
            result = await work()
            change = describe(result)
            moment, identity = self._books.clock.now(), uuid7(self._books.clock)
            intent = AuditIntent(
                id=identity,
                event_id=identity,
                occurred_at=moment,
                action=change.action,
                resource_affected=change.resource,
                outcome=ActionOutcome.SUCCESS,
                tenant_id=change.tenant_id,
                key_id=change.key_id,
                compliance_impact=ComplianceImpact.ACCESS_CONTROL,
                details=change.details,
            )
            await self._books.outbox.add(intent)
        self.log_soon()
        return result

    async def close(self) -> None:
        """Wait until everything that ended is in the books."""
        self._is_urgent.set()
        while self._background:
            await asyncio.gather(*self._background, return_exceptions=True)
        self._is_urgent.clear()

    def in_background(self, work: asyncio.Task[object]) -> None:
        """Keep a task until it is done."""
        self._background.add(work)
        work.add_done_callback(self._background.discard)

    async def settle(self, passage: Passage[Piece], *, outcome: Outcome, error: BaseException | None) -> None:
        """End a passage durably; the audit log has it soon."""
        await self._settler.settle(passage, outcome=outcome, error=error)
        self.log_soon()

    async def _refuse(
        self,
        request: CustomerRequest[Piece],
        *,
        context: TenantContext,
        error: BitNetServiceError,
        request_id: str,
        is_own_turn: bool = True,
    ) -> None:
        self._books.telemetry.refused(tier=context.tier.value, reason=error.code)
        books, moment = self._books, self._books.clock.now()
        intent = AuditIntent(
            id=uuid7(books.clock),
            event_id=uuid7(books.clock),
            occurred_at=moment,
            action=f"{request.operation.value}.refuse",
            resource_affected=request.subject,
            outcome=ActionOutcome.DENIED,
            tenant_id=context.tenant_id,
            key_id=context.key_id,
            details={"code": error.code, "request_id": request_id},
        )
        async with books.unit_of_work():
            await books.outbox.add(intent)
            await books.health.update_health(context.tenant_id, kind=policy.refusal_kind(error), latency_ms=0)
            if is_own_turn:  # a turn that we chose says nothing of how its tenant behaves
                await books.fair_use.count_refusal(context.tenant_id, code=error.code)
        self.log_soon()

    def log_soon(self) -> None:
        """Let the outbox be emptied into the log in a moment, without making the client wait.

        What gathers until then goes in as one group: its signature and files cost as much as those of one.
        Only the outbox is read, for an intent has one way into the log.
        """
        if self._books.audit is not None and not self._is_logging_due:
            self._is_logging_due = True
            self.in_background(asyncio.create_task(self._empty_outbox(self._books.audit)))

    async def _empty_outbox(self, audit: AuditTrail) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GROUP_SECONDS):
                await self._is_urgent.wait()
        self._is_logging_due = False
        try:
            await audit.recover()
        except BitNetServiceError as error:
            _log.error("audit_append_failed", code=error.code, reason=error.message)
