"""Wires what the numbers say about customers: scores of their health, and analytics of their usage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.adapters.sql.facts_reader import SqlFactsReader
from tritium_platform.adapters.sql.health_store import SqlOutcomeStore
from tritium_platform.adapters.sql.score_store import SqlScoreStore
from tritium_platform.adapters.sql.usage_series import SqlUsageSeries
from tritium_platform.insight.analytics import AnalyticsService
from tritium_platform.insight.scores import ScoreService

if TYPE_CHECKING:
    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.insight.analytics import ListPrices
    from tritium_platform.insight.scores import Tenants
    from tritium_platform.values import Clock


def open_scores(database: Database, *, tenants: Tenants, clock: Clock) -> ScoreService:
    """Return what scores tenants."""
    return ScoreService(
        facts=SqlFactsReader(database), store=SqlScoreStore(database), tenants=tenants, clock=clock
    )


def open_analytics(database: Database, *, prices: ListPrices, clock: Clock) -> AnalyticsService:
    """Return what answers how tenants use the service."""
    return AnalyticsService(
        series=SqlUsageSeries(database), outcomes=SqlOutcomeStore(database), prices=prices, clock=clock
    )
