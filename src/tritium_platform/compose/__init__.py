"""The only place that wires: a configuration becomes a platform."""

from tritium_platform.compose.initialize import initialize_platform, initialize_worker, problems_of
from tritium_platform.compose.platform import Platform

__all__ = ["Platform", "initialize_platform", "initialize_worker", "problems_of"]
