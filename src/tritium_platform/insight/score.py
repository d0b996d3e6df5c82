"""What a customer's health score means: how recorded facts become a number from 0 to 100.

Everything is a whole number, so the same facts give the same bytes on any machine. `docs/health.md` says the
same in words. A definition is never changed: another one gets the next version, and scores that are kept name
theirs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import rfc8785

from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from tritium_platform.insight.facts import HealthFacts

NEWEST = 1
FULL = 1000
HUNDRED = 100
HEALTHY_FROM, WATCHED_FROM = 80, 50


class Grade(StrEnum):
    """What a score asks the operator to do: nothing, to look, to call."""

    HEALTHY = "healthy"
    WATCH = "watch"
    AT_RISK = "at_risk"


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a definition: a figure of the facts, worth all at `good`, nothing at `bad`, linear between.

    Attributes:
        name: what `figures_of` calls it.
        unit: `ppm` (parts per million), `hours`, `days` or `count`.
        weight: of 100.
        bad: the figure that is worth nothing. good: the one that is worth all; either may be the larger.
    """

    name: str
    unit: str
    weight: int
    bad: int
    good: int

    def value(self, figure: int) -> int:
        """Return what a figure is worth, 0 to 1000, rounded down."""
        return max(0, min(FULL, (figure - self.bad) * FULL // (self.good - self.bad)))


DEFINITIONS: Mapping[int, tuple[Component, ...]] = {
    1: (
        Component("success", "ppm", weight=25, bad=950_000, good=999_000),
        Component("latency", "ppm", weight=10, bad=500_000, good=950_000),
        Component("admission", "ppm", weight=15, bad=800_000, good=1_000_000),
        Component("quota", "ppm", weight=10, bad=1_000_000, good=800_000),
        Component("trend", "ppm", weight=15, bad=500_000, good=1_000_000),
        Component("activity", "hours", weight=5, bad=336, good=48),
        Component("overdue", "days", weight=10, bad=30, good=0),
        Component("declines", "count", weight=5, bad=3, good=0),
        Component("disputes", "count", weight=5, bad=1, good=0),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredComponent:
    """A component with its figure; `figure` and `value` are None where the facts say nothing about it."""

    name: str
    unit: str
    weight: int
    figure: int | None
    value: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthScore:
    """A tenant's health at a moment.

    Attributes:
        definition: which version of it.
        score: 0 to 100; None for a tenant that was never answered.
        components: in the order of the definition. facts: all that was looked at.
    """

    tenant_id: UUID
    definition: int
    score: int | None
    components: tuple[ScoredComponent, ...]
    facts: HealthFacts

    @property
    def grade(self) -> Grade | None:
        """What the score asks for; None without one."""
        if self.score is None:
            return None
        if self.score >= HEALTHY_FROM:
            return Grade.HEALTHY
        return Grade.WATCH if self.score >= WATCHED_FROM else Grade.AT_RISK

    @property
    def weakest(self) -> ScoredComponent | None:
        """The component that costs most points; None if none costs any."""
        costly = [each for each in self.components if each.value is not None and each.value < FULL]
        return max(costly, key=lambda each: each.weight * (FULL - (each.value or 0)), default=None)

    @property
    def sha256(self) -> str:
        """The digest of `body`, in hex."""
        return hashlib.sha256(self.body()).hexdigest()

    def body(self) -> bytes:
        """Return the score with everything that it follows from, as canonical JSON (RFC 8785)."""
        return rfc8785.dumps(
            {
                "tenant_id": str(self.tenant_id),
                "definition": self.definition,
                "score": self.score,
                "components": [
                    {
                        "name": each.name,
                        "unit": each.unit,
                        "weight": each.weight,
                        "figure": each.figure,
                        "value": each.value,
                    }
                    for each in self.components
                ],
                "facts": self.facts.to_dict(),
            }
        )


def score_health(facts: HealthFacts, *, definition: int = NEWEST) -> HealthScore:
    """Score a tenant's facts by a version of the definition; ValidationError for a version there is not.

    What the facts say nothing about counts neither for nor against: the other weights share its part.
    """
    if definition not in DEFINITIONS:
        raise ValidationError(f"There is no version {definition} of the health score.", field="definition")
    figures = figures_of(facts)
    components = tuple(
        ScoredComponent(
            name=each.name,
            unit=each.unit,
            weight=each.weight,
            figure=figures[each.name],
            value=None if (figure := figures[each.name]) is None else each.value(figure),
        )
        for each in DEFINITIONS[definition]
    )
    known = [(each.weight, each.value) for each in components if each.value is not None]
    worth = HUNDRED * sum(weight * value for weight, value in known)
    weights = FULL * sum(weight for weight, _ in known)
    return HealthScore(
        tenant_id=facts.tenant_id,
        definition=definition,
        score=None if facts.last_success is None else (2 * worth + weights) // (2 * weights),
        components=components,
        facts=facts,
    )


def figures_of(facts: HealthFacts) -> dict[str, int | None]:
    """Return the figure of each component; None where the facts say nothing about it."""
    week = facts.week
    answered = week.success + week.failed
    ceiling, last = facts.month_ceiling, facts.last_success
    return {
        "success": parts_per_million(week.success, of=answered),
        "latency": parts_per_million(week.in_time, of=week.success),
        "admission": parts_per_million(answered, of=answered + week.refused),
        "quota": None if ceiling is None else parts_per_million(facts.month_success, of=ceiling),
        "trend": parts_per_million(week.success, of=facts.week_before.success),
        # An hour's answers were given somewhere in it: it counts as far back as its beginning.
        "activity": None if last is None else int((facts.as_of - last).total_seconds()) // 3600,
        "overdue": max((each.days_overdue for each in facts.overdue), default=0),
        "declines": facts.declined_attempts,
        "disputes": facts.disputes_opened,
    }


def parts_per_million(part: int, *, of: int) -> int | None:
    """Return a share in parts per million, rounded down; None of nothing."""
    return part * 1_000_000 // of if of else None
