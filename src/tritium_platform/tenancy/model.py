"""Tenants, their tiers and their keys."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from tritium_platform.errors import InsufficientPermissionsError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

GIGABYTE = 1_000_000_000
NO_OVERRIDES: Mapping[str, int] = MappingProxyType({})


class TenantTier(StrEnum):
    """What a tenant pays for."""

    DEVELOPER = "developer"
    TEAM = "team"
    BUSINESS = "business"


class TenantStatus(StrEnum):
    """Whether a tenant may use the service."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class Scope(StrEnum):
    """What an API key may be used for."""

    INFERENCE = "inference"
    MODELS = "models"
    DEPLOYMENTS = "deployments"
    USAGE = "usage"
    METERING = "metering"
    AUDIT = "audit"


ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class TierLimits:
    """What a tenant may use.

    Attributes:
        monthly_quota: requests per calendar month (UTC).
        max_model_size: bytes of one model's weights as uploaded.
        requests_per_minute: rate of requests; a whole minute's worth may come at once.
        tokens_per_minute: rate of prompt tokens plus the answer tokens asked for.
        max_concurrent_requests: requests in flight at one time.
        max_storage: bytes of all the tenant's models, uploads included.
        events_per_minute: rate of uses that the tenant counts itself and reports.
    """

    monthly_quota: int
    max_model_size: int
    requests_per_minute: int
    tokens_per_minute: int
    max_concurrent_requests: int
    max_storage: int
    events_per_minute: int

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if type(value) is not int or not 0 <= value < 2**63:
                raise ValidationError(
                    f"The limit {each.name} must be a whole number from 0 on.", field=each.name
                )


# The monthly quotas and model sizes are the specification's; a gigabyte is 10^9 bytes. The rates are a
# hundred times and more what spends the quota evenly over the month (100,000 requests a month are 2.3 a
# minute), so that they stop floods, not customers. Storage is ten of the largest models.
TIER_LIMITS: Mapping[TenantTier, TierLimits] = MappingProxyType(
    {
        TenantTier.DEVELOPER: TierLimits(
            monthly_quota=100_000,
            max_model_size=GIGABYTE,
            requests_per_minute=600,
            tokens_per_minute=200_000,
            max_concurrent_requests=8,
            max_storage=10 * GIGABYTE,
            events_per_minute=100_000,
        ),
        TenantTier.TEAM: TierLimits(
            monthly_quota=1_000_000,
            max_model_size=10 * GIGABYTE,
            requests_per_minute=3_000,
            tokens_per_minute=2_000_000,
            max_concurrent_requests=32,
            max_storage=100 * GIGABYTE,
            events_per_minute=1_000_000,
        ),
        TenantTier.BUSINESS: TierLimits(
            monthly_quota=10_000_000,
            max_model_size=100 * GIGABYTE,
            requests_per_minute=20_000,
            tokens_per_minute=20_000_000,
            max_concurrent_requests=256,
            max_storage=1_000 * GIGABYTE,
            events_per_minute=10_000_000,
        ),
    }
)


# How tenants that want one engine at the same time share its tokens.
TIER_WEIGHTS: Mapping[TenantTier, int] = MappingProxyType(
    {TenantTier.DEVELOPER: 1, TenantTier.TEAM: 4, TenantTier.BUSINESS: 16}
)


def override_limits(limits: TierLimits, overrides: Mapping[str, int]) -> TierLimits:
    """Return the limits with some replaced by name; ValidationError for an unknown name or a bad number."""
    known = {each.name for each in fields(TierLimits)}
    for name in overrides:
        if name not in known:
            raise ValidationError(
                f"'{name[:40]}' is not a limit: choose from {', '.join(sorted(known))}.", field=name[:40]
            )
    return replace(limits, **overrides)


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organization that uses the service.

    Attributes:
        limit_overrides: replace its tier's limits by name.
        suspended_at: since when it is suspended, if that is known.
    """

    id: UUID
    organization_name: str
    tier: TenantTier
    created_at: datetime
    status: TenantStatus = TenantStatus.ACTIVE
    limit_overrides: Mapping[str, int] = field(default_factory=lambda: NO_OVERRIDES)
    suspended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without its secret; `id` is the part that may be shown and logged."""

    id: str
    tenant_id: UUID
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TenantContext:
    """Who is calling and what they may do: the result of authentication, carried by every call."""

    tenant_id: UUID
    organization_name: str
    tier: TenantTier
    limits: TierLimits
    key_id: str
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Raise InsufficientPermissionsError unless the key has the scope."""
        if scope not in self.scopes:
            raise InsufficientPermissionsError(required=scope.value)
