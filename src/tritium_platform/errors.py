"""Every error of the platform: the library's tree with the branches that need tenants, limits and money.

BitNetServiceError
├── AuthenticationError
│   ├── InvalidTokenError             the key is unknown, revoked or misspelt      refresh_token
│   └── TokenExpiredError             the key was good once                        reauth_required
├── AuthorizationError
│   ├── FairUseSuspendedError         its use was far beyond its share             contact_operator
│   ├── InsufficientPermissionsError  the key lacks a scope                        upgrade_tier
│   ├── ModelSizeExceededError        the tier does not take models this big       upgrade_tier
│   └── TenantSuspendedError          the operator has closed the account          contact_operator
├── ValidationError
│   ├── NotFoundError                 no such thing, or it is somebody else's      fix_request
│   ├── ConflictError                 it contradicts what is already recorded      fix_request
│   └── RequestTooLargeError          no waiting makes this request fit            upgrade_tier
├── ResourceError
│   ├── RateLimitExceededError        too fast                                     retry_after
│   ├── QuotaExceededError            the month is spent                           upgrade_tier
│   ├── SpendCapReachedError          the money of the month is spent              contact_operator
│   ├── SourceBlockedError            too many wrong keys from this address        retry_after
│   └── StorageQuotaExceededError     the disk share is full                       upgrade_storage
├── ProcessingError
├── PlatformError
│   ├── OverloadedError               no capacity at the moment                    retry_after
│   ├── CircuitOpenError              a neighbour failed too often                 retry_after
│   ├── DeadlineExceededError         the time for this call is used up            retry
│   └── RetriesExhaustedError         every attempt failed                         contact_operator
└── ComplianceError
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tritium.errors import (
    AuthenticationError,
    AuthorizationError,
    BitNetServiceError,
    ComplianceError,
    ErrorCategory,
    InsufficientMemoryError,
    MissingExtraError,
    Plain,
    PlatformError,
    ProcessingError,
    QuantizationError,
    Recovery,
    ResourceError,
    ValidationError,
)

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "AuthenticationError",
    "AuthorizationError",
    "BitNetServiceError",
    "CircuitOpenError",
    "ComplianceError",
    "ConflictError",
    "DeadlineExceededError",
    "ErrorCategory",
    "FairUseSuspendedError",
    "InsufficientMemoryError",
    "InsufficientPermissionsError",
    "InvalidTokenError",
    "MissingExtraError",
    "ModelSizeExceededError",
    "NotFoundError",
    "OverloadedError",
    "Plain",
    "PlatformError",
    "ProcessingError",
    "QuantizationError",
    "QuotaExceededError",
    "RateLimitExceededError",
    "Recovery",
    "RequestTooLargeError",
    "ResourceError",
    "RetriesExhaustedError",
    "SourceBlockedError",
    "SpendCapReachedError",
    "StorageQuotaExceededError",
    "TenantSuspendedError",
    "TokenExpiredError",
    "ValidationError",
]


class InvalidTokenError(AuthenticationError):
    """The API key is unknown, revoked or misspelt; details: key_id where one could be read."""

    default_recovery = Recovery.REFRESH_TOKEN

    def __init__(self, *, key_id: str | None = None) -> None:
        super().__init__(
            "The API key is not valid: check that it is complete, or create a new one.", key_id=key_id
        )


class TokenExpiredError(AuthenticationError):
    """The API key was valid until its expiry; details: key_id, expiry."""

    default_recovery = Recovery.REAUTH_REQUIRED

    def __init__(self, *, key_id: str, expiry: datetime) -> None:
        super().__init__(
            f"The API key expired at {expiry.isoformat()}: create a new one.",
            key_id=key_id,
            expiry=expiry.isoformat(),
        )


class InsufficientPermissionsError(AuthorizationError):
    """The key lacks a scope; details: required."""

    def __init__(self, *, required: str) -> None:
        super().__init__(f"This API key may not do that: it needs the scope '{required}'.", required=required)


class ModelSizeExceededError(AuthorizationError):
    """The tenant's tier does not take a model of this size; details: limit, current (bytes)."""

    def __init__(self, *, limit: int, current: int) -> None:
        super().__init__(
            f"The model has {current} bytes; this tier takes models of up to {limit} bytes.",
            limit=limit,
            current=current,
        )


class TenantSuspendedError(AuthorizationError):
    """The operator has suspended the tenant."""

    default_recovery = Recovery.CONTACT_OPERATOR

    def __init__(self) -> None:
        super().__init__("This organization is suspended: contact the operator of the service.")


class FairUseSuspendedError(AuthorizationError):
    """The tenant used far more than its fair share and is suspended for a while, by rule.

    Details: reason, ends_at, measure (its id, for an appeal), retry_after (whole seconds).
    """

    default_recovery = Recovery.CONTACT_OPERATOR

    def __init__(self, *, reason: str, ends_at: datetime, measure: str, retry_after: int) -> None:
        super().__init__(
            f"This organization is suspended until {ends_at.isoformat()} for its use: {reason} "
            f"To appeal, name the measure {measure} to the operator of the service.",
            reason=reason,
            ends_at=ends_at.isoformat(),
            measure=measure,
            retry_after=retry_after,
        )


class NotFoundError(ValidationError):
    """No such object for this tenant; the same answer for somebody else's."""


class ConflictError(ValidationError):
    """The request contradicts what is already recorded under the same name or id."""


class RequestTooLargeError(ValidationError):
    """One request asks for more than the limit allows at once, so waiting cannot help."""

    default_recovery = Recovery.UPGRADE_TIER

    def __init__(self, *, limit_name: str, limit: int, current: int) -> None:
        super().__init__(
            f"The request needs {current} of {limit_name}, and the limit is {limit}: make it smaller.",
            limit_name=limit_name,
            limit=limit,
            current=current,
        )


class RateLimitExceededError(ResourceError):
    """Too fast; a client that waits `retry_after` whole seconds is admitted by this limit."""

    category = ErrorCategory.RATE_LIMITED

    def __init__(
        self, *, limit_name: str, limit: int, current: int, reset_time: datetime, retry_after: int
    ) -> None:
        super().__init__(
            f"The limit of {limit} {limit_name} is reached: try again in {retry_after} s.",
            limit_name=limit_name,
            limit=limit,
            current=current,
            reset_time=reset_time.isoformat(),
            retry_after=retry_after,
        )


class QuotaExceededError(ResourceError):
    """The quota of the calendar month is spent or held by requests in flight; resets at `reset_time`."""

    category = ErrorCategory.RATE_LIMITED
    default_recovery = Recovery.UPGRADE_TIER

    def __init__(
        self, *, limit_name: str, limit: int, current: int, reset_time: datetime, retry_after: int
    ) -> None:
        super().__init__(
            f"The quota of {limit} {limit_name} is spent: it starts anew at {reset_time.isoformat()}; "
            "a higher tier has more.",
            limit_name=limit_name,
            limit=limit,
            current=current,
            reset_time=reset_time.isoformat(),
            retry_after=retry_after,
        )


class SpendCapReachedError(ResourceError):
    """The request could cost more than the tenant's spend cap leaves this month.

    Details: limit, remaining (money), reset_time, retry_after (whole seconds).
    """

    category = ErrorCategory.RATE_LIMITED
    default_recovery = Recovery.CONTACT_OPERATOR

    def __init__(self, *, limit: str, remaining: str, reset_time: datetime, retry_after: int) -> None:
        super().__init__(
            f"The spend cap of {limit} a month leaves {remaining}, and this request could cost more: it "
            f"starts anew at {reset_time.isoformat()}. Ask for a shorter answer, or the operator for more.",
            limit_name="spend per month",
            limit=limit,
            remaining=remaining,
            reset_time=reset_time.isoformat(),
            retry_after=retry_after,
        )


class SourceBlockedError(ResourceError):
    """Too many authentications failed from the caller's address; details: retry_after (whole seconds)."""

    category = ErrorCategory.RATE_LIMITED

    def __init__(self, *, retry_after: int) -> None:
        super().__init__(
            f"Too many requests with wrong keys came from this address: try again in {retry_after} s.",
            retry_after=retry_after,
        )


class StorageQuotaExceededError(ResourceError):
    """The tenant's share of the disk is full; details: usage, quota, required (bytes)."""

    default_recovery = Recovery.UPGRADE_STORAGE

    def __init__(self, *, usage: int, quota: int, required: int) -> None:
        super().__init__(
            f"{required} bytes do not fit: {usage} of {quota} bytes of storage are in use. Delete a model.",
            usage=usage,
            quota=quota,
            required=required,
        )


class OverloadedError(PlatformError):
    """There is no capacity at the moment; details: retry_after (whole seconds)."""

    category: ClassVar[ErrorCategory] = ErrorCategory.TRANSIENT
    default_recovery = Recovery.RETRY_AFTER

    def __init__(self, message: str, *, retry_after: int = 1, **details: Plain) -> None:
        super().__init__(message, recovery=None, retry_after=retry_after, **details)


class CircuitOpenError(OverloadedError):
    """Calls to a neighbour are refused for a while because too many of them failed."""

    def __init__(self, *, neighbour: str, retry_after: int) -> None:
        super().__init__(
            f"{neighbour} is failing and gets a pause: try again in {retry_after} s.",
            retry_after=retry_after,
            neighbour=neighbour,
        )


class DeadlineExceededError(PlatformError):
    """The time for this call is used up."""

    category: ClassVar[ErrorCategory] = ErrorCategory.TRANSIENT
    default_recovery = Recovery.RETRY

    def __init__(self, *, operation: str) -> None:
        super().__init__(f"The time for {operation} is used up.", operation=operation)


class RetriesExhaustedError(PlatformError):
    """Every attempt failed; the last failure is the cause."""

    def __init__(self, *, operation: str, attempts: int) -> None:
        super().__init__(
            f"{operation} failed {attempts} times in a row; the last cause is attached.",
            operation=operation,
            attempts=attempts,
        )
