"""What operators may change: the traces of engines that run, analysed where it disturbs nobody."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tritium.engine.analysis import Analysis  # noqa: TC001 - the API reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class TraceAnalyst(Protocol):
    """Analyses the traces that engines have written."""

    async def analyse(self, replica: str) -> Analysis | None:
        """Return what the trace of an engine says; None if it has written none.

        Raises:
            ProcessingError: the trace could not be analysed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAnalysis:
    """One engine of a deployment, and what its trace says."""

    deployment: str
    replica: str
    analysis: Analysis


class RecommendationService:
    """Analyses one trace at a time: it costs seconds of a processor."""

    def __init__(self, analyst: TraceAnalyst) -> None:
        self._analyst = analyst
        self._turn = asyncio.Lock()

    async def recommend(self, engines: Iterable[tuple[str, str]]) -> Sequence[EngineAnalysis]:
        """Return an analysis for each engine that has written a trace.

        Args:
            engines: the name of each one's deployment, and its own.
        """
        found = []
        async with self._turn:
            for deployment, replica in engines:
                analysis = await self._analyst.analyse(replica)
                if analysis is not None:
                    found.append(EngineAnalysis(deployment=deployment, replica=replica, analysis=analysis))
        return found
