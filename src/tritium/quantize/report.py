"""What a quantization reports: every figure comes from the run that it describes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ModelKind(StrEnum):
    """What a model is run for, and so how it is judged."""

    GENERATOR = "generator"
    ENCODER = "encoder"


class Stage(StrEnum):
    """Where a quantization is."""

    PLAN = "plan"
    CALIBRATE = "calibrate"
    LAYER = "layer"
    LEARN = "learn"
    VALIDATE = "validate"
    ASSEMBLE = "assemble"


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationProgress:
    """One step of a quantization, told when it is done.

    Attributes:
        stage: what was done.
        completed: finished steps of this stage.
        total: steps of this stage.
        layer: name of the layer just finished (stage `layer`).
        planes: trit-planes that layer got.
        loss: the error that layer was judged by.
    """

    stage: Stage
    completed: int
    total: int
    layer: str | None = None
    planes: int | None = None
    loss: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A measured value with its 95 % confidence interval, where one could be computed cheaply."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerReport:
    """What became of one linear layer; errors are relative root-mean-square errors.

    Attributes:
        name: the layer's name in the checkpoint.
        kind: `attention`, `feed_forward` or `other`.
        strategy: the strategy that was applied; `detected` where dense weights were ternary already.
        planes: trit-planes used.
        group_size: weights that share one scale (the row length where a row or the tensor has one).
        parameters: number of weights.
        stored_bytes: trits and scales on disk.
        bits_per_weight: real bits per weight, scales included.
        weight_error: |W - W'| / |W| in the Frobenius norm.
        output_error: |Y - Y'| / |Y| on the calibration activations, through the ternary kernel with int8
            activations; None without calibration text.
        is_lossless: the stored weights equal the source's exactly.
        source_scales: what had one scale where the source was ternary already: `tensor`, `row` or `group`;
            None where it was not.
        kurtosis: fourth standardised moment of the weights (3 for a Gaussian); None for packed sources.
        row_scale_dispersion: coefficient of variation of the rows' root mean squares; None likewise.
        sensitivity: what the model loses if this layer alone is rounded, to the fewest planes it may have
            and without data: nats per token (generators) or 1 - cosine (encoders) on the calibration text.
            None where no budget was given, or no text.
        predicted_loss: the same at the planes used; None likewise.
    """

    name: str
    kind: str
    strategy: str
    planes: int
    group_size: int
    parameters: int
    stored_bytes: int
    bits_per_weight: float
    weight_error: float
    output_error: float | None
    is_lossless: bool
    source_scales: str | None = None
    kurtosis: float | None = None
    row_scale_dispersion: float | None = None
    sensitivity: float | None = None
    predicted_loss: float | None = None

    @property
    def loss(self) -> float:
        """The error the layer is judged by: of the output where it was measured, else of the weights."""
        return self.weight_error if self.output_error is None else self.output_error

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationMetrics:
    """Sizes and time of one quantization, counted from the files and the clock.

    Attributes:
        parameters: weights of the whole model.
        quantized_parameters: weights that became trits.
        layers: linear layers that became trits.
        planes: number of layers by number of trit-planes.
        strategies: number of layers by strategy.
        bits_per_weight: real bits per quantized weight, scales included.
        trit_bits_per_weight: the same without scales.
        model_bits_per_parameter: bits per parameter of the whole model, unquantized tensors included.
        quantized_bytes: tensor bytes of the quantized model.
        source_bytes: tensor bytes of the source.
        float32_bytes: what the model would take in fp32.
        float16_bytes: what the model would take in fp16.
        reduction_to_float32: 1 - quantized_bytes / float32_bytes.
        reduction_to_float16: 1 - quantized_bytes / float16_bytes.
        four_bit_bytes: what the model would take in the 4-bit alternative: linear layers in Q4_0, embedding
            and head in Q6_K.
        reduction_to_four_bit: 1 - quantized_bytes / four_bit_bytes.
        mean_weight_error: mean of the layers' weight errors, weighted by their parameters.
        coded: by name of an embedding or head that became a coded matrix or a ternary one: bits or planes,
            parameters, stored_bytes, bits_per_weight with scales, and weight_error, the relative
            root-mean-square error.
        predicted_loss: what the model was predicted to lose when planes were given out: the sum over its
            layers, in the unit of ValidationReport.loss; None where no budget was given, or no text.
        seconds: wall time of the layers' quantization, None where it was resumed or not measured.
        parameters_per_second: quantized_parameters / seconds.
    """

    parameters: int
    quantized_parameters: int
    layers: int
    planes: Mapping[str, int]
    strategies: Mapping[str, int]
    bits_per_weight: float
    trit_bits_per_weight: float
    model_bits_per_parameter: float
    quantized_bytes: int
    source_bytes: int
    float32_bytes: int
    float16_bytes: int
    reduction_to_float32: float
    reduction_to_float16: float
    four_bit_bytes: int
    reduction_to_four_bit: float
    mean_weight_error: float
    coded: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    predicted_loss: float | None = None
    seconds: float | None = None
    parameters_per_second: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How one model compares with the source on the same text; what does not apply to its kind is None.

    Attributes:
        perplexity: of the model.
        perplexity_ratio: of the model over the source, paired by window.
        top1_accuracy: share of tokens that were the model's most likely one.
        top1_agreement: share of positions where both models' most likely token is the same.
        cosine_similarity: mean cosine of the two models' embeddings of a text.
        rank_correlation: Spearman correlation of all pair similarities.
    """

    perplexity: Estimate | None = None
    perplexity_ratio: Estimate | None = None
    top1_accuracy: Estimate | None = None
    top1_agreement: Estimate | None = None
    cosine_similarity: Estimate | None = None
    rank_correlation: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One reason to call a model broken: what was measured, and what it would have to be.

    Attributes:
        name: of the check.
        message: what was found, for a human.
        value: what was measured.
        limit: what a sound model does not reach.
    """

    name: str
    message: str
    value: float
    limit: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationReport:
    """How the quantized model compares with its source on the same held-out text.

    A figure that was not measured is None, and `reason` says why. Intervals are 95 % confidence intervals
    over evaluation windows (generators) or texts (encoders). Speeds are those of this run, on one machine.

    Attributes:
        kind: generator or encoder.
        reason: why there are no figures; None where there are.
        text_sha256: of the text both models were run on.
        tokens: tokens that were predicted (generators) or encoded (encoders).
        samples: windows (generators) or texts (encoders).
        source_perplexity: of the source model.
        quantized_perplexity: of the quantized model.
        perplexity_ratio: quantized over source, paired by window.
        source_top1_accuracy: share of tokens that were the source model's most likely one.
        quantized_top1_accuracy: the same of the quantized model.
        top1_agreement: share of positions where both models' most likely token is the same.
        cosine_similarity: mean cosine of the two models' embeddings of a text.
        rank_correlation: Spearman correlation of all pair similarities.
        loss: what the quantized model lost: nats per token, the log of perplexity_ratio (generators), or
            1 - cosine_similarity (encoders).
        four_bit: the same of the source rounded to four bits; None where the source has no dense weights.
        source_seconds: wall time of the source model's forward passes over the text.
        quantized_seconds: wall time of the quantized model's.
        speed_ratio: source_seconds / quantized_seconds.
        source_prefill_speed: tokens of the text per second, source model.
        quantized_prefill_speed: the same of the quantized model.
        source_decode_speed: tokens per second generated one by one for the samples; None for encoders.
        quantized_decode_speed: the same of the quantized model.
        is_broken: whether a check failed that every sound model passes (`findings` is not empty).
        findings: those checks, with their evidence.
        unigram_perplexity: on the same tokens, of a reader that knows only how often each came before
            (generators).
        other_readings: by another reading of the config ("hidden_act=silu"), how many times as perplexed the
            source is with it, on a few of the windows (generators); None where none was run.
        cosine_to_others: mean cosine of the quantized model's embedding of a text and the source's of the
            other texts (encoders).
    """

    kind: ModelKind
    reason: str | None = None
    text_sha256: str | None = None
    tokens: int | None = None
    samples: int | None = None
    source_perplexity: Estimate | None = None
    quantized_perplexity: Estimate | None = None
    perplexity_ratio: Estimate | None = None
    source_top1_accuracy: Estimate | None = None
    quantized_top1_accuracy: Estimate | None = None
    top1_agreement: Estimate | None = None
    cosine_similarity: Estimate | None = None
    rank_correlation: float | None = None
    loss: Estimate | None = None
    four_bit: Comparison | None = None
    source_seconds: float | None = None
    quantized_seconds: float | None = None
    speed_ratio: float | None = None
    source_prefill_speed: float | None = None
    quantized_prefill_speed: float | None = None
    source_decode_speed: float | None = None
    quantized_decode_speed: float | None = None
    is_broken: bool | None = None
    findings: Sequence[Finding] | None = None
    unigram_perplexity: Estimate | None = None
    other_readings: Mapping[str, Estimate] | None = None
    cosine_to_others: Estimate | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)
