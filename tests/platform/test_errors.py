"""Every error of the platform says what happened and what to do, and hides what it must."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tritium_platform import errors
from tritium_platform.errors import (
    BitNetServiceError,
    CircuitOpenError,
    DeadlineExceededError,
    ErrorCategory,
    InsufficientPermissionsError,
    InvalidTokenError,
    ModelSizeExceededError,
    OverloadedError,
    QuotaExceededError,
    RateLimitExceededError,
    Recovery,
    RequestTooLargeError,
    RetriesExhaustedError,
    StorageQuotaExceededError,
    TenantSuspendedError,
    TokenExpiredError,
)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LIMIT = {"limit_name": "requests per minute", "limit": 60, "current": 61}
EXAMPLES: dict[BitNetServiceError, tuple[Recovery, ErrorCategory, str]] = {
    InvalidTokenError(key_id="abc"): (Recovery.REFRESH_TOKEN, ErrorCategory.PERMANENT, "invalid_token"),
    TokenExpiredError(key_id="abc", expiry=NOON): (
        Recovery.REAUTH_REQUIRED,
        ErrorCategory.PERMANENT,
        "token_expired",
    ),
    InsufficientPermissionsError(required="usage"): (
        Recovery.UPGRADE_TIER,
        ErrorCategory.PERMANENT,
        "insufficient_permissions",
    ),
    ModelSizeExceededError(limit=1, current=2): (
        Recovery.UPGRADE_TIER,
        ErrorCategory.PERMANENT,
        "model_size_exceeded",
    ),
    TenantSuspendedError(): (Recovery.CONTACT_OPERATOR, ErrorCategory.PERMANENT, "tenant_suspended"),
    RequestTooLargeError(**LIMIT): (Recovery.UPGRADE_TIER, ErrorCategory.PERMANENT, "request_too_large"),
    RateLimitExceededError(**LIMIT, reset_time=NOON, retry_after=3): (
        Recovery.RETRY_AFTER,
        ErrorCategory.RATE_LIMITED,
        "rate_limit_exceeded",
    ),
    QuotaExceededError(**LIMIT, reset_time=NOON, retry_after=3): (
        Recovery.UPGRADE_TIER,
        ErrorCategory.RATE_LIMITED,
        "quota_exceeded",
    ),
    StorageQuotaExceededError(usage=1, quota=2, required=3): (
        Recovery.UPGRADE_STORAGE,
        ErrorCategory.RESOURCE_EXHAUSTED,
        "storage_quota_exceeded",
    ),
    OverloadedError("Too much."): (Recovery.RETRY_AFTER, ErrorCategory.TRANSIENT, "overloaded"),
    CircuitOpenError(neighbour="engine", retry_after=2): (
        Recovery.RETRY_AFTER,
        ErrorCategory.TRANSIENT,
        "circuit_open",
    ),
    DeadlineExceededError(operation="call"): (Recovery.RETRY, ErrorCategory.TRANSIENT, "deadline_exceeded"),
    RetriesExhaustedError(operation="call", attempts=3): (
        Recovery.CONTACT_OPERATOR,
        ErrorCategory.SYSTEM_CRITICAL,
        "retries_exhausted",
    ),
}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_has_its_recovery_category_and_code(error: BitNetServiceError) -> None:
    assert (error.recovery, error.category, error.code) == EXAMPLES[error]
    assert str(error) == error.message
    assert len(error.message) > 5
    assert all(
        value is None or isinstance(value, str | int | float | bool) for value in error.details.values()
    )


def test_every_error_of_the_platform_is_drawn_in_the_tree() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type) and kind.__module__ == errors.__name__:
            assert name in (errors.__doc__ or "")
