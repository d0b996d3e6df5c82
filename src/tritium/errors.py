"""Every error the library raises, in one tree.

BitNetServiceError
├── AuthenticationError      who is calling is not known            (raised by the platform)
├── AuthorizationError       the caller may not do this             (raised by the platform)
├── ValidationError          the input is wrong; names what and why
├── ResourceError            a limit of memory, disk, rate or quota
│   └── InsufficientMemoryError
├── ProcessingError          the work itself failed
│   └── QuantizationError
├── PlatformError            the system around the work failed
└── ComplianceError          a rule of law or contract forbids it   (raised by the platform)

Imports nothing of this project, so that everybody may import it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

Plain = str | int | float | bool | None


class ErrorCategory(StrEnum):
    """What a caller can expect of a second attempt."""

    TRANSIENT = "transient"
    RATE_LIMITED = "rate_limited"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    PERMANENT = "permanent"
    SYSTEM_CRITICAL = "system_critical"


class Recovery(StrEnum):
    """What the caller can do about it."""

    NONE = "none"
    FIX_REQUEST = "fix_request"
    RETRY = "retry"
    RETRY_AFTER = "retry_after"
    REFRESH_TOKEN = "refresh_token"  # noqa: S105 - the specification's word, not a secret
    REAUTH_REQUIRED = "reauth_required"
    UPGRADE_TIER = "upgrade_tier"
    UPGRADE_STORAGE = "upgrade_storage"
    OPTIMIZE_BATCH_SIZE = "optimize_batch_size"
    INSTALL_EXTRA = "install_extra"
    CONTACT_OPERATOR = "contact_operator"


class BitNetServiceError(Exception):
    """The root of the tree: says what happened, and by `recovery` what to do.

    Args:
        message: one sentence for a human; it never holds a secret, a prompt or a key.
        recovery: what the caller can do; the class has a default.
        details: plain values (limit, current, reset_time, file, tensor ...) for programs.
    """

    category: ClassVar[ErrorCategory] = ErrorCategory.PERMANENT
    default_recovery: ClassVar[Recovery] = Recovery.NONE

    def __init__(self, message: str, *, recovery: Recovery | None = None, **details: Plain) -> None:
        super().__init__(message)
        self.message = message
        self.recovery = recovery or self.default_recovery
        self.details = details

    @property
    def code(self) -> str:
        """The stable machine name: the class name in snake case, without `Error`."""
        name = type(self).__name__.removesuffix("Error")
        return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


class AuthenticationError(BitNetServiceError):
    """Who is calling is not known."""

    default_recovery = Recovery.REAUTH_REQUIRED


class AuthorizationError(BitNetServiceError):
    """The caller is known and may not do this."""

    default_recovery = Recovery.UPGRADE_TIER


class ValidationError(BitNetServiceError):
    """The input is wrong: a request, a configuration, a checkpoint."""

    default_recovery = Recovery.FIX_REQUEST


class ResourceError(BitNetServiceError):
    """A limit of memory, disk, rate or quota stands in the way."""

    category = ErrorCategory.RESOURCE_EXHAUSTED
    default_recovery = Recovery.RETRY_AFTER


class InsufficientMemoryError(ResourceError):
    """More memory is needed than there is; details: required, available (bytes)."""

    default_recovery = Recovery.OPTIMIZE_BATCH_SIZE


class ProcessingError(BitNetServiceError):
    """The work itself failed."""


class QuantizationError(ProcessingError):
    """A model could not be quantized; details name the layer."""


class PlatformError(BitNetServiceError):
    """The system around the work failed (the specification's SystemError)."""

    category = ErrorCategory.SYSTEM_CRITICAL
    default_recovery = Recovery.CONTACT_OPERATOR


class ComplianceError(BitNetServiceError):
    """A rule of law or contract forbids it."""

    default_recovery = Recovery.CONTACT_OPERATOR


class MissingExtraError(BitNetServiceError):
    """A feature needs an optional dependency; the message names the extra to install."""

    default_recovery = Recovery.INSTALL_EXTRA

    def __init__(self, *, extra: str, feature: str) -> None:
        super().__init__(
            f"{feature} needs an optional part: install it with pip install 'tritium[{extra}]'.", extra=extra
        )
