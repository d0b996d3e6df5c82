"""Stands before the routes: refuses blocked addresses, and has every refusal judged once it is answered."""

from __future__ import annotations

import hmac
import time
from collections import Counter, OrderedDict
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import quote

import structlog

from tritium.protocol.calls import ModelNotFoundError
from tritium_platform.api.problems import refusal_response
from tritium_platform.errors import (
    AuthenticationError,
    BitNetServiceError,
    InvalidTokenError,
    NotFoundError,
    SourceBlockedError,
    TenantSuspendedError,
)
from tritium_platform.security.model import SecurityEventType
from tritium_platform.security.response import is_own_machine
from tritium_platform.security.service import classify_refusal
from tritium_platform.tenancy.acting import acting_for_the_service
from tritium_platform.tenancy.keys import parse_token

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from tritium_platform.compose import Platform
    from tritium_platform.tenancy.model import TenantContext

_log = structlog.get_logger(__name__)
# Health and metrics stay open: a load balancer may share the address of an attacker.
GUARDED = ("/v1/", "/api/", "/console/login")
# What many rules count is the different things asked for: the same one again says nothing for a while.
QUIET_SECONDS = 60.0
MAX_QUIET = 10_000
# More than the rules need to see an attack, and too little for a flood to keep the database busy.
MAX_PER_SECOND = 20
# Refusals of one address that are not judged yet, as the database is slow: with more, it has to wait.
MAX_UNJUDGED = 20
COUNTED_ONE_BY_ONE = {SecurityEventType.AUTHENTICATION_FAILURE, SecurityEventType.SYSTEM_INTRUSION_ATTEMPT}


class Guard:
    """Asks the security service before a request, and tells it about refusals after their answer is sent.

    An accepted request costs two look-ups in memory. The operator's key is never refused.
    """

    def __init__(self, app: ASGIApp, *, platform: Platform) -> None:
        self._app = app
        self._platform = platform
        self._quiet: OrderedDict[tuple[object, ...], float] = OrderedDict()
        self._second, self._in_second = 0, 0
        self._unjudged: Counter[str | None] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not scope["path"].startswith(GUARDED):
            await self._app(scope, receive, send)
            return
        source = source_of(scope)
        state = scope.setdefault("state", {})
        try:
            self._check_source(scope, source)
        except SourceBlockedError as error:
            await refusal_response(scope, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)
        refusal: BaseException | None = state.get("refusal")
        caller: TenantContext | None = state.get("caller")
        if caller is not None and source is not None:
            self._platform.security.note_accepted(source, key_id=caller.key_id)
        if isinstance(refusal, BitNetServiceError):
            self._unjudged[source] += 1
            try:
                await self._observe(refusal, caller=caller, source=source, path=scope["path"])
            finally:
                self._unjudged[source] -= 1
                if not self._unjudged[source]:
                    del self._unjudged[source]

    def _check_source(self, scope: Scope, source: str | None) -> None:
        security = self._platform.security
        is_suspect = self._unjudged.get(source, 0) >= MAX_UNJUDGED and not is_own_machine(source or "")
        if not is_suspect and not security.is_blocked(source):
            return
        header = dict(scope["headers"]).get(b"authorization", b"")
        token = header.partition(b" ")[2].strip()
        if hmac.compare_digest(token, self._platform.admin_token.encode()):
            return
        security.check_source(source, claimed_key_id=_claimed_key_id(token), is_suspect=is_suspect)

    async def _observe(
        self, error: BitNetServiceError, *, caller: TenantContext | None, source: str | None, path: str
    ) -> None:
        resource = quote(path)
        if isinstance(error, ModelNotFoundError):
            resource = quote(f"model:{error.details.get('model', '')}", safe=":")
            error = NotFoundError(error.message)
        event_type = classify_refusal(error)
        # Of strangers only refused keys count: whoever tries addresses that do not exist learns nothing.
        is_about_key = isinstance(error, AuthenticationError | TenantSuspendedError)
        if event_type is None or (caller is None and not is_about_key):
            return
        security = self._platform.security
        key_id = caller.key_id if caller else None
        fingerprint = (event_type, source, key_id, resource)
        if self._is_repeated(fingerprint) or security.is_blocked(source) or self._is_flood():
            return
        if event_type not in COUNTED_ONE_BY_ONE:
            self._keep_quiet(fingerprint)
        try:
            with acting_for_the_service():  # an attack is seen across tenants
                await security.observe_refusal(
                    error,
                    source_ip=source,
                    tenant_id=caller.tenant_id if caller else None,
                    key_id=key_id,
                    resource=resource,
                )
        except BitNetServiceError as failure:  # the caller has its answer already
            _log.warning("security_event_lost", code=failure.code, reason=failure.message)

    def _is_repeated(self, fingerprint: tuple[object, ...]) -> bool:
        return self._quiet.get(fingerprint, 0.0) > time.monotonic()

    def _keep_quiet(self, fingerprint: tuple[object, ...]) -> None:
        """Take down no other of these for a while."""
        self._quiet.pop(fingerprint, None)
        while len(self._quiet) >= MAX_QUIET:
            self._quiet.popitem(last=False)
        self._quiet[fingerprint] = time.monotonic() + QUIET_SECONDS

    def _is_flood(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._in_second = second, 0
        self._in_second += 1
        if self._in_second == MAX_PER_SECOND + 1:
            _log.warning("security_events_flood", kept_per_second=MAX_PER_SECOND)
        return self._in_second > MAX_PER_SECOND


def source_of(scope: Scope) -> str | None:
    """Return the caller's address; of IPv6 the network that one customer has, for it can use all of it."""
    client = scope.get("client")
    if not client:
        return None
    try:
        address = ip_address(client[0])
    except ValueError:
        return None
    if isinstance(address, IPv4Address) or address.is_loopback:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((int(address) >> 64 << 64, 64)))


def _claimed_key_id(token: bytes) -> str | None:
    try:
        return parse_token(token.decode("ascii")).key_id
    except (UnicodeDecodeError, InvalidTokenError):
        return None
