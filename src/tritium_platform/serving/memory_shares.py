"""How tenants share the engines' memory: who has what and why, and whose models leave first for another's.

Everybody's fair share of the budget is the weighted max-min one (see `quotas.fairshare`): the weight is the
tier's, what is pinned is guaranteed, and asked for is what a tenant holds, has pinned or used a short while
ago. A tenant within its share loses a model that it uses only if nothing else makes the room.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tritium_platform.quotas.fairshare import Claim, fill
from tritium_platform.tenancy.model import TIER_WEIGHTS, TenantTier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from fractions import Fraction
    from uuid import UUID

    from tritium_platform.quotas.fairshare import Share
    from tritium_platform.serving.pool import Pool

# What nobody asked for in this time is not missed: a model that was used once protects no memory for ever.
RECENT_NANOSECONDS = 600 * 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryShare:
    """What a tenant has of the engines' memory, in bytes; `share` is None where there is no budget."""

    tenant_id: UUID
    weight: int
    used_bytes: int
    wanted_bytes: int
    pinned_bytes: int
    share: Share | None

    @property
    def beyond(self) -> Fraction | int:
        """How much it has beyond its share; negative within it."""
        return self.used_bytes - self.share.amount if self.share is not None else 0


def share_memory(
    pools: Iterable[Pool], *, budget: int, now: int, newcomer: Pool | None = None
) -> dict[UUID, MemoryShare]:
    """Return what each tenant has, wants and should have.

    Args:
        pools: all that are under control.
        budget: bytes of all engines together; 0: no bound.
        now: `Clock.monotonic_nanoseconds`.
        newcomer: a pool that is about to be loaded; it counts as used and wanted.
    """
    by_tenant: dict[UUID, list[Pool]] = defaultdict(list)
    for pool in pools:
        by_tenant[pool.deployment.tenant_id].append(pool)
    claims = {tenant: _claim(own, now=now, newcomer=newcomer) for tenant, own in by_tenant.items()}
    shares = _shares(claims, budget=budget)
    return {
        tenant: MemoryShare(
            tenant_id=tenant,
            weight=claim.weight,
            used_bytes=sum(_used(pool, newcomer=newcomer) for pool in by_tenant[tenant]),
            wanted_bytes=claim.demand,
            pinned_bytes=claim.floor,
            share=shares.get(tenant),
        )
        for tenant, claim in claims.items()
    }


def leaving_order(pools: Sequence[Pool], *, budget: int, now: int, newcomer: Pool | None) -> list[Pool]:
    """Return the pools that may leave, in the order in which they do.

    First those nobody used for a while, then those of tenants that have more than their share as long as they
    do, then the others; the least recently used of each kind first.
    """
    evictable = sorted((pool for pool in pools if pool.is_evictable), key=lambda pool: pool.last_used)
    order = [pool for pool in evictable if not _is_wanted(pool, now=now)]
    kept = []
    shares = share_memory(pools, budget=budget, now=now, newcomer=newcomer)
    beyond = {tenant: share.beyond for tenant, share in shares.items()}
    for pool in order:
        beyond[pool.deployment.tenant_id] -= pool.charged_bytes
    for pool in evictable[len(order) :]:
        tenant = pool.deployment.tenant_id
        if beyond[tenant] > 0:
            beyond[tenant] -= pool.charged_bytes
            order.append(pool)
        else:
            kept.append(pool)
    return order + kept


def _shares(claims: Mapping[UUID, Claim], *, budget: int) -> dict[UUID, Share]:
    if not budget:
        return {}
    if sum(claim.floor for claim in claims.values()) > budget:  # engines have outgrown what was pinned
        claims = {tenant: replace(claim, floor=0) for tenant, claim in claims.items()}
    return dict(zip(claims, fill(list(claims.values()), capacity=budget), strict=True))


def _claim(pools: Sequence[Pool], *, now: int, newcomer: Pool | None) -> Claim:
    tiers = [pool.tier for pool in pools if pool.tier is not None] or [TenantTier.DEVELOPER]
    wanted = [pool for pool in pools if pool is newcomer or _is_wanted(pool, now=now)]
    return Claim(
        weight=max(TIER_WEIGHTS[tier] for tier in tiers),
        demand=sum(pool.charged_bytes or pool.required_bytes for pool in wanted),
        floor=sum(pool.charged_bytes or pool.required_bytes for pool in pools if pool.deployment.is_pinned),
    )


def _is_wanted(pool: Pool, *, now: int) -> bool:
    is_recent = pool.last_used > 0 and now - pool.last_used < RECENT_NANOSECONDS
    return bool(pool.leases or pool.loading or pool.deployment.is_pinned or is_recent)


def _used(pool: Pool, *, newcomer: Pool | None) -> int:
    return pool.required_bytes if pool is newcomer else pool.charged_bytes
