"""Traces in memory, analysed in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.engine.analysis import Analysis, analyse

if TYPE_CHECKING:
    from tritium.engine.trace import Trace


class MemoryTraceAnalyst:
    """A `TraceAnalyst` over the traces that it is given."""

    def __init__(self) -> None:
        self.traces: dict[str, Trace] = {}

    async def analyse(self, replica: str) -> Analysis | None:
        """Analyse the trace of an engine; None if there is none of it."""
        trace = self.traces.get(replica)
        return None if trace is None else analyse(trace)
