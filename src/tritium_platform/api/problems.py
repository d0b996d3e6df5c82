"""The one table from errors to HTTP, and its two forms: OpenAI's envelope under /v1, RFC 9457 elsewhere."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from fastapi.responses import JSONResponse

from tritium.protocol.envelope import LIBRARY_RULES, ErrorRule, error_envelope
from tritium.protocol.schemas import InvalidJsonError
from tritium_platform import errors
from tritium_platform.serving.idempotency import (
    AnswerNotKeptError,
    IdempotencyKeyReusedError,
    StillRunningError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import Request
    from starlette.types import Scope

_log = structlog.get_logger(__name__)
_INVALID = "invalid_request_error"
_SERVER = "server_error"


class MethodNotAllowedError(errors.ValidationError):
    """The address exists and does not take this method."""


class UnsupportedMediaTypeError(errors.ValidationError):
    """The body comes in a form that this address does not read; details: accepted."""


class InvalidHeaderError(errors.ValidationError):
    """A header of the request is missing, there twice, or malformed; details: field."""


class IdempotencyKeyMissingError(InvalidHeaderError):
    """The request moves money, and has no `Idempotency-Key` to do so once; details: field."""


class IdempotencyKeyMalformedError(InvalidHeaderError):
    """There are several `Idempotency-Key` headers, or one that is no key; details: param."""


RULES: Mapping[type[errors.BitNetServiceError], ErrorRule] = {
    **LIBRARY_RULES,
    errors.TokenExpiredError: ErrorRule(401, _INVALID, "token_expired"),
    errors.TenantSuspendedError: ErrorRule(403, "permission_error", "tenant_suspended"),
    errors.FairUseSuspendedError: ErrorRule(403, "permission_error", "fair_use_suspended"),
    errors.InsufficientPermissionsError: ErrorRule(403, "permission_error", "insufficient_permissions"),
    errors.ModelSizeExceededError: ErrorRule(403, "permission_error", "model_size_exceeded"),
    MethodNotAllowedError: ErrorRule(405, _INVALID, "method_not_allowed"),
    errors.NotFoundError: ErrorRule(404, _INVALID, "not_found"),
    errors.ConflictError: ErrorRule(409, _INVALID, "conflict"),
    StillRunningError: ErrorRule(409, _INVALID, "idempotent_request_running"),
    IdempotencyKeyReusedError: ErrorRule(422, _INVALID, "idempotency_key_reused"),
    AnswerNotKeptError: ErrorRule(422, _INVALID, "idempotent_answer_not_kept"),
    errors.RequestTooLargeError: ErrorRule(413, _INVALID, "request_too_large"),
    errors.RateLimitExceededError: ErrorRule(429, "rate_limit_error", "rate_limit_exceeded"),
    errors.QuotaExceededError: ErrorRule(429, "insufficient_quota", "insufficient_quota"),
    InvalidHeaderError: ErrorRule(400, _INVALID, "invalid_header"),
    IdempotencyKeyMissingError: ErrorRule(400, _INVALID, "idempotency_key_missing"),
    IdempotencyKeyMalformedError: ErrorRule(400, _INVALID, "idempotency_key_malformed"),
    UnsupportedMediaTypeError: ErrorRule(415, _INVALID, "unsupported_media_type"),
    errors.SpendCapReachedError: ErrorRule(402, "insufficient_quota", "spend_cap_reached"),
    errors.InsufficientMemoryError: ErrorRule(503, _SERVER, "insufficient_memory"),
    errors.StorageQuotaExceededError: ErrorRule(507, _INVALID, "storage_quota_exceeded"),
    errors.PlatformError: ErrorRule(500, _SERVER, "platform_error"),
    errors.OverloadedError: ErrorRule(503, _SERVER, "overloaded"),
    errors.RetriesExhaustedError: ErrorRule(503, _SERVER, "retries_exhausted"),
    errors.DeadlineExceededError: ErrorRule(504, _SERVER, "deadline_exceeded"),
}


LIMIT_DETAILS = ("limit_name", "limit", "current", "remaining", "reset_time", "retry_after")


def openai_envelope(error: BaseException) -> tuple[int, dict[str, object], dict[str, str]]:
    """Return (status, body, headers) in OpenAI's form, with category and recovery beside the usual fields.

    Of a limit its name, what is left and when it starts anew are there, too: programs read no sentences.
    """
    status, body, headers = error_envelope(error, rules=RULES)
    inner = body["error"]
    if isinstance(error, errors.BitNetServiceError) and isinstance(inner, dict):
        inner |= {"category": error.category.value, "recovery": error.recovery.value}
        inner |= {name: error.details[name] for name in LIMIT_DETAILS if error.details.get(name) is not None}
    return status, body, headers


def problem_details(error: BaseException) -> tuple[int, dict[str, object], dict[str, str]]:
    """Return (status, body, headers) as RFC 9457 wants them; the error's details are members of the body."""
    status, envelope, headers = error_envelope(error, rules=RULES)
    # OpenAI answers 400 to every wrong request; elsewhere 400 means unreadable and 422 means wrong.
    if status == HTTPStatus.BAD_REQUEST and not isinstance(error, InvalidJsonError | InvalidHeaderError):
        status = HTTPStatus.UNPROCESSABLE_ENTITY.value
    inner = envelope["error"]
    code, message = (inner["code"], inner["message"]) if isinstance(inner, dict) else ("", "")
    body: dict[str, object] = {
        "type": f"urn:tritium:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": message,
        "code": code,
    }
    if isinstance(error, errors.BitNetServiceError):
        known = {
            name: value for name, value in error.details.items() if value is not None and name not in body
        }
        body |= {"category": error.category.value, "recovery": error.recovery.value, **known}
    return status, body, headers


class ProblemResponse(JSONResponse):
    """Problem details; half of a surrogate pair, which JSON lets a caller send, is no end of the answer."""

    media_type = "application/problem+json"

    def render(self, content: object) -> bytes:
        """Write JSON in ASCII."""
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def problem_response(request: Request, error: BaseException) -> JSONResponse:
    """Answer with the problem; what is not of our tree is logged and tells the caller nothing."""
    if not isinstance(error, errors.BitNetServiceError):
        _log.error("request_failed", path=request.url.path, exc_info=error)
    request.state.refusal = error
    status, body, headers = problem_details(error)
    request_id = getattr(request.state, "request_id", None)
    if request_id is not None:
        body["instance"] = f"urn:tritium:request:{request_id}"
    return ProblemResponse(body, status_code=status, headers=headers)


def refusal_response(scope: Scope, error: errors.BitNetServiceError) -> JSONResponse:
    """Answer before any route is found: in OpenAI's form under /v1, else as problem details."""
    is_openai = scope["path"].startswith("/v1/")
    if not is_openai:
        status, body, headers = problem_details(error)
        return ProblemResponse(body, status_code=status, headers=headers)
    status, body, headers = openai_envelope(error)
    return JSONResponse(body, status_code=status, headers=headers)
