"""Everything that a trace says of its engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.engine.bottleneck import Bottleneck, find_bottleneck
from tritium.engine.evidence import Evidence, evidence_of
from tritium.engine.recommendations import Recommendation, recommend

if TYPE_CHECKING:
    from tritium.engine.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What was measured, what limits the engine, and what to change."""

    evidence: Evidence
    bottleneck: Bottleneck
    recommendations: tuple[Recommendation, ...]


def analyse(trace: Trace, *, seed: int = 0) -> Analysis:
    """Look at a trace from all sides; the same trace and seed give the same analysis.

    Takes seconds of a processor for a long trace: recommended limits are simulated.
    """
    evidence = evidence_of(trace)
    return Analysis(
        evidence=evidence,
        bottleneck=find_bottleneck(evidence),
        recommendations=recommend(trace, seed=seed),
    )
