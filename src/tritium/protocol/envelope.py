"""Errors as the OpenAI wire format writes them: {"error": {message, type, param, code}}, status, headers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium import errors
from tritium.protocol.calls import ModelNotFoundError
from tritium.protocol.decoding import ACCEPTED_CODINGS, UnsupportedCodingError
from tritium.protocol.schemas import RequestTooLargeError

if TYPE_CHECKING:
    from collections.abc import Mapping

TOO_MANY_REQUESTS = 429
SERVICE_UNAVAILABLE = 503
UNSUPPORTED_MEDIA_TYPE = 415
_INVALID = "invalid_request_error"
_SERVER = "server_error"


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """How a class of errors (and its subclasses without a rule) appears; code None = the class's own."""

    status: int
    type: str
    code: str | None = None


LIBRARY_RULES: Mapping[type[errors.BitNetServiceError], ErrorRule] = {
    errors.AuthenticationError: ErrorRule(401, _INVALID, "invalid_api_key"),
    errors.AuthorizationError: ErrorRule(403, "permission_error"),
    errors.ComplianceError: ErrorRule(403, "permission_error"),
    errors.ValidationError: ErrorRule(400, _INVALID),
    ModelNotFoundError: ErrorRule(404, _INVALID, "model_not_found"),
    RequestTooLargeError: ErrorRule(413, _INVALID),
    UnsupportedCodingError: ErrorRule(UNSUPPORTED_MEDIA_TYPE, _INVALID),
    errors.ResourceError: ErrorRule(SERVICE_UNAVAILABLE, _SERVER),
    errors.ProcessingError: ErrorRule(500, _SERVER),
    errors.PlatformError: ErrorRule(SERVICE_UNAVAILABLE, _SERVER),
    errors.MissingExtraError: ErrorRule(501, _SERVER),
    errors.BitNetServiceError: ErrorRule(500, _SERVER),
}
_RATE_LIMITED = ErrorRule(TOO_MANY_REQUESTS, "rate_limit_error")


def error_envelope(
    error: BaseException, *, rules: Mapping[type[errors.BitNetServiceError], ErrorRule] = LIBRARY_RULES
) -> tuple[int, dict[str, object], dict[str, str]]:
    """Return (status, body, headers) for any error; what is not of our tree becomes a 500 that tells nothing.

    Args:
        error: anything that was raised.
        rules: the most derived class with a rule wins; the platform passes `{**LIBRARY_RULES, **its_own}`.
            A class without a rule of its own whose category is rate_limited becomes 429.
    """
    if not isinstance(error, errors.BitNetServiceError):
        body = _body(
            "The server failed; the request id helps to find out why.", _SERVER, None, "internal_error"
        )
        return 500, body, {}
    rule = _rule_for(error, rules)
    param = error.details.get("param")
    body = _body(error.message, rule.type, param if isinstance(param, str) else None, rule.code or error.code)
    return rule.status, body, _headers(error, rule.status)


def _rule_for(
    error: errors.BitNetServiceError, rules: Mapping[type[errors.BitNetServiceError], ErrorRule]
) -> ErrorRule:
    if type(error) not in rules and error.category is errors.ErrorCategory.RATE_LIMITED:
        return _RATE_LIMITED
    return next(rules[base] for base in type(error).__mro__ if base in rules)


def _body(message: str, kind: str, param: str | None, code: str) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _headers(error: errors.BitNetServiceError, status: int) -> dict[str, str]:
    if status == 401:  # noqa: PLR2004 - the status of a missing or wrong credential
        return {"WWW-Authenticate": "Bearer"}
    if status == UNSUPPORTED_MEDIA_TYPE:
        return {"Accept-Encoding": ACCEPTED_CODINGS}
    seconds = error.details.get("retry_after")
    if status not in {TOO_MANY_REQUESTS, SERVICE_UNAVAILABLE} and seconds is None:
        return {}
    # Rounded up: who waits that long is not refused again for the same limit.
    return {"Retry-After": str(max(1, math.ceil(seconds)) if isinstance(seconds, int | float) else 1)}
