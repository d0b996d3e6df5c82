"""What is answered about a customer's health and usage."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import BaseModel

from tritium_platform.api.spend_schemas import SpendCapOut, spend_cap_out
from tritium_platform.values import Money

if TYPE_CHECKING:
    from tritium_platform.insight.analytics import Growth, UsagePoint, UsageSummary
    from tritium_platform.insight.month_end import MonthEnd
    from tritium_platform.insight.score import HealthScore
    from tritium_platform.insight.scores import KeptScore
    from tritium_platform.quotas.spend_cap import SpendStatus

MICRO = 1_000_000


class HealthComponentOut(BaseModel):
    """One part of a score: its weight of 100, the figure it is made of, and what that is worth (0 to 1000).

    `figure` and `value` are null where nothing was recorded that says something about it.
    """

    name: str
    unit: str
    weight: int
    figure: int | None
    value: int | None


class WeekOut(BaseModel):
    """How the requests of seven days ended; `in_time`: successes within the promised time."""

    success: int
    failed: int
    refused: int
    rejected: int
    in_time: int


class OverdueOut(BaseModel):
    """What is overdue in a currency, and for how many days the oldest of it."""

    currency: str
    amount_minor: int
    days_overdue: int


class HealthFactsOut(BaseModel):
    """What a score was made of: everything that was recorded before `as_of`."""

    as_of: datetime
    week: WeekOut
    week_before: WeekOut
    month_success: int
    month_ceiling: int | None
    last_success: datetime | None
    overdue: list[OverdueOut]
    declined_attempts: int
    disputes_opened: int


class HealthOut(BaseModel):
    """The tenant's health, 0 to 100, and all that it follows from (docs/health.md).

    `score` and `grade` are null for who was never answered. `sha256` is the digest of the score's canonical
    JSON: the same facts give the same digest.
    """

    tenant_id: UUID
    definition: int
    score: int | None
    grade: str | None
    components: list[HealthComponentOut]
    facts: HealthFactsOut
    sha256: str


class CustomerOut(BaseModel):
    """A tenant, its health at this hour, and the component that costs it most points."""

    tenant_id: UUID
    organization_name: str
    score: int | None
    grade: str | None
    weakest: str | None


class CustomersOut(BaseModel):
    """A page of all tenants, oldest first."""

    customers: list[CustomerOut]
    next_after: UUID | None


class KeptScoreOut(BaseModel):
    """A score that was kept."""

    as_of: datetime
    definition: int
    score: int | None


class KeptScoresOut(BaseModel):
    """A page of kept scores, newest first; give `next_before` to see older ones."""

    scores: list[KeptScoreOut]
    next_before: datetime | None


class UsagePointOut(BaseModel):
    """What was used from `start` on, of one model, status, key ... (`name`); other meters count 0."""

    start: datetime
    name: str
    uses: int
    meters: dict[str, int]


class UsageSeriesOut(BaseModel):
    """A page of a series; give `next_after` to go on."""

    points: list[UsagePointOut]
    next_after: str | None


class GrowthOut(BaseModel):
    """Seven days beside the seven before; the growth in parts per million, null after nothing."""

    this_week: int
    week_before: int
    growth_ppm: int | None


class MonthEndOut(BaseModel):
    """Where the month's spending goes by the price list, without included units, discounts and taxes.

    `expected_minor` is as likely exceeded as not; null with less than a day of history. `cap_share_ppm` is
    the share of the cap that it comes to, null without a cap in that currency.
    """

    period: str
    currency: str
    spent_minor: int
    expected_minor: int | None
    expected: str | None
    forecaster: str | None
    reason: str
    cap_share_ppm: int | None


class UsageSummaryOut(BaseModel):
    """The seven days up to the end of the running hour."""

    as_of: datetime
    uses: GrowthOut
    tokens: GrowthOut
    outcomes: dict[str, int]
    latency_ms: dict[str, int]
    top_keys: list[UsagePointOut]
    top_models: list[UsagePointOut]
    month_end: MonthEndOut
    spend_cap: SpendCapOut | None


def health_out(score: HealthScore) -> HealthOut:
    """Spell a score as JSON."""
    return HealthOut(
        tenant_id=score.tenant_id,
        definition=score.definition,
        score=score.score,
        grade=score.grade.value if score.grade else None,
        components=[HealthComponentOut(**asdict(each)) for each in score.components],
        facts=HealthFactsOut(**score.facts.to_dict()),
        sha256=score.sha256,
    )


def kept_out(kept: KeptScore) -> KeptScoreOut:
    """Spell a kept score as JSON."""
    return KeptScoreOut(as_of=kept.as_of, definition=kept.definition, score=kept.score)


def point_out(point: UsagePoint) -> UsagePointOut:
    """Spell a point of a series as JSON."""
    meters = {meter.value: count for meter, count in point.meters.items()}
    return UsagePointOut(start=point.start, name=point.name, uses=point.uses, meters=meters)


def summary_out(summary: UsageSummary, *, spend: SpendStatus | None) -> UsageSummaryOut:
    """Spell a summary as JSON, beside the tenant's spend cap if it has one."""
    return UsageSummaryOut(
        as_of=summary.as_of,
        uses=_growth_out(summary.uses),
        tokens=_growth_out(summary.tokens),
        outcomes={kind.value: count for kind, count in summary.outcomes.items()},
        latency_ms={f"p{percent}": value for percent, value in summary.latency_ms.items()},
        top_keys=[point_out(each) for each in summary.top_keys],
        top_models=[point_out(each) for each in summary.top_models],
        month_end=_month_end_out(summary.month_end, spend=spend),
        spend_cap=spend_cap_out(spend) if spend else None,
    )


def _growth_out(growth: Growth) -> GrowthOut:
    return GrowthOut(
        this_week=growth.this_week, week_before=growth.week_before, growth_ppm=growth.parts_per_million
    )


def _month_end_out(month: MonthEnd, *, spend: SpendStatus | None) -> MonthEndOut:
    expected = None if month.expected_micro is None else round(month.expected_micro / MICRO)
    is_comparable = spend is not None and spend.cap.currency == month.currency
    return MonthEndOut(
        period=str(month.period),
        currency=month.currency,
        spent_minor=-(-month.spent_micro // MICRO),  # rounded up, as caps count
        expected_minor=expected,
        expected=None if expected is None else str(Money(expected, month.currency)),
        forecaster=month.forecaster,
        reason=month.reason,
        cap_share_ppm=month.expected_micro // spend.cap.amount_minor
        if spend is not None and is_comparable and month.expected_micro is not None
        else None,
    )
