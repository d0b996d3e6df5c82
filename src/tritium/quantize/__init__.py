"""Turns models into ternary models, layer by layer, and measures what that cost."""

from tritium.quantize.config import LayerOverride, QuantizationConfig, QuantizationStrategy
from tritium.quantize.evaluate import Evaluation, evaluate
from tritium.quantize.pipeline import assemble, plan_quantization, quantize_layer, quantize_model
from tritium.quantize.plan import PlannedLayer, QuantizationPlan
from tritium.quantize.report import (
    Estimate,
    LayerReport,
    ModelKind,
    QuantizationMetrics,
    QuantizationProgress,
    Stage,
    ValidationReport,
)

__all__ = [
    "Estimate",
    "Evaluation",
    "LayerOverride",
    "LayerReport",
    "ModelKind",
    "PlannedLayer",
    "QuantizationConfig",
    "QuantizationMetrics",
    "QuantizationPlan",
    "QuantizationProgress",
    "QuantizationStrategy",
    "Stage",
    "ValidationReport",
    "assemble",
    "evaluate",
    "plan_quantization",
    "quantize_layer",
    "quantize_model",
]
