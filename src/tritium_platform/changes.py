"""Changes that are nobody's use (of a tenant, a key, a model), as the audit log says them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tritium_platform.audit.model import ResourceIdentifier

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from tritium_platform.audit.model import Detail
    from tritium_platform.tenancy.model import Tenant


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What the audit log says of a change: `noun.verb`, the thing, whose it is, and who asked."""

    action: str
    resource: ResourceIdentifier
    tenant_id: UUID | None = None
    key_id: str | None = None
    details: Mapping[str, Detail] = field(default_factory=dict)


def tenant_changed(action: str, tenant: Tenant) -> Change:
    """Say what happened to a tenant."""
    return Change(
        action=action,
        resource=ResourceIdentifier("tenant", str(tenant.id)),
        tenant_id=tenant.id,
        details={"tier": tenant.tier.value, "status": tenant.status.value},
    )


def key_changed(action: str, *, key_id: str, tenant_id: UUID) -> Change:
    """Say what happened to an API key."""
    return Change(action=action, resource=ResourceIdentifier("api_key", key_id), tenant_id=tenant_id)
