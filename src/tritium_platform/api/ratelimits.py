"""What a caller is told about its limits, in the headers OpenAI's clients read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tritium_platform.errors import RateLimitExceededError

if TYPE_CHECKING:
    from tritium_platform.quotas.model import Admission, RateStatus

_LIMIT_NAMES = {"requests per minute": "requests", "tokens per minute": "tokens"}


def headers_of_admission(admission: Admission) -> dict[str, str]:
    """Return limit, remaining and reset of both rates."""
    return _headers("requests", admission.requests) | _headers("tokens", admission.token_rate)


def headers_of_refusal(error: BaseException) -> dict[str, str]:
    """Return the headers of the limit that refused; none for another error."""
    if not isinstance(error, RateLimitExceededError):
        return {}
    kind = _LIMIT_NAMES.get(str(error.details["limit_name"]))
    if kind is None:
        return {}
    return {
        f"x-ratelimit-limit-{kind}": str(error.details["limit"]),
        f"x-ratelimit-remaining-{kind}": "0",
        f"x-ratelimit-reset-{kind}": f"{error.details['retry_after']}s",
    }


def _headers(kind: str, status: RateStatus) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": str(status.limit),
        f"x-ratelimit-remaining-{kind}": str(status.remaining),
        f"x-ratelimit-reset-{kind}": f"{math.ceil(status.reset_seconds)}s",
    }
