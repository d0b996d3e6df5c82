"""The errors of serving, as leaves of the one tree."""

from __future__ import annotations

from tritium_platform.errors import OverloadedError


class EngineUnavailableError(OverloadedError):
    """No engine can take the request now, or it died under it; details: retry_after (whole seconds)."""
