"""Turns models into ternary models, layer by layer, and measures what that cost."""

from tritium.quantize.config import LayerOverride, Profile, QuantizationConfig, QuantizationStrategy
from tritium.quantize.evaluate import Evaluation, evaluate
from tritium.quantize.model_report import ModelReport, open_report
from tritium.quantize.pipeline import assemble, plan_quantization, quantize_layer, quantize_model
from tritium.quantize.plan import PlannedLayer, QuantizationPlan
from tritium.quantize.recompute import Difference, Recomputation, recompute_report
from tritium.quantize.report import (
    Comparison,
    Estimate,
    LayerReport,
    ModelKind,
    QuantizationMetrics,
    QuantizationProgress,
    Stage,
    ValidationReport,
)

__all__ = [
    "Comparison",
    "Difference",
    "Estimate",
    "Evaluation",
    "LayerOverride",
    "LayerReport",
    "ModelKind",
    "ModelReport",
    "PlannedLayer",
    "Profile",
    "QuantizationConfig",
    "QuantizationMetrics",
    "QuantizationPlan",
    "QuantizationProgress",
    "QuantizationStrategy",
    "Recomputation",
    "Stage",
    "ValidationReport",
    "assemble",
    "evaluate",
    "open_report",
    "plan_quantization",
    "quantize_layer",
    "quantize_model",
    "recompute_report",
]
