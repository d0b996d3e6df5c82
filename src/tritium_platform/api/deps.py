"""What routes ask for: the platform, the caller, the operator."""

from __future__ import annotations

import hmac
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from tritium_platform.compose import Platform
from tritium_platform.errors import BitNetServiceError, InsufficientPermissionsError, InvalidTokenError
from tritium_platform.tenancy.model import Scope, TenantContext

_tenant_scheme = HTTPBearer(auto_error=False, scheme_name="TenantKey", description="An API key of a tenant")
_admin_scheme = HTTPBearer(auto_error=False, scheme_name="AdminKey", description="The operator's key")


def bearer_token(request: Request) -> str:
    """Return the token of the Authorization header; InvalidTokenError if there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.isascii():
        raise InvalidTokenError
    return token.strip()


def platform_of(request: Request) -> Platform:
    """Return the platform behind this app."""
    platform: Platform = request.app.state.platform
    return platform


ThePlatform = Annotated[Platform, Depends(platform_of)]


async def tenant_context(request: Request, platform: ThePlatform) -> TenantContext:
    """Return who is calling."""
    context = await platform.gateway.authenticate(bearer_token(request))
    request.state.caller = context
    return context


Caller = Annotated[TenantContext, Depends(tenant_context)]


class Recognized(NamedTuple):
    """Who is calling; unconfirmed is who was when the database was asked last."""

    context: TenantContext
    is_confirmed: bool


async def recognized(request: Request, platform: ThePlatform) -> Recognized:
    """Return who is calling; while the database is away who is known, unconfirmed."""
    caller = Recognized(*await platform.gateway.recognize(bearer_token(request)))
    if caller.is_confirmed:
        request.state.caller = caller.context
    return caller


RecognizedCaller = Annotated[Recognized, Depends(recognized)]


async def require_admin(request: Request, platform: ThePlatform) -> None:
    """Let the operator in.

    Raises:
        InvalidTokenError: the token is nobody's.
        InsufficientPermissionsError: it is a tenant's.
    """
    token = bearer_token(request)
    if hmac.compare_digest(token.encode(), platform.admin_token.encode()):
        return
    try:
        request.state.caller = await platform.gateway.authenticate(token)
    except BitNetServiceError:
        raise InvalidTokenError from None
    raise InsufficientPermissionsError(required="admin")


async def metering_caller(caller: RecognizedCaller) -> Recognized:
    """Return who reports uses: who is unconfirmed must be asked for before they count."""
    caller.context.require(Scope.METERING)
    return caller


def caller_with(scope: Scope) -> Any:
    """Return a dependency that gives the caller's context if its key has the scope."""

    async def check(context: Caller) -> TenantContext:
        context.require(scope)
        return context

    return Depends(check)


async def _require_tenant(
    _context: Caller, _scheme: Annotated[HTTPAuthorizationCredentials | None, Depends(_tenant_scheme)]
) -> None:
    """Let tenants in; the scheme tells the OpenAPI document which key a route wants."""


async def _require_known_tenant(
    _caller: RecognizedCaller,
    _scheme: Annotated[HTTPAuthorizationCredentials | None, Depends(_tenant_scheme)],
) -> None:
    """Let tenants in, for what waits until they are confirmed."""


# For every router of tenants: a stranger is refused before anything of the request is looked at.
tenant_key = Depends(_require_tenant)
known_tenant_key = Depends(_require_known_tenant)
admin_key = Depends(_admin_scheme)
admin = Depends(require_admin)
InferenceCaller = Annotated[TenantContext, caller_with(Scope.INFERENCE)]
ModelsCaller = Annotated[TenantContext, caller_with(Scope.MODELS)]
DeploymentsCaller = Annotated[TenantContext, caller_with(Scope.DEPLOYMENTS)]
UsageCaller = Annotated[TenantContext, caller_with(Scope.USAGE)]
MeteringCaller = Annotated[Recognized, Depends(metering_caller)]
AuditCaller = Annotated[TenantContext, caller_with(Scope.AUDIT)]
