"""Wires what knows the customers: tenants, their keys and limits, security."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.adapters.sql.security_store import SqlSecurityEventStore
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
from tritium_platform.errors import ValidationError
from tritium_platform.security.service import LocalContainment, SecurityService
from tritium_platform.tenancy.model import TIER_LIMITS, TenantTier, override_limits
from tritium_platform.tenancy.service import TenancyService

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.books import Outbox
    from tritium_platform.config import PlatformConfig
    from tritium_platform.tenancy.model import TierLimits
    from tritium_platform.values import Clock


def open_tenancy(config: PlatformConfig, *, database: Database, clock: Clock) -> TenancyService:
    """Return the service that knows tenants and keys."""
    return TenancyService(
        store=SqlTenantStore(database),
        pepper=config.pepper(),
        clock=clock,
        tier_limits=tier_limits(config),
        cache_seconds=config.authentication_cache_seconds,
        poll_seconds=config.revocation_poll_seconds,
    )


def open_security(
    database: Database, *, tenancy: TenancyService, outbox: Outbox, clock: Clock
) -> SecurityService:
    """Return the service that watches and contains."""
    return SecurityService(
        store=SqlSecurityEventStore(database),
        trail=outbox,
        containment=LocalContainment(tenancy=tenancy, clock=clock),
        clock=clock,
    )


def tier_limits(config: PlatformConfig) -> Mapping[TenantTier, TierLimits]:
    """Return the limits of every tier as configured; ValidationError if one is unknown."""
    unknown = set(config.tiers) - {tier.value for tier in TenantTier}
    if unknown:
        raise ValidationError(f"tiers: there is no tier {', '.join(sorted(unknown))}.", field="tiers")
    return {
        tier: override_limits(limits, config.tiers.get(tier.value, {}))
        for tier, limits in TIER_LIMITS.items()
    }
