"""Scores customers: live, once a day for keeps, and again to see whether what was kept is true."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from tritium_platform.errors import NotFoundError, ValidationError
from tritium_platform.insight.facts import HealthFacts, gather_facts
from tritium_platform.insight.health import hour_of
from tritium_platform.insight.score import DEFINITIONS, HealthScore, score_health

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.insight.facts import FactsReader
    from tritium_platform.tenancy.model import Tenant
    from tritium_platform.values import Clock

HOUR = timedelta(hours=1)
NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptScore:
    """A score as it was kept: `body` is the canonical JSON of `HealthScore.body`."""

    tenant_id: UUID
    as_of: datetime
    definition: int
    score: int | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Deviation:
    """Something of a kept score that comes out otherwise now."""

    what: str
    kept: str
    now: str


class ScoreStore(Protocol):
    """Keeps scores, one per tenant and hour, for ever."""

    async def add(self, kept: KeptScore) -> bool:
        """Keep a score; False if the tenant's of that hour is kept already."""

    async def get(self, tenant_id: UUID, *, as_of: datetime) -> KeptScore | None:
        """Return what was kept for an hour."""

    async def list(
        self, tenant_id: UUID, *, limit: int, before: datetime | None = None
    ) -> Sequence[KeptScore]:
        """Return a tenant's kept scores, newest first, those of before a moment."""


class Tenants(Protocol):
    """Knows all tenants."""

    async def list_tenants(self) -> Sequence[Tenant]:
        """Return all tenants, oldest first."""


class ScoreService:
    """Scores tenants at full hours."""

    def __init__(self, *, facts: FactsReader, store: ScoreStore, tenants: Tenants, clock: Clock) -> None:
        self._facts = facts
        self._store = store
        self._tenants = tenants
        self._clock = clock

    async def score(self, tenant_id: UUID, *, as_of: datetime | None = None) -> HealthScore:
        """Score a tenant at a full hour; by default at the end of the running one, which may still change.

        Raises:
            ValidationError: `as_of` is no full hour, or lies beyond the end of the running one.
        """
        newest = hour_of(self._clock.now()) + HOUR
        moment = as_of or newest
        if moment.tzinfo is None or hour_of(moment.astimezone(UTC)) != moment or moment > newest:
            raise ValidationError("A score is of a full hour that has begun (UTC).", field="as_of")
        return score_health(await gather_facts(self._facts, tenant_id, as_of=moment.astimezone(UTC)))

    async def keep_day(self) -> int:
        """Score every tenant at the beginning of this day (UTC), and keep it; return how many were new."""
        midnight = self._clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
        made = [await self.keep(tenant.id, as_of=midnight) for tenant in await self._tenants.list_tenants()]
        return sum(made)

    async def keep(self, tenant_id: UUID, *, as_of: datetime) -> bool:
        """Score a tenant at an hour that is over, and keep it; False if one is kept.

        Raises:
            ValidationError: that hour is not over.
        """
        if as_of > self._clock.now():
            raise ValidationError("What is kept is of an hour that is over.", field="as_of")
        if await self._store.get(tenant_id, as_of=as_of) is not None:
            return False
        scored = await self.score(tenant_id, as_of=as_of)
        return await self._store.add(
            KeptScore(
                tenant_id=tenant_id,
                as_of=as_of,
                definition=scored.definition,
                score=scored.score,
                body=scored.body(),
            )
        )

    async def history(
        self, tenant_id: UUID, *, limit: int, before: datetime | None = None
    ) -> Sequence[KeptScore]:
        """Return a tenant's kept scores, newest first, those of before a moment."""
        return await self._store.list(tenant_id, limit=limit, before=before)

    async def recompute(self, tenant_id: UUID, *, as_of: datetime) -> Sequence[Deviation]:
        """Make a kept score again and say what differs: its arithmetic, and each fact that is another now.

        Raises:
            NotFoundError: none is kept for that hour.
        """
        kept = await self._store.get(tenant_id, as_of=as_of)
        if kept is None:
            raise NotFoundError("No score is kept for this hour.")
        found = check_arithmetic(kept)
        if found:
            return found
        facts = await gather_facts(self._facts, tenant_id, as_of=as_of)
        return compare_facts(json.loads(kept.body)["facts"], facts.to_dict())


def check_arithmetic(kept: KeptScore) -> list[Deviation]:
    """Score the facts that a kept score carries by its definition; the bytes must be the same."""
    if kept.definition not in DEFINITIONS:
        return [Deviation("definition", str(kept.definition), "unknown to this program")]
    try:
        facts = HealthFacts.from_dict(json.loads(kept.body)["facts"])
    except (ValueError, KeyError, TypeError):
        return [Deviation("body", "unreadable", "facts")]
    again = score_health(facts, definition=kept.definition)
    pairs = {
        "tenant": (str(kept.tenant_id), str(again.tenant_id)),
        "as_of": (kept.as_of.isoformat(), facts.as_of.isoformat()),
        "score": (str(kept.score), str(again.score)),
        "body": (kept.body.decode(errors="replace"), again.body().decode()),
    }
    return [Deviation(what, said, now) for what, (said, now) in pairs.items() if said != now]


def compare_facts(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[Deviation]:
    """Return each fact that is another than it was, by its name."""
    said, found = _flat(kept), _flat(now)
    return [
        Deviation(f"facts.{name}", said.get(name, NOTHING), found.get(name, NOTHING))
        for name in sorted(said.keys() | found.keys())
        if said.get(name) != found.get(name)
    ]


def _flat(facts: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": text for inner, text in _flat(value).items()}
        elif isinstance(value, list):
            flat |= {
                f"{name}.{each['currency']}.{key}": text
                for each in value
                for key, text in _flat(each).items()
            }
        else:
            flat[name] = str(value)
    return flat
