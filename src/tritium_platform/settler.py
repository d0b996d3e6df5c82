"""Ends passages: reservation, usage record, price and audit intent, durably and once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from msgspec import structs

from tritium_platform import spans
from tritium_platform.errors import BitNetServiceError, InsufficientMemoryError, OverloadedError
from tritium_platform.insight.health import latency_bucket
from tritium_platform.metering.model import UsageRecord
from tritium_platform.quotas.spend_cap import micro
from tritium_platform.resilience import Deadline, ResilientCaller
from tritium_platform.retry import RetryBudget, RetryPolicy
from tritium_platform.serving import policy
from tritium_platform.serving.model import Outcome
from tritium_platform.settlement import Settlement
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from fractions import Fraction
    from uuid import UUID

    from tritium_platform.books import Books
    from tritium_platform.passage import Passage
    from tritium_platform.retry import RandomSource
    from tritium_platform.serving.model import Consumption

_log = structlog.get_logger(__name__)
SOURCE = "gateway"
# A database that starts anew or hands over to its twin is back within this time.
SETTLEMENT_SECONDS = 30.0
SETTLEMENT = RetryPolicy(max_attempts=10, base_delay=0.2, max_delay=5.0, attempt_seconds=SETTLEMENT_SECONDS)
MOST_SETTLEMENT_RETRIES = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class _End:
    """How a passage ended."""

    passage: Passage[Any]
    record: UsageRecord
    event_id: UUID
    consumption: Consumption
    seconds: float
    error: BaseException | None

    def settlement(self, *, cost: Fraction) -> Settlement:
        """Return what the books have to learn of it."""
        admission = self.passage.admission
        error, whole = self.error, 1 if admission.is_leased else admission.reservation.amount
        return Settlement(
            record=self.record,
            event_id=self.event_id,
            subject=self.passage.request.subject,
            request_id=self.passage.request_id,
            cost=str(cost),
            code=error.code if isinstance(error, BitNetServiceError) else None,
            kind=policy.outcome_kind(Outcome(self.record.outcome), error=error),
            latency_bucket=latency_bucket(round(self.seconds * 1000)),
            reservation_id=admission.reservation.id,
            is_leased=admission.is_leased,
            requests=whole if self.consumption.is_counted else 0,
        )


class Settler:
    """Writes into the books how passages end; `randomness` spreads its second attempts at the database."""

    def __init__(self, books: Books, *, randomness: RandomSource | None = None) -> None:
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

    async def settle(self, passage: Passage[Any], *, outcome: Outcome, error: BaseException | None) -> None:
        """End a passage durably: reservation, usage record and audit intent in one; then the rest.

        What happens once goes through the journal. What may run twice is one transaction, whose unique keys
        decide whether it counts; a database that is away for a moment is waited for.
        """
        seconds = passage.seconds
        consumption = passage.request.consumed(outcome)
        event_id = passage.recorded_id(outcome, is_counted=consumption.is_counted)
        record = self._record(passage, outcome=outcome, consumption=consumption, event_id=event_id)
        end = _End(
            passage=passage,
            record=record,
            event_id=event_id,
            consumption=consumption,
            seconds=seconds,
            error=error,
        )
        spans.work(passage, outcome=outcome, consumption=consumption, seconds=seconds, error=error)
        try:
            with spans.step("settle"):
                await self._keep(end)
        except Exception:
            quantities = structs.asdict(record.quantities)
            _log.exception("usage_not_recorded", event_id=record.event_id, **quantities)
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

    async def _keep(self, end: _End) -> None:
        passage, journal = end.passage, self._books.journal
        is_spooled = passage.once is None and not passage.may_run_twice and passage.spend is None
        if journal is None or not is_spooled:

            async def write(_: Deadline) -> None:  # may run twice: record, intent and end have one id
                try:
                    await self._write(end)
                except InsufficientMemoryError as error:  # it is as small as can be: only time helps
                    raise OverloadedError("There is no memory for the books at the moment.") from error

            deadline = Deadline.after(self._books.clock, seconds=SETTLEMENT_SECONDS)
            await self._database.call(write, deadline=deadline)
            return
        await journal.append(end.settlement(cost=await self._cost(end.record)))
        self._books.quotas.finish(
            passage.context,
            admission=passage.admission,
            tokens=end.consumption.tokens,
            is_counted=end.consumption.is_counted,
        )

    async def _cost(self, record: UsageRecord) -> Fraction:
        price = await self._books.billing.price(record, period=CalendarMonth.of(record.occurred_at))
        return price.total

    async def _write(self, end: _End) -> None:
        books, passage, record = self._books, end.passage, end.record
        context, consumption = passage.context, end.consumption
        cost = await self._cost(record)
        settlement = end.settlement(cost=cost)
        async with books.unit_of_work():
            record_use = books.metering.record_first if passage.may_run_twice else books.metering.record
            is_first = await record_use(record)
            if consumption.is_counted and (is_first or not passage.may_run_twice):
                await books.quotas.settle(context, admission=passage.admission, tokens=consumption.tokens)
            else:
                await books.quotas.void(context, admission=passage.admission)
            if books.spending is not None and passage.spend is not None:
                await books.spending.settle(passage.spend, amount=micro(cost) if is_first else 0)
            if passage.once is not None and record.outcome == Outcome.SUCCESS.value:
                await passage.once.keep()
            said = settlement if is_first else structs.replace(settlement, cost="0")
            with spans.step("audit"):
                await books.outbox.add(said.intent())
            if is_first:  # else it ran before, or was written by an attempt whose commit was not answered
                milliseconds = round(end.seconds * 1000)
                await books.health.update_health(
                    context.tenant_id, kind=settlement.kind, latency_ms=milliseconds
                )

    def _record(
        self, passage: Passage[Any], *, outcome: Outcome, consumption: Consumption, event_id: UUID
    ) -> UsageRecord:
        context, request, resources = passage.context, passage.request, consumption.resources
        if network_bytes := passage.network_bytes():
            resources = structs.replace(resources, network_bytes_transferred=network_bytes)
        return UsageRecord(
            id=uuid7(self._books.clock),
            tenant_id=context.tenant_id,
            source=SOURCE,
            event_id=event_id.hex,
            operation=request.operation,
            tier=context.tier,
            outcome=outcome.value,
            occurred_at=self._books.clock.now(),
            quantities=consumption.quantities,
            resources=resources,
            model=request.model,
            key_id=context.key_id,
        )
