"""The one road from a customer's request to a line in the books.

process_customer_request: authenticate, gate by tier, reserve, dispatch, settle, price, audit, update health.
It sequences; every decision is made in a room below.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar
from uuid import UUID

import structlog

from tritium_platform import spans
from tritium_platform.audit.model import ActionOutcome, AuditIntent, ComplianceImpact, ResourceIdentifier
from tritium_platform.errors import BitNetServiceError
from tritium_platform.insight.health import latency_bucket
from tritium_platform.metering.model import UsageRecord
from tritium_platform.passage import Passage
from tritium_platform.quotas.spending import micro
from tritium_platform.resilience import Deadline, ResilientCaller, RetryBudget, RetryPolicy
from tritium_platform.serving import policy
from tritium_platform.serving.model import Outcome
from tritium_platform.settlement import Settlement
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from tritium_platform.audit.model import Detail
    from tritium_platform.audit.service import AuditService
    from tritium_platform.billing.invoicing import BillingService
    from tritium_platform.insight.health import HealthService
    from tritium_platform.metering.service import MeteringService
    from tritium_platform.passage import CustomerRequest, OnceOnly, Telemetry
    from tritium_platform.quotas.model import Admission, Reservation
    from tritium_platform.quotas.service import QuotaService
    from tritium_platform.resilience import RandomSource
    from tritium_platform.serving.model import Consumption
    from tritium_platform.settlement import SettlementJournal
    from tritium_platform.tenancy.model import Tenant, TenantContext
    from tritium_platform.tenancy.service import TenancyService
    from tritium_platform.values import Clock, UnitOfWork

_log = structlog.get_logger(__name__)
Piece = TypeVar("Piece")
Result = TypeVar("Result")
SOURCE = "gateway"
GROUP_SECONDS = 1.0
# A database that starts anew or hands over to its twin is back within this time.
SETTLEMENT_SECONDS = 30.0
SETTLEMENT = RetryPolicy(max_attempts=10, base_delay=0.2, max_delay=5.0, attempt_seconds=SETTLEMENT_SECONDS)
MOST_SETTLEMENT_RETRIES = 10_000


class Outbox(Protocol):
    """Keeps audit intents in the transaction of the change they report."""

    async def add(self, intent: AuditIntent) -> None:
        """Keep an intent."""


class FairUse(Protocol):
    """Knows who used more than its share, and what follows from it."""

    def apply(self, context: TenantContext) -> TenantContext:
        """Return what a caller may do now; FairUseSuspendedError if nothing."""

    async def count_refusal(self, tenant_id: UUID, *, code: str) -> None:
        """Write down that a request was refused."""


class Spending(Protocol):
    """Holds tenants to what they may spend in a month."""

    def is_capped(self, tenant_id: UUID) -> bool:
        """Tell whether a tenant has a cap."""

    async def hold(self, context: TenantContext, *, amounts: Sequence[int]) -> list[Reservation]:
        """Reserve the most that requests can cost; SpendCapReachedError if the cap does not leave that."""

    async def settle(self, reservation: Reservation, *, amount: int) -> None:
        """Turn what was reserved into what it cost."""

    async def void(self, reservation: Reservation) -> None:
        """Give back what was reserved."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What the audit log says of a change: `noun.verb`, the thing, whose it is, and who asked."""

    action: str
    resource: ResourceIdentifier
    tenant_id: UUID | None = None
    key_id: str | None = None
    details: Mapping[str, Detail] = field(default_factory=dict)


def tenant_changed(action: str, tenant: Tenant) -> Change:
    """Say what happened to a tenant."""
    return Change(
        action=action,
        resource=ResourceIdentifier("tenant", str(tenant.id)),
        tenant_id=tenant.id,
        details={"tier": tenant.tier.value, "status": tenant.status.value},
    )


def key_changed(action: str, *, key_id: str, tenant_id: UUID) -> Change:
    """Say what happened to an API key."""
    return Change(action=action, resource=ResourceIdentifier("api_key", key_id), tenant_id=tenant_id)


@dataclass(frozen=True, kw_only=True)
class Books:
    """Where the gateway writes down what happened.

    `audit` is None in a process that does not own the audit log: the owner empties the outbox. With a
    `journal` what happens once is settled through it, and taken from leases; without one everything is one
    transaction.
    """

    unit_of_work: UnitOfWork
    quotas: QuotaService
    fair_use: FairUse
    metering: MeteringService
    billing: BillingService
    outbox: Outbox
    audit: AuditService | None
    health: HealthService
    telemetry: Telemetry
    clock: Clock
    journal: SettlementJournal | None = None
    spending: Spending | None = None


class Gateway:
    """The one road in; `randomness` spreads its second attempts at the database."""

    def __init__(
        self, *, tenancy: TenancyService, books: Books, randomness: RandomSource | None = None
    ) -> None:
        self._tenancy = tenancy
        self._books = books
        # No breaker and a large budget: a settlement that is refused is a use that is lost, and while the
        # database is away nothing new is admitted, so that few wait.
        self._database = ResilientCaller(
            neighbour="writing the books",
            clock=books.clock,
            policy=SETTLEMENT,
            budget=RetryBudget(capacity=MOST_SETTLEMENT_RETRIES),
            randomness=randomness,
        )
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
    ) -> list[Passage[Piece]]:
        """Admit what one call asks for, all of it or nothing; as `process_customer_request` otherwise.

        `event_ids` are those of a call that may run twice: under each id, only the first use is counted.
        """
        with spans.step("authenticate"):
            context = await self._tenancy.authenticate_request(token)
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
                    await books.spending.void(each)
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
        """Return who is calling."""
        return await self._tenancy.authenticate_request(token)

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
        self._log_soon()
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
        """End a passage durably: reservation, usage record and audit intent in one; then the rest.

        What happens once goes through the journal. What may run twice is one transaction, whose unique keys
        decide whether it counts; a database that is away for a moment is waited for.
        """
        seconds = passage.seconds
        consumption = passage.request.consumed(outcome)
        record = self._record(passage, outcome=outcome, consumption=consumption)

        spans.work(passage, outcome=outcome, consumption=consumption, seconds=seconds, error=error)
        try:
            with spans.step("settle"):
                await self._end(passage, record=record, consumption=consumption, seconds=seconds, error=error)
        except Exception:
            _log.exception("usage_not_recorded", event_id=record.event_id, **asdict(record.quantities))
            raise
        finally:
            self._books.telemetry.finished(
                model=passage.request.model,
                tier=passage.context.tier.value,
                operation=passage.request.operation.value,
                outcome=outcome.value,
                seconds=seconds,
                first_seconds=passage.first_seconds,
                consumption=consumption,
            )
        self._log_soon()

    async def _end(
        self,
        passage: Passage[Piece],
        *,
        record: UsageRecord,
        consumption: Consumption,
        seconds: float,
        error: BaseException | None,
    ) -> None:
        journal = self._books.journal
        is_spooled = passage.once is None and not passage.may_run_twice and passage.spend is None
        if journal is None or not is_spooled:

            async def write(_: Deadline) -> None:  # may run twice: record, intent and end have one id
                await self._write(
                    passage, record=record, consumption=consumption, seconds=seconds, error=error
                )

            deadline = Deadline.after(self._books.clock, seconds=SETTLEMENT_SECONDS)
            await self._database.call(write, deadline=deadline)
            return
        is_counted = consumption.is_counted
        settlement = await self._settlement(
            passage, record=record, is_counted=is_counted, seconds=seconds, error=error
        )
        await journal.append(settlement)
        self._books.quotas.finish(
            passage.context, admission=passage.admission, tokens=consumption.tokens, is_counted=is_counted
        )

    async def _settlement(
        self,
        passage: Passage[Piece],
        *,
        record: UsageRecord,
        is_counted: bool,
        seconds: float,
        error: BaseException | None,
    ) -> Settlement:
        price = await self._books.billing.price(record, period=CalendarMonth.of(record.occurred_at))
        code = error.code if isinstance(error, BitNetServiceError) else None
        reservation = passage.admission.reservation
        whole = 1 if passage.admission.is_leased else reservation.amount
        return Settlement(
            record=record,
            intent=_intent(passage, record=record, cost=str(price.total), code=code),
            kind=policy.outcome_kind(Outcome(record.outcome), error=error),
            latency_bucket=latency_bucket(round(seconds * 1000)),
            reservation_id=reservation.id,
            is_leased=passage.admission.is_leased,
            requests=whole if is_counted else 0,
        )

    async def _write(
        self,
        passage: Passage[Piece],
        *,
        record: UsageRecord,
        consumption: Consumption,
        seconds: float,
        error: BaseException | None,
    ) -> None:
        code = error.code if isinstance(error, BitNetServiceError) else None
        books, context = self._books, passage.context
        cost = await books.billing.price(record, period=CalendarMonth.of(record.occurred_at))
        kind = policy.outcome_kind(Outcome(record.outcome), error=error)
        async with books.unit_of_work():
            record_use = books.metering.record_first if passage.may_run_twice else books.metering.record
            is_first = await record_use(record)
            if consumption.is_counted and (is_first or not passage.may_run_twice):
                await books.quotas.settle(context, admission=passage.admission, tokens=consumption.tokens)
            else:
                await books.quotas.void(context, admission=passage.admission)
            if books.spending is not None and passage.spend is not None:
                await books.spending.settle(passage.spend, amount=micro(cost.total) if is_first else 0)
            if passage.once is not None and record.outcome == Outcome.SUCCESS.value:
                await passage.once.keep()
            price = str(cost.total) if is_first else "0"
            with spans.step("audit"):
                await books.outbox.add(_intent(passage, record=record, cost=price, code=code))
            if is_first:  # else it ran before, or was written by an attempt whose commit was not answered
                milliseconds = round(seconds * 1000)
                await books.health.update_health(context.tenant_id, kind=kind, latency_ms=milliseconds)

    def _record(self, passage: Passage[Piece], *, outcome: Outcome, consumption: Consumption) -> UsageRecord:
        context, request = passage.context, passage.request
        return UsageRecord(
            id=uuid7(self._books.clock),
            tenant_id=context.tenant_id,
            source=SOURCE,
            event_id=passage.recorded_id(outcome, is_counted=consumption.is_counted).hex,
            operation=request.operation,
            tier=context.tier,
            outcome=outcome.value,
            occurred_at=self._books.clock.now(),
            quantities=consumption.quantities,
            resources=consumption.resources,
            model=request.model,
            key_id=context.key_id,
        )

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
        self._log_soon()

    def _log_soon(self) -> None:
        """Let the outbox be emptied into the log in a moment, without making the client wait.

        What gathers until then goes in as one group: its signature and files cost as much as those of one.
        Only the outbox is read, for an intent has one way into the log.
        """
        if self._books.audit is not None and not self._is_logging_due:
            self._is_logging_due = True
            self.in_background(asyncio.create_task(self._empty_outbox(self._books.audit)))

    async def _empty_outbox(self, audit: AuditService) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GROUP_SECONDS):
                await self._is_urgent.wait()
        self._is_logging_due = False
        try:
            await audit.recover()
        except BitNetServiceError as error:
            _log.error("audit_append_failed", code=error.code, reason=error.message)


def _intent(passage: Passage[Piece], *, record: UsageRecord, cost: str, code: str | None) -> AuditIntent:
    is_failed = record.outcome == Outcome.FAILED.value
    return AuditIntent(
        id=record.id,
        event_id=UUID(record.event_id),
        occurred_at=record.occurred_at,
        action=f"{record.operation.value}.{'fail' if is_failed else 'complete'}",
        resource_affected=passage.request.subject,
        outcome=ActionOutcome.FAILURE if is_failed else ActionOutcome.SUCCESS,
        tenant_id=record.tenant_id,
        key_id=record.key_id,
        details={
            "request_id": passage.request_id,
            "ended": record.outcome,
            "model": record.model,
            "input_tokens": record.quantities.input_tokens,
            "output_tokens": record.quantities.output_tokens,
            "embedding_tokens": record.quantities.embedding_tokens,
            "compute_ms": record.resources.compute_time_ms,
            "cost": cost,
            "code": code,
        },
    )
