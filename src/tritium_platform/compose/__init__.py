"""The only place that wires: a configuration becomes a platform, or (`worker`) what does its long work."""

from tritium_platform.compose.initialize import initialize_platform, problems_of
from tritium_platform.compose.platform import Platform

__all__ = ["Platform", "initialize_platform", "problems_of"]
