"""Asks afterwards whether they were allowed to send who were let in while nobody could be asked.

Of a tenant that was suspended and is not any more everything counts: it would send again what was refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tritium_platform.errors import BitNetServiceError, InvalidTokenError, NotFoundError, TenantSuspendedError
from tritium_platform.tenancy.model import TenantStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.tenancy.model import ApiKey, Tenant, TenantTier
    from tritium_platform.tenancy.store import TenantStore


class Arrival(NamedTuple):
    """When something of a tenant arrived, and by which of its keys; None is the operator's."""

    tenant_id: UUID
    key_id: str | None
    at: datetime


class Confirmation:
    """Knows from the books who was allowed to send at a moment that is over."""

    def __init__(self, store: TenantStore) -> None:
        self._store = store

    async def ask(self, arrivals: Collection[Arrival]) -> Mapping[Arrival, TenantTier | BitNetServiceError]:
        """Return the tier of each tenant, or why its key was not allowed to send at that moment."""
        senders = {(arrival.tenant_id, arrival.key_id) for arrival in arrivals}
        found = {sender: await self._find(*sender) for sender in senders}
        return {arrival: _judged(arrival, *found[arrival[:2]]) for arrival in arrivals}

    async def _find(self, tenant_id: UUID, key_id: str | None) -> tuple[ApiKey | None, Tenant | None]:
        if key_id is None:
            return None, await self._store.get_tenant(tenant_id)
        found = await self._store.find_key(key_id)
        return (found[0], found[2]) if found else (None, None)


def _judged(arrival: Arrival, key: ApiKey | None, tenant: Tenant | None) -> TenantTier | BitNetServiceError:
    if arrival.key_id is None:  # the operator speaks of suspended tenants, too
        return tenant.tier if tenant else NotFoundError("There is no such tenant.", kind="tenant")
    if key is None or tenant is None or (key.revoked_at is not None and key.revoked_at <= arrival.at):
        return InvalidTokenError(key_id=arrival.key_id)
    is_suspended = tenant.status is not TenantStatus.ACTIVE
    if is_suspended and (tenant.suspended_at is None or tenant.suspended_at <= arrival.at):
        return TenantSuspendedError()
    return tenant.tier
