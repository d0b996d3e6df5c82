"""Ends passages: reservation, usage record, price and audit intent, durably and once."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from tritium_platform import spans
from tritium_platform.audit.model import ActionOutcome, AuditIntent
from tritium_platform.errors import BitNetServiceError
from tritium_platform.insight.health import latency_bucket
from tritium_platform.metering.model import UsageRecord
from tritium_platform.quotas.spending import micro
from tritium_platform.resilience import Deadline, ResilientCaller, RetryBudget, RetryPolicy
from tritium_platform.serving import policy
from tritium_platform.serving.model import Outcome
from tritium_platform.settlement import Settlement
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from tritium_platform.books import Books
    from tritium_platform.passage import Passage
    from tritium_platform.resilience import RandomSource
    from tritium_platform.serving.model import Consumption

_log = structlog.get_logger(__name__)
SOURCE = "gateway"
# A database that starts anew or hands over to its twin is back within this time.
SETTLEMENT_SECONDS = 30.0
SETTLEMENT = RetryPolicy(max_attempts=10, base_delay=0.2, max_delay=5.0, attempt_seconds=SETTLEMENT_SECONDS)
MOST_SETTLEMENT_RETRIES = 10_000


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

    async def _end(
        self,
        passage: Passage[Any],
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
        passage: Passage[Any],
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
        passage: Passage[Any],
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

    def _record(self, passage: Passage[Any], *, outcome: Outcome, consumption: Consumption) -> UsageRecord:
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


def _intent(passage: Passage[Any], *, record: UsageRecord, cost: str, code: str | None) -> AuditIntent:
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
