"""Keeps a forecast of the next 24 hours for each model and tier, made anew every hour from recorded usage."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from tritium_platform.insight.forecast import forecast_load
from tritium_platform.insight.series import build_series

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from tritium_platform.insight.forecast import LoadForecast
    from tritium_platform.metering.model import TokenCount
    from tritium_platform.tenancy.model import TenantTier
    from tritium_platform.values import Clock

HISTORY = timedelta(weeks=10)
# A forecast takes a good part of a second: the busiest series have one.
MOST_SERIES = 50
MILLISECONDS_OF_HOUR = 3_600_000


class TokenSource(Protocol):
    """Knows how many tokens were used when."""

    async def hourly_tokens(self, *, start: datetime, end: datetime) -> Sequence[TokenCount]:
        """Return tokens per tier, model and hour of uses with start <= occurred_at < end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelForecast:
    """The forecast of one model at one tier, in tokens.

    `tokens_per_replica` are those that one engine was measured to do in an hour of nothing but work.
    """

    tier: TenantTier
    model: str
    forecast: LoadForecast
    tokens_per_replica: float


class PredictionService:
    """Makes forecasts of the load and keeps the newest."""

    def __init__(self, *, tokens: TokenSource, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock
        self._latest: Sequence[ModelForecast] = ()
        self._made_for: datetime | None = None
        self._making = asyncio.Lock()

    @property
    def latest(self) -> Sequence[ModelForecast]:
        """The newest forecasts, the busiest series first; none before the first `refresh`."""
        return self._latest

    async def refresh(self) -> Sequence[ModelForecast]:
        """Make the forecasts of this hour unless they are made; run it every few minutes."""
        async with self._making:
            hour = self._clock.now().replace(minute=0, second=0, microsecond=0)
            if hour != self._made_for:
                counts = await self._tokens.hourly_tokens(start=hour - HISTORY, end=hour)
                made = []
                for (tier, model), own in busiest(counts)[:MOST_SERIES]:
                    # One after the other, and not in the loop: requests go first.
                    one = await asyncio.to_thread(forecast_model, own, tier=tier, model=model, end=hour)
                    made.append(one)
                self._latest, self._made_for = made, hour
            return self._latest


def busiest(counts: Iterable[TokenCount]) -> list[tuple[tuple[TenantTier, str], list[TokenCount]]]:
    """Return the counts of each tier and model, those of most tokens first."""
    by_series: dict[tuple[TenantTier, str], list[TokenCount]] = defaultdict(list)
    for count in counts:
        by_series[count.tier, count.model].append(count)
    return sorted(by_series.items(), key=lambda item: (-sum(each.tokens for each in item[1]), item[0]))


def forecast_model(
    counts: Sequence[TokenCount], *, tier: TenantTier, model: str, end: datetime
) -> ModelForecast:
    """Forecast one model at one tier; there is at least one count, of an hour before `end`."""
    series = build_series({count.hour: count.tokens for count in counts}, end=end)
    work = sum(count.compute_ms for count in counts)
    return ModelForecast(
        tier=tier,
        model=model,
        forecast=forecast_load(series),
        tokens_per_replica=sum(count.tokens for count in counts) * MILLISECONDS_OF_HOUR / work
        if work
        else 0.0,
    )
