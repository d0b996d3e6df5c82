"""Who may see the console: whoever once showed the operator's key, for eight hours.

The cookie is `expiry.code`, where the code is an HMAC of the expiry under a key derived from the operator's
key. Nothing is stored; changing the operator's key ends every session.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

COOKIE = "tritium_console"
LIFETIME = timedelta(hours=8)
LONGEST_COOKIE = 100


@dataclass(frozen=True, slots=True)
class ConsoleSessions:
    """Gives out and checks session cookies."""

    admin_token: str

    def log_in(self, token: str, *, now: datetime) -> str | None:
        """Return a session cookie for the operator's key, None for any other."""
        if not hmac.compare_digest(token.encode(), self.admin_token.encode()):
            return None
        expiry = str(int((now + LIFETIME).timestamp()))
        return f"{expiry}.{self._code(expiry)}"

    def is_valid(self, cookie: str | None, *, now: datetime) -> bool:
        """Tell whether a cookie was given out here and is still good."""
        expiry, _, code = (cookie or "")[:LONGEST_COOKIE].partition(".")
        if not hmac.compare_digest(code.encode(), self._code(expiry).encode()):
            return False
        return int(expiry) > now.timestamp()

    def _code(self, expiry: str) -> str:
        key = hmac.digest(self.admin_token.encode(), b"tritium console session", hashlib.sha256)
        return hmac.new(key, expiry.encode(), hashlib.sha256).hexdigest()
