"""Fair use: what a tenant used beside its fair share, and what follows from it, by rule and with the reason.

Three rules, each a number beside the share that is the tenant's own:

- compute: what its work took of the time the engines worked, beside its weighted max-min share of it. Only
  what others had to be refused for makes anybody's share smaller than what it used;
- requests: how many were refused because they came too fast, beside as many as its rate admits;
- quota: how often it asked after its month was spent, beside one attempt a minute.

Whoever stays within every share is left alone. Beyond one by more than a quarter comes a notice; a quarter of
an hour after it, if that goes on, the limits are cut for an hour; after two such hours within a day, and four
times beyond, comes a suspension. Each has an end, and what an operator has lifted counts no more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING

from tritium_platform.quotas.fairshare import Claim, fill
from tritium_platform.tenancy.model import TIER_WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.tenancy.model import TenantTier, TierLimits

WINDOW = timedelta(minutes=15)
NOTICE_BEYOND = Fraction(5, 4)
GRACE = timedelta(minutes=15)
LOOK_BACK = timedelta(hours=24)
SUSPEND_BEYOND = 4
THROTTLES_BEFORE_SUSPENSION = 2
THROTTLED_PART = 4
# Refusals for want of room: somebody wanted more than there was. The codes of the errors.
OF_CAPACITY = frozenset({"overloaded", "engine_unavailable", "queue_full", "insufficient_memory"})
OF_RATE = frozenset({"rate_limit_exceeded", "fair_use_suspended"})
OF_QUOTA = "quota_exceeded"


class FairUseRule(StrEnum):
    """Which share was exceeded."""

    COMPUTE = "compute"
    REQUESTS = "requests"
    QUOTA = "quota"


class FairUseAction(StrEnum):
    """What is done, from the mildest to the strongest."""

    NOTICE = "notice"
    THROTTLE = "throttle"
    SUSPEND = "suspend"

    @property
    def severity(self) -> int:
        """1 for the mildest, and so on."""
        return list(FairUseAction).index(self) + 1


LASTS: Mapping[FairUseAction, timedelta] = {
    FairUseAction.NOTICE: LOOK_BACK,
    FairUseAction.THROTTLE: timedelta(hours=1),
    FairUseAction.SUSPEND: timedelta(hours=1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantFacts:
    """What is recorded of a tenant over `WINDOW`: uses, their compute time, refusals by error code."""

    tenant_id: UUID
    tier: TenantTier
    limits: TierLimits
    requests: int
    compute_ms: int
    refusals: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class FairUseReading:
    """What a tenant used of one thing beside its share of it; `explanation` is one sentence for a human."""

    tenant_id: UUID
    rule: FairUseRule
    used: int
    share: Fraction
    explanation: str

    @property
    def is_beyond(self) -> bool:
        """Whether it is so far beyond its share that something follows."""
        return self.used > self.share * NOTICE_BEYOND


@dataclass(frozen=True, slots=True, kw_only=True)
class FairUseMeasure:
    """Something that was done about a tenant's use, with the numbers that it was done for.

    Attributes:
        is_dry_run: it was only written down.
        lifted_at, lifted_because: when and why an operator has taken it back.
    """

    id: UUID
    tenant_id: UUID
    rule: FairUseRule
    action: FairUseAction
    reason: str
    used: int
    share: Fraction
    starts_at: datetime
    ends_at: datetime
    is_dry_run: bool
    lifted_at: datetime | None = None
    lifted_because: str | None = None

    def is_in_force(self, now: datetime) -> bool:
        """Whether it holds at an instant, were it not a dry run."""
        return self.lifted_at is None and self.starts_at <= now < self.ends_at


def read_facts(facts: Iterable[TenantFacts]) -> list[FairUseReading]:
    """Put what every tenant used beside its shares; sorted by tenant."""
    everybody = sorted(facts, key=lambda each: each.tenant_id)
    minutes = WINDOW // timedelta(minutes=1)
    readings = _compute(everybody)
    for each in everybody:
        refused = sum(each.refusals.get(code, 0) for code in OF_RATE)
        admitted = max(1, each.limits.requests_per_minute) * minutes
        over_quota = each.refusals.get(OF_QUOTA, 0)
        readings += [
            FairUseReading(
                tenant_id=each.tenant_id,
                rule=FairUseRule.REQUESTS,
                used=refused,
                share=Fraction(admitted),
                explanation=(
                    f"{refused} requests in {minutes} minutes were refused because they came too fast, and "
                    f"{each.requests} were done; the rate admits {admitted}."
                ),
            ),
            FairUseReading(
                tenant_id=each.tenant_id,
                rule=FairUseRule.QUOTA,
                used=over_quota,
                share=Fraction(minutes),
                explanation=(
                    f"{over_quota} requests in {minutes} minutes after the month's quota was spent; one a "
                    "minute is passed over."
                ),
            ),
        ]
    return sorted(readings, key=lambda reading: (reading.tenant_id, reading.rule))


def _compute(everybody: Sequence[TenantFacts]) -> list[FairUseReading]:
    """Share out the compute time that was given among those who used it or were refused for want of room."""
    total = sum(each.compute_ms for each in everybody)
    mean = Fraction(total, max(1, sum(each.requests for each in everybody)))
    wanting = [sum(each.refusals.get(code, 0) for code in OF_CAPACITY) for each in everybody]
    claims = [
        Claim(weight=TIER_WEIGHTS[each.tier], demand=each.compute_ms + int(mean * refused))
        for each, refused in zip(everybody, wanting, strict=True)
    ]
    shares = fill(claims, capacity=total)
    minutes = WINDOW // timedelta(minutes=1)
    return [
        FairUseReading(
            tenant_id=each.tenant_id,
            rule=FairUseRule.COMPUTE,
            used=each.compute_ms,
            share=share.amount,
            explanation=(
                f"{each.compute_ms} ms of {total} ms of work in {minutes} minutes, while "
                f"{sum(wanting) - refused} requests of others were refused for want of room; its share by "
                f"weight {TIER_WEIGHTS[each.tier]} is {int(share.amount)} ms."
            ),
        )
        for each, share, refused in zip(everybody, shares, wanting, strict=True)
    ]


def due_action(
    reading: FairUseReading, *, past: Iterable[FairUseMeasure], now: datetime
) -> FairUseAction | None:
    """Decide what a reading calls for; None within the share.

    Args:
        reading: what was used and what the share is.
        past: what was done before about this tenant, by any rule; what was lifted does not count.
        now: the instant.
    """
    if not reading.is_beyond:
        return None
    done = [
        measure
        for measure in past
        if measure.rule is reading.rule and measure.lifted_at is None and now - measure.starts_at <= LOOK_BACK
    ]
    is_warned = any(now - measure.starts_at >= GRACE for measure in done)
    throttles = sum(measure.action is FairUseAction.THROTTLE and measure.ends_at <= now for measure in done)
    if throttles >= THROTTLES_BEFORE_SUSPENSION and reading.used > reading.share * SUSPEND_BEYOND:
        return FairUseAction.SUSPEND
    return FairUseAction.THROTTLE if is_warned else FairUseAction.NOTICE


def strongest(measures: Iterable[FairUseMeasure], *, now: datetime) -> FairUseMeasure | None:
    """Return the strongest measure in force, of equal ones the one that lasts longest; None without any."""
    return max(
        (measure for measure in measures if measure.is_in_force(now)),
        key=lambda measure: (measure.action.severity, measure.ends_at, measure.id),
        default=None,
    )


def throttled(limits: TierLimits) -> TierLimits:
    """Return a quarter of the rates and of the requests at one time, at least one; the rest stays."""
    return replace(
        limits,
        requests_per_minute=max(1, limits.requests_per_minute // THROTTLED_PART),
        tokens_per_minute=max(1, limits.tokens_per_minute // THROTTLED_PART),
        max_concurrent_requests=max(1, limits.max_concurrent_requests // THROTTLED_PART),
    )
