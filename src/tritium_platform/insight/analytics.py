"""What a tenant uses, by time and by what; how it grows, how fast it was answered, where its month goes."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from tritium_platform.errors import ValidationError
from tritium_platform.insight.health import OutcomeKind, hour_of, percentile_latency_ms
from tritium_platform.insight.month_end import MonthEnd, project_month
from tritium_platform.insight.score import parts_per_million
from tritium_platform.metering.model import Meter, UsageTotal
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from fractions import Fraction
    from uuid import UUID

    from tritium_platform.insight.health import OutcomeCount
    from tritium_platform.values import Clock

WEEK = timedelta(days=7)
HISTORY = timedelta(weeks=10)
TOP = 5
MOST_POINTS = 10_000
PERCENTILES = (50, 95, 99)
TOKENS = (Meter.INPUT_TOKENS, Meter.OUTPUT_TOKENS, Meter.EMBEDDING_TOKENS)
MICRO = 1_000_000


class Step(StrEnum):
    """How long the parts of a series are."""

    HOUR = "hour"
    DAY = "day"


LONGEST: Mapping[Step, timedelta] = {Step.HOUR: timedelta(days=31), Step.DAY: timedelta(days=366)}


class Dimension(StrEnum):
    """By what uses are told apart."""

    MODEL = "model"
    STATUS = "status"
    OPERATION = "operation"
    KEY = "key"
    TIER = "tier"
    DEVICE = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsagePoint:
    """What was used in an hour, a day or a period from `start` on, of one model, key ... (`name`)."""

    start: datetime
    name: str
    uses: int
    meters: Mapping[Meter, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens read, written and embedded."""
        return sum(self.meters.get(meter, 0) for meter in TOKENS)


class UsageSeriesReader(Protocol):
    """Sums up a tenant's uses with start <= occurred_at < end."""

    async def series(
        self,
        tenant_id: UUID,
        *,
        start: datetime,
        end: datetime,
        step: Step,
        dimension: Dimension | None,
        limit: int,
        after: tuple[datetime, str] | None = None,
    ) -> Sequence[UsagePoint]:
        """Return what was used, if anything was, by time and name (bytewise), from behind `after` on."""

    async def top(
        self, tenant_id: UUID, *, start: datetime, end: datetime, dimension: Dimension, limit: int
    ) -> Sequence[UsagePoint]:
        """Return who or what had most uses in the period, most first; equals by name."""


class Outcomes(Protocol):
    """Knows how requests ended."""

    async def between(self, tenant_id: UUID, *, start: datetime, end: datetime) -> Sequence[OutcomeCount]:
        """Return the sums over all hours with start <= hour < end, by kind and latency."""


class PriceList(Protocol):
    """A price list, as far as it is of interest here."""

    @property
    def currency(self) -> str:
        """The currency of its prices."""


class ListPrices(Protocol):
    """Prices sums of uses."""

    async def prices_for(self, period: CalendarMonth) -> PriceList:
        """Return the list that prices a month."""

    async def list_price(self, totals: Sequence[UsageTotal], *, period: CalendarMonth) -> Fraction:
        """Return what sums of uses come to by the price list, without what is included, in minor units."""


@dataclass(frozen=True, slots=True)
class Growth:
    """A quantity of the last seven days beside that of the seven before."""

    this_week: int
    week_before: int

    @property
    def parts_per_million(self) -> int | None:
        """How much it grew; None after nothing."""
        share = parts_per_million(self.this_week, of=self.week_before)
        return None if share is None else share - MICRO


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSummary:
    """The last seven days of a tenant, up to the end of the running hour, and where its month is going.

    Attributes:
        outcomes: how many requests ended how. latency_ms: by percentile, the upper edge of its bucket; 0
        without an answer.
        month_end: by the price list.
    """

    as_of: datetime
    uses: Growth
    tokens: Growth
    outcomes: Mapping[OutcomeKind, int]
    latency_ms: Mapping[int, int]
    top_keys: Sequence[UsagePoint]
    top_models: Sequence[UsagePoint]
    month_end: MonthEnd


class AnalyticsService:
    """Answers what a tenant uses."""

    def __init__(
        self, *, series: UsageSeriesReader, outcomes: Outcomes, prices: ListPrices, clock: Clock
    ) -> None:
        self._series = series
        self._outcomes = outcomes
        self._prices = prices
        self._clock = clock

    async def series(
        self,
        tenant_id: UUID,
        *,
        start: datetime,
        end: datetime,
        step: Step,
        dimension: Dimension | None,
        limit: int,
        after: tuple[datetime, str] | None = None,
    ) -> Sequence[UsagePoint]:
        """Return a page of what was used by hour or day, split by one dimension or by none.

        Raises:
            ValidationError: the period is empty or longer than a series of that step may be.
        """
        if not timedelta(0) < end - start <= LONGEST[step]:
            raise ValidationError(
                f"A series by the {step.value} is of at most {LONGEST[step].days} days, and not empty.",
                field="end",
            )
        return await self._series.series(
            tenant_id, start=start, end=end, step=step, dimension=dimension, limit=limit, after=after
        )

    async def summarize(self, tenant_id: UUID) -> UsageSummary:
        """Return the last seven days, and where the month is going."""
        end = hour_of(self._clock.now()) + timedelta(hours=1)
        week, before = await self._total(tenant_id, end - WEEK), await self._total(tenant_id, end - 2 * WEEK)
        outcomes = await self._outcomes.between(tenant_id, start=end - WEEK, end=end)
        counts = Counter(dict.fromkeys(OutcomeKind, 0))
        for each in outcomes:
            counts[each.kind] += each.count
        keys, models = [
            await self._series.top(tenant_id, start=end - WEEK, end=end, dimension=dimension, limit=TOP)
            for dimension in (Dimension.KEY, Dimension.MODEL)
        ]
        return UsageSummary(
            as_of=end,
            uses=Growth(week.uses, before.uses),
            tokens=Growth(week.tokens, before.tokens),
            outcomes=counts,
            latency_ms={each: percentile_latency_ms(outcomes, percent=each) for each in PERCENTILES},
            top_keys=keys,
            top_models=models,
            month_end=await self._month_end(tenant_id),
        )

    async def _total(self, tenant_id: UUID, start: datetime) -> UsagePoint:
        """Return what was used in the seven days from a moment on."""
        uses, meters = 0, Counter[Meter]()
        for each in await self._series.series(
            tenant_id, start=start, end=start + WEEK, step=Step.DAY, dimension=None, limit=MOST_POINTS
        ):
            uses += each.uses
            meters.update(each.meters)
        return UsagePoint(start=start, name="", uses=uses, meters=meters)

    async def _month_end(self, tenant_id: UUID) -> MonthEnd:
        now = hour_of(self._clock.now())
        month = CalendarMonth.of(now)
        costs: Counter[datetime] = Counter()
        for each in await self._series.series(
            tenant_id,
            start=min(now - HISTORY, month.start),
            end=now,
            step=Step.HOUR,
            dimension=Dimension.TIER,
            limit=MOST_POINTS,
        ):
            totals = [UsageTotal(TenantTier(each.name), meter, count) for meter, count in each.meters.items()]
            # At this month's prices, whenever it was: what is to come costs them.
            exact = await self._prices.list_price(totals, period=month)
            costs[each.start] += round(exact * MICRO)
        currency = (await self._prices.prices_for(month)).currency
        return await asyncio.to_thread(project_month, costs, month=month, now=now, currency=currency)
