"""What a caller is told about its limits, in OpenAI's headers and in the fields of the IETF's draft.

`x-ratelimit-*` are OpenAI's: numbers, and durations such as `6m0s` or `250ms` until all of a limit is back.
`RateLimit-Policy` and `RateLimit` follow draft-ietf-httpapi-ratelimit-headers-11, in the syntax of RFC 9651.
The units "tokens" and "events" are ours: the draft's registry knows requests, content-bytes and
concurrent-requests.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tritium_platform.errors import QuotaExceededError, RateLimitExceededError, RequestTooLargeError
from tritium_platform.quotas.model import RateStatus

if TYPE_CHECKING:
    from tritium_platform.quotas.model import Allowance

# The errors that a limit raised: their answers tell what is left.
REFUSALS_BY_LIMIT = (RateLimitExceededError, QuotaExceededError, RequestTooLargeError)
_MINUTE_SECONDS = 60
_LARGEST_INTEGER = 10**15 - 1  # of a structured field


def limit_headers(allowance: Allowance) -> dict[str, str]:
    """Return both families of headers; the month is told of where it was looked up."""
    headers: dict[str, str] = {}
    for kind, status in (("requests", allowance.requests), ("tokens", allowance.tokens)):
        headers |= {
            f"x-ratelimit-limit-{kind}": str(status.limit),
            f"x-ratelimit-remaining-{kind}": str(status.remaining),
            f"x-ratelimit-reset-{kind}": duration(status.reset_seconds),
        }
    policies = [
        ("requests-per-minute", allowance.requests, f";w={_MINUTE_SECONDS}"),
        ("tokens-per-minute", allowance.tokens, f';w={_MINUTE_SECONDS};qu="tokens"'),
        ("concurrent-requests", allowance.concurrent, ';qu="concurrent-requests"'),
        ("requests-per-month", allowance.month, ""),
    ]
    known = [(name, status, rest) for name, status, rest in policies if status is not None]
    headers["ratelimit-policy"] = ", ".join(
        f'"{name}";q={_integer(status.limit)}{rest}' for name, status, rest in known
    )
    headers["ratelimit"] = ", ".join(
        f'"{name}";r={_integer(status.remaining)}{_window(status)}' for name, status, _ in known
    )
    return headers


def event_headers(status: RateStatus) -> dict[str, str]:
    """Return both families of headers for the rate of events."""
    return {
        "x-ratelimit-limit-events": str(status.limit),
        "x-ratelimit-remaining-events": str(status.remaining),
        "x-ratelimit-reset-events": duration(status.reset_seconds),
        "ratelimit-policy": f'"events-per-minute";q={_integer(status.limit)};w={_MINUTE_SECONDS};qu="events"',
        "ratelimit": f'"events-per-minute";r={_integer(status.remaining)}{_window(status)}',
    }


def month_after(error: BaseException) -> RateStatus | None:
    """Return what is left of the month if it was the month that refused."""
    if not isinstance(error, QuotaExceededError):
        return None
    limit, used, seconds = (int(str(error.details[name])) for name in ("limit", "current", "retry_after"))
    return RateStatus(limit, remaining=max(0, limit - used), reset_seconds=seconds)


def duration(seconds: float) -> str:
    """Write a time as OpenAI does, such as 1h2m3s, 8.64s or 250ms; rounded up to the millisecond.

    The form is that of Go's `time.Duration`.
    """
    milliseconds = math.ceil(round(seconds * 1000, 3))
    if milliseconds == 0:
        return "0s"
    if milliseconds < 1000:  # noqa: PLR2004 - in a second
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, fraction = divmod(rest, 1000)
    text = f"{whole}.{fraction:03}".rstrip("0").rstrip(".") + "s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def _window(status: RateStatus) -> str:
    """Write within how many seconds no more than what remains may be used: then all of the limit is back."""
    return f";t={math.ceil(status.reset_seconds)}" if status.reset_seconds else ""


def _integer(value: int) -> int:
    return min(value, _LARGEST_INTEGER)
