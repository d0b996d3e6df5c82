"""What the traces of engines speak for: the operator's route."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from tritium.engine.bottleneck import Bottleneck
from tritium.engine.recommendations import Recommendation
from tritium_platform.api.deps import ThePlatform, admin, admin_key

router = APIRouter(prefix="/api/v1/recommendations", tags=["insight"], dependencies=[admin_key, admin])


class EngineRecommendationsOut(BaseModel):
    """One engine of a deployment: what limits it, and what to change.

    `seconds`, `requests` and `steps` say how much was recorded; of too little nothing is said.
    """

    deployment: str
    replica: str
    seconds: float
    requests: int
    steps: int
    bottleneck: Bottleneck
    recommendations: tuple[Recommendation, ...]


@router.get("")
async def list_recommendations(platform: ThePlatform) -> list[EngineRecommendationsOut]:
    """Analyse what the engines in memory have written down (setting `engine_traces`); takes seconds."""
    engines = [(reading.model, reading.replica) for reading in platform.deployments.engines()]
    return [
        EngineRecommendationsOut(
            deployment=each.deployment,
            replica=each.replica,
            seconds=each.analysis.evidence.seconds,
            requests=each.analysis.evidence.requests,
            steps=each.analysis.evidence.steps,
            bottleneck=each.analysis.bottleneck,
            recommendations=each.analysis.recommendations,
        )
        for each in await platform.recommendations.recommend(engines)
    ]
