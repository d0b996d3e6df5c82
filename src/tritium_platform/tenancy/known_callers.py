"""Callers whose keys were right when they were looked up: none is looked up twice while nothing changes.

They stay known when something has changed, too, and so do tenants that the operator named: while the database
is away they can be told from strangers.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.tenancy.model import TenantContext, TenantTier


class KnownCaller(NamedTuple):
    """A caller as it was looked up last.

    Attributes:
        context: who it is, and what it may do.
        expires_at: when its key's time is over.
        epoch: the authorization epoch before it was looked up.
        fresh_until: when it is looked up again though nothing has changed, in monotonic nanoseconds.
    """

    context: TenantContext
    expires_at: datetime | None
    epoch: int
    fresh_until: int


class KnownCallers:
    """The last callers by the digests of their tokens, and tenants by their ids; at most `most` of each."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._callers: OrderedDict[bytes, KnownCaller] = OrderedDict()
        self._tiers: OrderedDict[UUID, TenantTier] = OrderedDict()

    def __len__(self) -> int:
        """Return how many are known."""
        return len(self._callers)

    def __contains__(self, digest: bytes) -> bool:
        """Tell whether a token was right once."""
        return digest in self._callers

    def find(self, digest: bytes) -> KnownCaller | None:
        """Return who has a token."""
        caller = self._callers.get(digest)
        if caller is not None:
            self._callers.move_to_end(digest)
        return caller

    def remember(self, digest: bytes, caller: KnownCaller) -> None:
        """Know who has a token."""
        self._callers[digest] = caller
        self._callers.move_to_end(digest)
        while len(self._callers) > self._most:
            self._callers.popitem(last=False)

    def forget(self, digest: bytes) -> None:
        """Know nobody who has a token."""
        self._callers.pop(digest, None)

    def forget_key(self, key_id: str) -> None:
        """Know nobody by a key."""
        for digest in [digest for digest, caller in self._callers.items() if caller.context.key_id == key_id]:
            del self._callers[digest]

    def forget_tenant(self, tenant_id: UUID) -> None:
        """Know nobody of a tenant."""
        known = self._callers.items()
        for digest in [digest for digest, caller in known if caller.context.tenant_id == tenant_id]:
            del self._callers[digest]

    def forget_all(self) -> None:
        """Know nobody."""
        self._callers.clear()

    def remember_tiers(self, tiers: Mapping[UUID, TenantTier]) -> None:
        """Know the tiers of some tenants."""
        for tenant_id, tier in tiers.items():
            self._tiers[tenant_id] = tier
            self._tiers.move_to_end(tenant_id)
        while len(self._tiers) > self._most:
            self._tiers.popitem(last=False)

    def find_tiers(self, tenant_ids: Collection[UUID]) -> Mapping[UUID, TenantTier]:
        """Return the tiers of those tenants that are known."""
        return {each: self._tiers[each] for each in tenant_ids if each in self._tiers}
