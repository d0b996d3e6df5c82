"""What a month will have cost at its end: what was spent, and what is foreseen of the hours that are left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium_platform.insight.forecast import forecast_load
from tritium_platform.insight.series import HOUR, build_series

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from tritium_platform.values import CalendarMonth


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthEnd:
    """Where a month's spending is going, in millionths of a minor unit.

    Attributes:
        spent_micro: in the full hours of the month until now.
        expected_micro: at its end (P50); None with less than a day of history.
        forecaster: whose forecast that is. reason: why that one; its errors were tried over a day only.
    """

    period: CalendarMonth
    currency: str
    spent_micro: int
    expected_micro: int | None
    forecaster: str | None
    reason: str


def project_month(
    costs: Mapping[datetime, int], *, month: CalendarMonth, now: datetime, currency: str
) -> MonthEnd:
    """Project a month's spending from what full hours before `now` (a full hour) cost, in millionths."""
    spent = sum(cost for hour, cost in costs.items() if month.start <= hour < now)
    load = forecast_load(build_series(costs, end=now), horizon=(month.end - now) // HOUR)
    return MonthEnd(
        period=month,
        currency=currency,
        spent_micro=spent,
        expected_micro=None if load.published is None else spent + round(sum(load.expected)),
        forecaster=load.published,
        reason=load.reason,
    )
