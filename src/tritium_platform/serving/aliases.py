"""Aliases: names of a tenant that stand for its deployments and can be turned to another in one moment."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Protocol

from tritium_platform.errors import ConflictError, NotFoundError, RequestTooLargeError, ValidationError
from tritium_platform.serving.model import Alias
from tritium_platform.serving.registry import require_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from tritium_platform.serving.model import Deployment
    from tritium_platform.values import Clock

MAX_ALIASES = 100


class AliasStore(Protocol):
    """Remembers aliases; a tenant has one alias of a name."""

    async def put(self, alias: Alias) -> None:
        """Keep an alias in the place of the one with its name, if there is one."""

    async def list(self, tenant_id: UUID | None = None) -> Sequence[Alias]:
        """Return the aliases of a tenant, or of everybody, by name."""

    async def remove(self, *, tenant_id: UUID, name: str) -> bool:
        """Forget an alias; False if the tenant has none of this name."""


class Deployments(Protocol):
    """Knows what is deployed."""

    async def list(self, tenant_id: UUID | None = None) -> Sequence[Deployment]:
        """Return the deployments of a tenant, or of everybody, oldest first."""


class AliasService:
    """Resolves aliases without asking the store, and keeps them free of cycles and of loose ends.

    A change has two halves: `put` or `remove` writes it (in the caller's transaction), and `publish` or
    `withdraw` lets requests see it when that is committed, in one step. Hold `names` over both: it orders
    everything that gives a name or takes one away, deployments included.
    """

    def __init__(self, *, store: AliasStore, deployments: Deployments, clock: Clock) -> None:
        self._store = store
        self._deployments = deployments
        self._clock = clock
        self._targets: defaultdict[UUID, dict[str, str]] = defaultdict(dict)
        self.names = asyncio.Lock()

    async def load(self) -> None:
        """Read what is remembered, by whatever gateway; requests resolve by it from now on."""
        async with self.names:
            targets: defaultdict[UUID, dict[str, str]] = defaultdict(dict)
            for alias in await self._store.list():
                targets[alias.tenant_id][alias.name] = alias.target
            self._targets = targets

    def resolve(self, tenant_id: UUID, name: str) -> str:
        """Return the name an alias stands for at this moment; a name that is no alias stands for itself."""
        return follow(self._targets.get(tenant_id, {}), name)

    async def list(self, tenant_id: UUID) -> Sequence[Alias]:
        """Return the tenant's aliases by name."""
        return await self._store.list(tenant_id)

    async def put(self, tenant_id: UUID, *, name: str, target: str) -> Alias:
        """Point an alias, new or not, at a deployment or at another alias.

        Raises:
            ValidationError: the name is bad, or the alias would come back to itself.
            ConflictError: a deployment has this name.
            NotFoundError: the target is neither a deployment nor an alias of the tenant.
            RequestTooLargeError: the tenant has as many aliases as one may have.
        """
        require_name(name)
        deployed = {deployment.name for deployment in await self._deployments.list(tenant_id)}
        targets = {alias.name: alias.target for alias in await self._store.list(tenant_id)}
        if name in deployed:
            raise ConflictError(f"There is a deployment with the name {name}: an alias needs another.")
        if target not in deployed and target not in targets and target != name:
            raise NotFoundError(f"The alias would lead nowhere: there is no {target}.", kind="deployment")
        if follow({**targets, name: target}, name) == name:
            raise ValidationError(f"{name} would lead to itself by way of {target}.", field="target")
        if name not in targets and len(targets) >= MAX_ALIASES:
            raise RequestTooLargeError(limit_name="aliases", limit=MAX_ALIASES, current=len(targets) + 1)
        alias = Alias(tenant_id=tenant_id, name=name, target=target, changed_at=self._clock.now())
        await self._store.put(alias)
        return alias

    def publish(self, alias: Alias) -> None:
        """Let every request from now on follow this alias."""
        self._targets[alias.tenant_id][alias.name] = alias.target

    async def remove(self, tenant_id: UUID, name: str) -> Alias:
        """Forget an alias.

        Raises:
            NotFoundError: the tenant has no such alias.
            ConflictError: another alias leads to it.
        """
        aliases = {alias.name: alias for alias in await self._store.list(tenant_id)}
        if name not in aliases:
            raise NotFoundError("There is no such alias.", kind="alias")
        await self.require_unused(tenant_id, name)
        await self._store.remove(tenant_id=tenant_id, name=name)
        return aliases[name]

    def withdraw(self, alias: Alias) -> None:
        """Let no request from now on find this alias."""
        self._targets[alias.tenant_id].pop(alias.name, None)

    async def require_unused(self, tenant_id: UUID, name: str) -> None:
        """Refuse to take a name away to which aliases lead; ConflictError names them."""
        users = [alias.name for alias in await self._store.list(tenant_id) if alias.target == name]
        if users:
            raise ConflictError(f"{name} is what {', '.join(users)} stands for: point that elsewhere first.")

    async def require_free(self, tenant_id: UUID, name: str) -> None:
        """Refuse a deployment the name of an alias; raises ConflictError."""
        if any(alias.name == name for alias in await self._store.list(tenant_id)):
            raise ConflictError(f"There is an alias with the name {name}: take another.", field="name")


def follow(targets: Mapping[str, str], name: str) -> str:
    """Return where a chain of aliases ends; a chain that comes back ends at the name that was asked for."""
    place = name
    for _ in targets:
        if place not in targets:
            break
        place = targets[place]
    return name if place in targets else place
