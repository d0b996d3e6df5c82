"""What a health score is made of: facts about a tenant that were recorded before a moment."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from tritium_platform.insight.health import OutcomeCount, OutcomeKind
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

WEEK = timedelta(days=7)
# An answer is promised within this time: an edge of the buckets in which latencies are counted.
PROMISED_BUCKET = 14
PROMISED_MS = 1 << PROMISED_BUCKET
# Facts are kept as JSON, which has no larger whole numbers; a quota beyond is none.
LARGEST_OF_JSON = 2**53 - 1
DECLINES_WINDOW, DISPUTES_WINDOW = timedelta(days=30), timedelta(days=90)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeekOfOutcomes:
    """How the requests of seven days ended; `in_time`: successes within the promised time."""

    success: int = 0
    failed: int = 0
    refused: int = 0
    rejected: int = 0
    in_time: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """What is overdue in a currency: how much, and for how many full days the oldest of it."""

    currency: str
    amount_minor: int
    days_overdue: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFacts:
    """All that a score is made of.

    Attributes:
        as_of: a full hour; nothing that was recorded from then on counts.
        week: the seven days before it. week_before: the seven before those.
        month_success: the successes of its month (that of the last hour before it).
        month_ceiling: the quota of that month; None while nothing was reserved in it.
        last_success: the last hour in which a request succeeded.
        overdue: by currency, without what is not due.
        declined_attempts: attempts to be paid that were declined in 30 days.
        disputes_opened: in 90 days.
    """

    tenant_id: UUID
    as_of: datetime
    week: WeekOfOutcomes
    week_before: WeekOfOutcomes
    month_success: int
    month_ceiling: int | None
    last_success: datetime | None
    overdue: tuple[Overdue, ...]
    declined_attempts: int
    disputes_opened: int

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON."""
        last = None if self.last_success is None else _spelled(self.last_success)
        body = asdict(self) | {"tenant_id": str(self.tenant_id), "as_of": _spelled(self.as_of)}
        return body | {"last_success": last, "overdue": [asdict(each) for each in self.overdue]}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> HealthFacts:
        """Read what `to_dict` wrote."""
        last = body["last_success"]
        read = {
            "tenant_id": UUID(body["tenant_id"]),
            "as_of": datetime.fromisoformat(body["as_of"]),
            "week": WeekOfOutcomes(**body["week"]),
            "week_before": WeekOfOutcomes(**body["week_before"]),
            "last_success": None if last is None else datetime.fromisoformat(last),
            "overdue": tuple(Overdue(**each) for each in body["overdue"]),
        }
        return cls(**{**body, **read})


def _spelled(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


@dataclass(frozen=True, slots=True, kw_only=True)
class Receivable:
    """What an invoice made a tenant owe when it was finalized, and when that is due."""

    currency: str
    due_at: datetime
    amount_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyFacts:
    """What was recorded about a tenant's money before a moment.

    Attributes:
        owed: by currency, the balance of the journal's receivable.
        receivables: of invoices that were neither void nor written off by then.
        declined_attempts: those that were declined in the 30 days before. disputes_opened: in the 90 days.
    """

    owed: Mapping[str, int]
    receivables: Sequence[Receivable]
    declined_attempts: int
    disputes_opened: int


class FactsReader(Protocol):
    """Reads what was recorded about a tenant; every end is exclusive."""

    async def outcomes(self, tenant_id: UUID, *, start: datetime, end: datetime) -> Sequence[OutcomeCount]:
        """Return the sums of the outcomes in a period of full hours, by kind and latency."""

    async def last_success(self, tenant_id: UUID, *, before: datetime) -> datetime | None:
        """Return the last hour with a success before a moment."""

    async def request_ceiling(self, tenant_id: UUID, *, period: str) -> int | None:
        """Return the quota of requests of a month; None while nothing was reserved in it."""

    async def money(self, tenant_id: UUID, *, before: datetime) -> MoneyFacts:
        """Return what was recorded about money before a moment."""


async def gather_facts(reader: FactsReader, tenant_id: UUID, *, as_of: datetime) -> HealthFacts:
    """Read the facts of a tenant at a full hour."""
    month = CalendarMonth.of(as_of - timedelta(hours=1))
    money = await reader.money(tenant_id, before=as_of)
    ceiling = await reader.request_ceiling(tenant_id, period=str(month))
    this_month = await reader.outcomes(tenant_id, start=month.start, end=as_of)
    return HealthFacts(
        tenant_id=tenant_id,
        as_of=as_of,
        week=week_of(await reader.outcomes(tenant_id, start=as_of - WEEK, end=as_of)),
        week_before=week_of(await reader.outcomes(tenant_id, start=as_of - 2 * WEEK, end=as_of - WEEK)),
        month_success=week_of(this_month).success,
        month_ceiling=None if ceiling is None else min(ceiling, LARGEST_OF_JSON),
        last_success=await reader.last_success(tenant_id, before=as_of),
        overdue=overdue_of(money, as_of=as_of),
        declined_attempts=money.declined_attempts,
        disputes_opened=money.disputes_opened,
    )


def week_of(outcomes: Iterable[OutcomeCount]) -> WeekOfOutcomes:
    """Sum outcomes up."""
    sums: Counter[str] = Counter()
    for each in outcomes:
        sums[each.kind.value] += each.count
        if each.kind is OutcomeKind.SUCCESS and each.latency_bucket <= PROMISED_BUCKET:
            sums["in_time"] += each.count
    return WeekOfOutcomes(**sums)


def overdue_of(money: MoneyFacts, *, as_of: datetime) -> tuple[Overdue, ...]:
    """Return what is overdue per currency; what was paid counts against what was due first.

    So what is owed is the part of the receivables that is due last; of it, what is not due yet is left out.
    """
    found = []
    for currency, owed in sorted(money.owed.items()):
        amount, oldest, left = 0, as_of, owed
        mine = [each for each in money.receivables if each.currency == currency]
        for each in sorted(mine, key=lambda each: each.due_at, reverse=True):
            part = min(each.amount_minor, left)
            if part <= 0:
                break
            left -= part
            if each.due_at < as_of:
                amount, oldest = amount + part, each.due_at
        if amount:
            found.append(Overdue(currency=currency, amount_minor=amount, days_overdue=(as_of - oldest).days))
    return tuple(found)
