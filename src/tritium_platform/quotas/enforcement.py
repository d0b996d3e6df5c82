"""Carries out fair use: reads what is recorded, writes measures down and audits them, keeps the gate.

In the mode `dry_run` measures are written down and nothing follows from them; in `enforce` a throttled tenant
has lower limits and a suspended one is refused with the reason, the end and whom to ask.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import structlog

from tritium_platform.audit.model import ActionOutcome, AuditIntent, ComplianceImpact, ResourceIdentifier
from tritium_platform.errors import ConflictError, FairUseSuspendedError, NotFoundError
from tritium_platform.quotas.fairuse import (
    LASTS,
    LOOK_BACK,
    WINDOW,
    FairUseAction,
    FairUseMeasure,
    TenantFacts,
    due_action,
    read_facts,
    strongest,
    throttled,
)
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.audit.model import Detail
    from tritium_platform.metering.model import TenantActivity
    from tritium_platform.quotas.fairuse import FairUseReading
    from tritium_platform.tenancy.model import Tenant, TenantContext, TierLimits
    from tritium_platform.values import Clock, UnitOfWork

_log = structlog.get_logger(__name__)
SLOT = timedelta(minutes=1)
MOST_SHOWN = 1000


class FairUseMode(StrEnum):
    """What follows from the rules: nothing, an entry in the books, or the measure itself."""

    OFF = "off"
    DRY_RUN = "dry_run"
    ENFORCE = "enforce"


class FairUseStore(Protocol):
    """Keeps counts of refusals and the measures that were taken."""

    async def count_refusal(self, tenant_id: UUID, *, slot: datetime, code: str) -> None:
        """Add one refusal with an error's code to the slot of time that begins at `slot`."""

    async def refusals(self, *, since: datetime) -> Mapping[UUID, Mapping[str, int]]:
        """Return the sums by tenant and code over all slots that begin at `since` or later."""

    async def remove_refusals(self, *, before: datetime) -> int:
        """Forget the slots that began before a moment; return how many."""

    async def add(self, measure: FairUseMeasure) -> None:
        """Keep a new measure."""

    async def get(self, measure_id: UUID) -> FairUseMeasure | None:
        """Return a measure."""

    async def lift(self, measure: FairUseMeasure) -> bool:
        """Write when and why a measure was lifted; False if it was lifted before."""

    async def list(
        self, *, tenant_id: UUID | None = None, since: datetime | None = None, limit: int
    ) -> Sequence[FairUseMeasure]:
        """Return measures that began at `since` or later, newest first."""


class Activity(Protocol):
    """Knows what was used."""

    async def activity(self, *, start: datetime, end: datetime) -> Sequence[TenantActivity]:
        """Return every tenant's uses with start <= occurred_at < end."""


class Tenants(Protocol):
    """Knows the tenants and what each may use."""

    async def list_tenants(self) -> Sequence[Tenant]:
        """Return all tenants."""

    def limits_of(self, tenant: Tenant) -> TierLimits:
        """Return a tenant's limits."""


class AuditTrail(Protocol):
    """Takes intents for the audit log (its outbox does)."""

    async def add(self, intent: AuditIntent) -> None:
        """Keep an intent until it is logged."""


class FairUseService:
    """Applies the rules of fair use; `apply` is asked at every admission and looks in memory alone."""

    def __init__(
        self,
        *,
        store: FairUseStore,
        activity: Activity,
        tenants: Tenants,
        trail: AuditTrail,
        unit_of_work: UnitOfWork,
        clock: Clock,
        mode: FairUseMode,
    ) -> None:
        self._store = store
        self._activity = activity
        self._tenants = tenants
        self._trail = trail
        self._unit_of_work = unit_of_work
        self._clock = clock
        self.mode = mode
        self._in_force: dict[UUID, FairUseMeasure] = {}

    def apply(self, context: TenantContext) -> TenantContext:
        """Return what a caller may do under the measures in force.

        Raises:
            FairUseSuspendedError: it is suspended.
        """
        measure = self._in_force.get(context.tenant_id)
        if measure is None:
            return context
        now = self._clock.now()
        if not measure.is_in_force(now):
            return context
        if measure.action is FairUseAction.SUSPEND:
            raise FairUseSuspendedError(
                reason=measure.reason,
                ends_at=measure.ends_at,
                measure=str(measure.id),
                retry_after=math.ceil((measure.ends_at - now).total_seconds()),
            )
        return replace(context, limits=throttled(context.limits))

    async def count_refusal(self, tenant_id: UUID, *, code: str) -> None:
        """Write down that a request was refused; call it in the unit of work of the refusal."""
        if self.mode is not FairUseMode.OFF:
            now = self._clock.now()
            slot = now.replace(second=0, microsecond=0)
            await self._store.count_refusal(tenant_id, slot=slot, code=code)

    async def read(self) -> Sequence[FairUseReading]:
        """Return what every tenant used lately beside its shares."""
        now = self._clock.now()
        start = (now - WINDOW).replace(second=0, microsecond=0) + SLOT
        refusals = await self._store.refusals(since=start)
        used = {each.tenant_id: each for each in await self._activity.activity(start=start, end=now)}
        facts = []
        for tenant in await self._tenants.list_tenants():
            activity = used.get(tenant.id)
            if activity is None and tenant.id not in refusals:
                continue
            facts.append(
                TenantFacts(
                    tenant_id=tenant.id,
                    tier=tenant.tier,
                    limits=self._tenants.limits_of(tenant),
                    requests=activity.requests if activity else 0,
                    compute_ms=activity.compute_ms if activity else 0,
                    refusals=refusals.get(tenant.id, {}),
                )
            )
        return read_facts(facts)

    async def enforce(self) -> Sequence[FairUseMeasure]:
        """Apply the rules to what is recorded, once; return the new measures."""
        if self.mode is FairUseMode.OFF:
            return []
        now = self._clock.now()
        past: dict[UUID, list[FairUseMeasure]] = defaultdict(list)
        for measure in await self._recent(now):
            past[measure.tenant_id].append(measure)
        taken = []
        for reading in await self.read():
            action = due_action(reading, past=past[reading.tenant_id], now=now)
            held = strongest((each for each in past[reading.tenant_id] if each.rule is reading.rule), now=now)
            if action is None or (held is not None and held.action.severity >= action.severity):
                continue
            measure = self._measure(reading, action=action, now=now)
            await self._keep(measure)
            taken.append(measure)
        await self._store.remove_refusals(before=now - LOOK_BACK)
        await self.refresh()
        return taken

    async def lift(self, measure_id: UUID, *, because: str) -> FairUseMeasure:
        """Take a measure back: nothing follows from it any more.

        Raises:
            NotFoundError: there is no such measure.
            ConflictError: it is lifted already.
        """
        measure = await self._store.get(measure_id)
        if measure is None:
            raise NotFoundError("There is no such measure.", kind="fair_use_measure")
        lifted = replace(measure, lifted_at=self._clock.now(), lifted_because=because)
        async with self._unit_of_work():
            if measure.lifted_at is not None or not await self._store.lift(lifted):
                raise ConflictError("This measure is lifted already.")
            await self._log(lifted, verb="lift", details={})
        await self.refresh()
        return lifted

    async def list(self, *, tenant_id: UUID | None = None, limit: int = 100) -> Sequence[FairUseMeasure]:
        """Return the newest measures, of one tenant or of all."""
        return await self._store.list(tenant_id=tenant_id, limit=limit)

    async def refresh(self) -> None:
        """Read what is in force, as any process has written it; run it every few seconds."""
        now = self._clock.now()
        measures: dict[UUID, list[FairUseMeasure]] = defaultdict(list)
        if self.mode is FairUseMode.ENFORCE:
            for measure in await self._recent(now):
                if measure.action is not FairUseAction.NOTICE:
                    measures[measure.tenant_id].append(measure)
        found = {tenant: strongest(each, now=now) for tenant, each in measures.items()}
        self._in_force = {tenant: measure for tenant, measure in found.items() if measure is not None}

    async def _recent(self, now: datetime) -> Sequence[FairUseMeasure]:
        """Return what was done within a day in this mode: a dry run prepares no measure."""
        recent = await self._store.list(since=now - LOOK_BACK, limit=MOST_SHOWN)
        return [each for each in recent if each.is_dry_run == (self.mode is FairUseMode.DRY_RUN)]

    def _measure(self, reading: FairUseReading, *, action: FairUseAction, now: datetime) -> FairUseMeasure:
        return FairUseMeasure(
            id=uuid7(self._clock),
            tenant_id=reading.tenant_id,
            rule=reading.rule,
            action=action,
            reason=reading.explanation,
            used=reading.used,
            share=reading.share,
            starts_at=now,
            ends_at=now + LASTS[action],
            is_dry_run=self.mode is FairUseMode.DRY_RUN,
        )

    async def _keep(self, measure: FairUseMeasure) -> None:
        async with self._unit_of_work():
            await self._store.add(measure)
            await self._log(measure, verb="take", details=_numbers(measure))
        _log.warning(
            "fair_use_measure",
            tenant_id=str(measure.tenant_id),
            action=measure.action.value,
            rule=measure.rule.value,
            is_dry_run=measure.is_dry_run,
        )

    async def _log(self, measure: FairUseMeasure, *, verb: str, details: Mapping[str, Detail]) -> None:
        intent = AuditIntent(
            id=uuid7(self._clock),
            event_id=measure.id,
            occurred_at=self._clock.now(),
            action=f"fair_use.{verb}",
            resource_affected=ResourceIdentifier("fair_use_measure", str(measure.id)),
            outcome=ActionOutcome.SUCCESS,
            tenant_id=measure.tenant_id,
            compliance_impact=ComplianceImpact.ACCESS_CONTROL,
            details={"rule": measure.rule.value, "measure": measure.action.value, **details},
        )
        await self._trail.add(intent)


def _numbers(measure: FairUseMeasure) -> dict[str, Detail]:
    return {
        "used": measure.used,
        "share": int(measure.share),
        "is_dry_run": measure.is_dry_run,
        "seconds": int((measure.ends_at - measure.starts_at).total_seconds()),
    }
