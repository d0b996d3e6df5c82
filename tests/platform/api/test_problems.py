"""Every error of the tree, in both forms: status, recovery, headers."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime

import pytest

from tritium import errors as library
from tritium.engine.request import ContextLengthExceededError, QueueFullError
from tritium.protocol import calls, schemas
from tritium_platform import errors as platform
from tritium_platform.api.problems import (
    RULES,
    IdempotencyKeyMalformedError,
    IdempotencyKeyMissingError,
    InvalidHeaderError,
    MethodNotAllowedError,
    openai_envelope,
    problem_details,
)
from tritium_platform.serving.errors import EngineUnavailableError
from tritium_platform.serving.idempotency import (
    AnswerNotKeptError,
    IdempotencyKeyReusedError,
    StillRunningError,
)

SOON = datetime(2026, 11, 23, tzinfo=UTC)
LIMITED = {
    "limit_name": "requests per minute",
    "limit": 3,
    "current": 3,
    "reset_time": SOON,
    "retry_after": 7,
}
# error, status under /v1, status elsewhere, recovery, code, the headers it must carry
TABLE = [
    (platform.AuthenticationError("x"), 401, 401, "reauth_required", "invalid_api_key", {"WWW-Authenticate"}),
    (platform.InvalidTokenError(), 401, 401, "refresh_token", "invalid_api_key", {"WWW-Authenticate"}),
    (
        platform.TokenExpiredError(key_id="k", expiry=SOON),
        401,
        401,
        "reauth_required",
        "token_expired",
        {"WWW-Authenticate"},
    ),
    (platform.AuthorizationError("x"), 403, 403, "upgrade_tier", "authorization", set()),
    (
        platform.InsufficientPermissionsError(required="s"),
        403,
        403,
        "upgrade_tier",
        "insufficient_permissions",
        set(),
    ),
    (
        platform.ModelSizeExceededError(limit=1, current=2),
        403,
        403,
        "upgrade_tier",
        "model_size_exceeded",
        set(),
    ),
    (platform.SourceBlockedError(retry_after=7), 429, 429, "retry_after", "source_blocked", {"Retry-After"}),
    (platform.TenantSuspendedError(), 403, 403, "contact_operator", "tenant_suspended", set()),
    (
        platform.FairUseSuspendedError(reason="r", ends_at=SOON, measure="m", retry_after=7),
        403,
        403,
        "contact_operator",
        "fair_use_suspended",
        {"Retry-After"},
    ),
    (platform.ComplianceError("x"), 403, 403, "contact_operator", "compliance", set()),
    (platform.ValidationError("x"), 400, 422, "fix_request", "validation", set()),
    (schemas.InvalidJsonError("x"), 400, 400, "fix_request", "invalid_json", set()),
    (schemas.UnknownParameterError("x"), 400, 422, "fix_request", "unknown_parameter", set()),
    (schemas.UnsupportedParameterError("x"), 400, 422, "fix_request", "unsupported_parameter", set()),
    (schemas.RequestTooLargeError("x"), 413, 413, "fix_request", "request_too_large", set()),
    (ContextLengthExceededError("x"), 400, 422, "fix_request", "context_length_exceeded", set()),
    (calls.ModelNotFoundError("x"), 404, 404, "fix_request", "model_not_found", set()),
    (InvalidHeaderError("x"), 400, 400, "fix_request", "invalid_header", set()),
    (IdempotencyKeyMissingError("x"), 400, 400, "fix_request", "idempotency_key_missing", set()),
    (IdempotencyKeyMalformedError("x"), 400, 400, "fix_request", "idempotency_key_malformed", set()),
    (MethodNotAllowedError("x"), 405, 405, "fix_request", "method_not_allowed", set()),
    (platform.NotFoundError("x"), 404, 404, "fix_request", "not_found", set()),
    (platform.ConflictError("x"), 409, 409, "fix_request", "conflict", set()),
    (
        StillRunningError("x", retry_after=1),
        409,
        409,
        "retry_after",
        "idempotent_request_running",
        {"Retry-After"},
    ),
    (IdempotencyKeyReusedError("x"), 422, 422, "fix_request", "idempotency_key_reused", set()),
    (AnswerNotKeptError("x"), 422, 422, "fix_request", "idempotent_answer_not_kept", set()),
    (
        platform.RequestTooLargeError(limit_name="t", limit=1, current=2),
        413,
        413,
        "upgrade_tier",
        "request_too_large",
        set(),
    ),
    (platform.ResourceError("x"), 503, 503, "retry_after", "resource", {"Retry-After"}),
    (
        platform.InsufficientMemoryError("x"),
        503,
        503,
        "optimize_batch_size",
        "insufficient_memory",
        {"Retry-After"},
    ),
    (
        platform.RateLimitExceededError(**LIMITED),
        429,
        429,
        "retry_after",
        "rate_limit_exceeded",
        {"Retry-After"},
    ),
    (QueueFullError("x", retry_after=1), 429, 429, "retry_after", "queue_full", {"Retry-After"}),
    (
        platform.SpendCapReachedError(limit="1.00 USD", remaining="0.10 USD", reset_time=SOON, retry_after=7),
        402,
        402,
        "contact_operator",
        "spend_cap_reached",
        {"Retry-After"},
    ),
    (platform.QuotaExceededError(**LIMITED), 429, 429, "upgrade_tier", "insufficient_quota", {"Retry-After"}),
    (
        platform.StorageQuotaExceededError(usage=1, quota=2, required=3),
        507,
        507,
        "upgrade_storage",
        "storage_quota_exceeded",
        set(),
    ),
    (platform.ProcessingError("x"), 500, 500, "none", "processing", set()),
    (platform.QuantizationError("x"), 500, 500, "none", "quantization", set()),
    (platform.PlatformError("x"), 500, 500, "contact_operator", "platform_error", set()),
    (platform.OverloadedError("x"), 503, 503, "retry_after", "overloaded", {"Retry-After"}),
    (EngineUnavailableError("x"), 503, 503, "retry_after", "overloaded", {"Retry-After"}),
    (
        platform.CircuitOpenError(neighbour="n", retry_after=5),
        503,
        503,
        "retry_after",
        "overloaded",
        {"Retry-After"},
    ),
    (platform.DeadlineExceededError(operation="o"), 504, 504, "retry", "deadline_exceeded", set()),
    (
        platform.RetriesExhaustedError(operation="o", attempts=3),
        503,
        503,
        "contact_operator",
        "retries_exhausted",
        {"Retry-After"},
    ),
    (
        platform.MissingExtraError(extra="hub", feature="f"),
        501,
        501,
        "install_extra",
        "missing_extra",
        set(),
    ),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: type(row[0]).__name__)
def test_every_error_has_its_status_recovery_code_and_headers_in_both_forms(row):
    error, openai_status, problem_status, recovery, code, wanted = row
    status, body, headers = openai_envelope(error)
    inner = body["error"]
    assert (status, inner["recovery"], inner["code"]) == (openai_status, recovery, code)
    assert inner["message"] == error.message
    assert set(headers) == wanted
    status, problem, headers = problem_details(error)
    assert (status, problem["status"]) == (problem_status, problem_status)
    assert (problem["recovery"], problem["code"], problem["category"]) == (
        recovery,
        code,
        error.category.value,
    )
    assert problem["type"] == f"urn:tritium:problem:{code}"
    assert set(headers) == wanted


def test_the_table_covers_every_class_of_both_trees():
    classes = {
        each
        for module in (library, platform)
        for _, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, library.BitNetServiceError) and each is not library.BitNetServiceError
    }
    assert classes <= {type(row[0]) for row in TABLE}


def test_every_class_of_the_tree_that_exists_anywhere_has_a_rule():
    def walk(root):
        yield root
        for child in root.__subclasses__():
            yield from walk(child)

    for each in walk(library.BitNetServiceError):
        assert any(base in RULES for base in each.__mro__)


def test_the_time_to_retry_is_the_one_the_limit_names():
    _, _, headers = openai_envelope(platform.RateLimitExceededError(**LIMITED))
    assert headers["Retry-After"] == "7"


def test_a_cap_names_its_limit_rest_and_reset_in_both_forms():
    reset = datetime(2026, 12, 1, tzinfo=UTC)
    error = platform.SpendCapReachedError(
        limit="0.30 USD", remaining="0.00 USD", reset_time=reset, retry_after=9
    )
    said = {"limit": "0.30 USD", "remaining": "0.00 USD", "reset_time": reset.isoformat(), "retry_after": 9}
    status, body, _ = openai_envelope(error)
    assert (status, body["error"] | said) == (402, body["error"])
    status, body, _ = problem_details(error)
    assert (status, body | said) == (402, body)


def test_what_is_not_of_the_tree_tells_the_caller_nothing():
    for form in (openai_envelope, problem_details):
        status, body, _ = form(KeyError("the database password is hunter2"))
        assert status == 500
        assert "hunter2" not in str(body)


def test_details_never_overwrite_the_members_of_a_problem():
    _, body, _ = problem_details(platform.ValidationError("x", status="fine", title="all is well", field="f"))
    assert body["status"] == 422
    assert body["title"].startswith("Unprocessable")
    assert body["field"] == "f"
