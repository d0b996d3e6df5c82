"""How an engine is run in a process of its own, and the command line that says so."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from tritium.engine.config import EngineConfig

if TYPE_CHECKING:
    from pathlib import Path

_MODULE = "tritium_platform.worker.engine_main"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """How to run one engine process; times in seconds, memory in bytes (0: no limit).

    `trace` is the file that a trace of its work is written to, anew whenever it starts; None for none.
    `shares_processor` says whether its part of the processor follows the tenant's weight.
    """

    threads: int = 1
    memory_limit_bytes: int = 0
    limits: EngineConfig = field(default_factory=EngineConfig)
    trace: Path | None = None
    shares_processor: bool = False
    load_timeout: float = 120.0
    heartbeat_timeout: float = 30.0
    log_level: str = "info"
    backoff_base: float = 0.25
    backoff_cap: float = 15.0
    healthy_after: float = 30.0

    def command(self, *, name: str, model_path: str, link: int) -> list[str]:
        """Return the command line of an engine; `link` is the descriptor of its end of the sockets."""
        trace = [] if self.trace is None else ["--trace", str(self.trace)]
        return [
            sys.executable,
            *("-m", _MODULE, "--link", str(link), "--model", model_path, "--name", name),
            *("--threads", str(self.threads), "--memory-limit", str(self.memory_limit_bytes)),
            *("--log-level", self.log_level, "--limits", msgspec.json.encode(self.limits).decode()),
            *trace,
        ]
