"""For whom the running task acts: PostgreSQL shows it, and takes from it, the rows of that tenant only."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

_tenant: ContextVar[UUID | None] = ContextVar("tritium_acting_tenant", default=None)


def act_for(tenant_id: UUID | None) -> None:
    """Act for a tenant from here on, in this task and those it starts; None is the service itself."""
    _tenant.set(tenant_id)


def acting_tenant() -> UUID | None:
    """Return the tenant that is acted for, None for the service itself."""
    return _tenant.get()


@contextmanager
def acting_for_the_service() -> Iterator[None]:
    """Act for the service itself for a while: to find out who calls, and to judge across tenants."""
    before = _tenant.get()
    _tenant.set(None)
    try:
        yield
    finally:
        _tenant.set(before)
