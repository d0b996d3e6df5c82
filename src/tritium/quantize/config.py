"""What a quantization is asked to do: validated values, readable from and writable to JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from tritium.errors import ValidationError

GROUP_SIZE_STEP = 32
GROUP_SIZE_LIMIT = 65_536
PLANE_LIMIT = 3
WINDOW_LIMIT = 131_072
TOKEN_LIMIT = 1 << 30
STEP_LIMIT = 1 << 20
ACCEPTABLE_LOSS = 0.5
CODE_BITS = (6, 8)
EMBEDDING_BITS = (*CODE_BITS, 16)  # 16: as in the source


class QuantizationStrategy(StrEnum):
    """How the weights of one linear layer become trits."""

    AUTO = "auto"
    STANDARD = "standard"
    ABSMEAN = "absmean"
    ADAPTIVE = "adaptive"
    COMPENSATED = "compensated"


class Profile(StrEnum):
    """How much work a quantization is worth."""

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"
    NATIVE = "native"


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerOverride:
    """What differs for the layers one pattern names; None leaves the general value.

    Attributes:
        strategy: as in QuantizationConfig.
        group_size: weights that share one scale.
        planes: exactly so many trit-planes, without escalation.
    """

    strategy: QuantizationStrategy | None = None
    group_size: int | None = None
    planes: int | None = None

    def __post_init__(self) -> None:
        """Raise ValidationError for values out of range."""
        if self.strategy is not None:
            object.__setattr__(self, "strategy", _strategy(self.strategy))
        if self.group_size is not None:
            _check_group_size(self.group_size)
        if self.planes is not None:
            _check_integer("planes", self.planes, low=1, high=PLANE_LIMIT)
        if self.strategy is QuantizationStrategy.ABSMEAN and (self.group_size or (self.planes or 1) > 1):
            raise ValidationError(
                "The strategy absmean makes one trit-plane with one scale for the whole layer: it takes "
                "neither planes nor a group_size.",
                field="strategy",
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read an override from plain values; raises ValidationError for an unknown key."""
        _check_keys(cls, values, where="a layer override")
        return cls(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationConfig:
    """What a quantization is asked to do.

    Attributes:
        profile: `fast` reads the weights alone; `balanced` compensates errors on a calibration text, which a
            generator writes itself where none is given; `best` lets the layers learn on it afterwards, which
            needs the extra `train`; `native` keeps a ternary model exactly and refuses
            any other; None is balanced with a calibration text and fast without.
        strategy: `auto` chooses per layer: `compensated` where calibration text is given and shows that it
            lowers the output error, else by the distribution of the weights; the others are forced.
        group_size: weights of one row that share a scale (a multiple of 32); 0 means the whole row.
        min_planes: trit-planes every layer starts with, 1 to 3.
        max_planes: trit-planes a layer may be escalated to, 1 to 3.
        max_acceptable_loss: relative root-mean-square error above which a layer gets another plane: of the
            layer's output on the calibration text, or of the weights where there is no calibration text. It
            plays no part where the planes are given by `average_bits` or `target_loss`.
        average_bits: real bits per weight, scales included, that all linear layers together may take; planes
            go to the layers where they lower the model's loss most. None: each layer answers for itself.
        target_loss: what the whole model may lose, predicted on the calibration text: nats per token (log of
            the perplexity ratio) for generators, 1 - cosine for encoders; the smallest model within it is
            made. None likewise.
        embedding_bits: bits of a weight of the embedding and the head: 6 or 8 (and a scale per 32 weights),
            or 16 to leave them as in the source. None: as in the source where all its layers were ternary
            and are kept exactly, else 6.
        embedding_planes: makes embedding and head ternary instead, with 1 to 3 trit-planes in groups of
            `group_size`: 1.6 bits a plane. Only a model that was trained so keeps its quality with one.
        layers: overrides by layer name or shell pattern (`model.layers.0.*`); every pattern must match.
        calibration_text: text (str) or a file of text (Path) like what the model will be used for: its
            activations make and judge each layer.
        validation_text: held-out text (str) or a file of text (Path) both models are run on afterwards.
        calibration_tokens: at most so many tokens of the calibration text are run through the model.
        training_tokens: of the text that the layers learn on (profile best), so many at most.
        training_steps: steps of learning, each on about 2,000 tokens.
        validation_tokens: at most so many tokens of the validation text are run through both models.
        window: tokens of context in one evaluation window.
    """

    profile: Profile | None = None
    strategy: QuantizationStrategy = QuantizationStrategy.AUTO
    group_size: int = 128
    min_planes: int = 1
    max_planes: int = PLANE_LIMIT
    max_acceptable_loss: float = ACCEPTABLE_LOSS
    average_bits: float | None = None
    target_loss: float | None = None
    embedding_bits: int | None = None
    embedding_planes: int | None = None
    layers: Mapping[str, LayerOverride] = field(default_factory=dict)
    calibration_text: str | Path | None = None
    validation_text: str | Path | None = None
    calibration_tokens: int = 4096
    training_tokens: int = 131_072
    training_steps: int = 400
    validation_tokens: int = 16_384
    window: int = 256

    def __post_init__(self) -> None:
        """Raise ValidationError for values out of range or of the wrong type."""
        object.__setattr__(self, "strategy", _strategy(self.strategy))
        if self.profile is not None:
            object.__setattr__(self, "profile", _profile(self.profile))
        if self.group_size != 0:
            _check_group_size(self.group_size)
        _check_integer("max_planes", self.max_planes, low=1, high=PLANE_LIMIT)
        _check_integer("min_planes", self.min_planes, low=1, high=self.max_planes)
        loss = self.max_acceptable_loss
        if isinstance(loss, bool) or not isinstance(loss, int | float) or not 0 <= loss <= 1:
            raise ValidationError(
                f"max_acceptable_loss must be a number from 0 to 1, not {loss!r}.",
                field="max_acceptable_loss",
            )
        _check_budget(self)
        bits = self.embedding_bits
        if bits is not None and (type(bits) is not int or bits not in EMBEDDING_BITS):
            raise ValidationError(
                f"embedding_bits must be 6, 8 or 16 (as in the source), not {self.embedding_bits!r}.",
                field="embedding_bits",
            )
        if self.embedding_planes is not None:
            _check_integer("embedding_planes", self.embedding_planes, low=1, high=PLANE_LIMIT)
            if self.embedding_bits in CODE_BITS:
                raise ValidationError(
                    "embedding_bits and embedding_planes both say what becomes of the embedding; give one.",
                    field="embedding_planes",
                )
        _check_integer("window", self.window, low=2, high=WINDOW_LIMIT)
        _check_integer("calibration_tokens", self.calibration_tokens, low=1, high=TOKEN_LIMIT)
        _check_integer("training_tokens", self.training_tokens, low=2, high=TOKEN_LIMIT)
        _check_integer("training_steps", self.training_steps, low=1, high=STEP_LIMIT)
        _check_integer("validation_tokens", self.validation_tokens, low=2, high=TOKEN_LIMIT)
        _check_text("calibration_text", self.calibration_text)
        _check_text("validation_text", self.validation_text)
        _check_overrides(self.layers)
        if self.strategy is QuantizationStrategy.ABSMEAN and self.min_planes > 1:
            raise ValidationError(
                "The strategy absmean makes one trit-plane: min_planes cannot be more.", field="min_planes"
            )
        if self.profile in {Profile.FAST, Profile.NATIVE} and self.calibration_text is not None:
            raise ValidationError(
                f"The profile {self.profile} reads no calibration text: leave the text out or choose "
                "balanced.",
                field="profile",
            )

    @property
    def writes_its_text(self) -> bool:
        """Whether the model itself writes the text that calibrates it."""
        return self.profile in {Profile.BALANCED, Profile.BEST} and self.calibration_text is None

    @property
    def is_calibrated(self) -> bool:
        """Whether activations on a text make and judge the layers."""
        return self.calibration_text is not None or self.writes_its_text

    @property
    def has_budget(self) -> bool:
        """Whether planes are given out over the whole model, instead of layer by layer."""
        return self.average_bits is not None or self.target_loss is not None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values from which `from_dict` makes an equal configuration."""
        values: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "layers":
                value = {name: _plain_override(override) for name, override in value.items()}
            elif isinstance(value, Path):
                value = {"path": str(value)}
            elif isinstance(value, StrEnum):
                value = value.value
            values[item.name] = value
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a configuration from plain values; ValidationError for an unknown key or a bad value."""
        _check_keys(cls, values, where="the quantization configuration")
        known = dict(values)
        layers = known.get("layers", {})
        if not isinstance(layers, Mapping):
            raise ValidationError("layers must be an object of overrides by layer name.", field="layers")
        known["layers"] = {
            name: override if isinstance(override, LayerOverride) else LayerOverride.from_dict(override)
            for name, override in layers.items()
        }
        for name in ("calibration_text", "validation_text"):
            if isinstance(known.get(name), Mapping):
                known[name] = _path_of(name, known[name])
        return cls(**known)


def _strategy(value: Any) -> QuantizationStrategy:
    try:
        return QuantizationStrategy(value)
    except ValueError:
        choices = ", ".join(QuantizationStrategy)
        raise ValidationError(
            f"strategy must be one of {choices}, not {value!r}.", field="strategy"
        ) from None


def _profile(value: Any) -> Profile:
    try:
        return Profile(value)
    except ValueError:
        choices = ", ".join(Profile)
        raise ValidationError(f"profile must be one of {choices}, not {value!r}.", field="profile") from None


def _check_integer(name: str, value: Any, *, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValidationError(
            f"{name} must be a whole number from {low} to {high}, not {value!r}.", field=name
        )


def _check_group_size(value: Any) -> None:
    _check_integer("group_size", value, low=GROUP_SIZE_STEP, high=GROUP_SIZE_LIMIT)
    if value % GROUP_SIZE_STEP:
        raise ValidationError(
            f"group_size must be a multiple of {GROUP_SIZE_STEP} (or 0 for a whole row), not {value}.",
            field="group_size",
        )


def _check_budget(config: QuantizationConfig) -> None:
    for name in ("average_bits", "target_loss"):
        value = getattr(config, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and math.isfinite(value) and value > 0):
            raise ValidationError(f"{name} must be a number above 0, not {value!r}.", field=name)
    if config.average_bits is not None and config.target_loss is not None:
        raise ValidationError(
            "average_bits and target_loss both say how many planes there are; give one of them.",
            field="target_loss",
        )
    if config.has_budget and config.max_acceptable_loss != ACCEPTABLE_LOSS:
        raise ValidationError(
            "max_acceptable_loss lets each layer take planes on its own; leave it out beside average_bits "
            "or target_loss.",
            field="max_acceptable_loss",
        )


def _check_text(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, str | Path):
        raise ValidationError(f"{name} must be text or a path to a text file.", field=name)
    if isinstance(value, str) and not value.strip():
        raise ValidationError(f"{name} is empty; leave it out to work without it.", field=name)


def _check_overrides(layers: Any) -> None:
    if not isinstance(layers, Mapping) or not all(
        isinstance(name, str) and isinstance(override, LayerOverride) for name, override in layers.items()
    ):
        raise ValidationError(
            "layers must map layer names or patterns to LayerOverride values.", field="layers"
        )


def _check_keys(cls: type[QuantizationConfig | LayerOverride], values: Any, *, where: str) -> None:
    if not isinstance(values, Mapping):
        raise ValidationError(f"{where} must be an object, not {type(values).__name__}.")
    unknown = sorted(set(map(str, values)) - {item.name for item in fields(cls)})
    if unknown:
        raise ValidationError(f"{where} has an unknown field {unknown[0]!r}.", field=unknown[0])


def _path_of(name: str, value: Mapping[str, Any]) -> Path:
    if set(value) != {"path"} or not isinstance(value["path"], str):
        raise ValidationError(f'{name} must be text or {{"path": "..."}}.', field=name)
    return Path(value["path"])


def _plain_override(override: LayerOverride) -> dict[str, Any]:
    values = {item.name: getattr(override, item.name) for item in fields(override)}
    return {
        name: str(value) if name == "strategy" else value
        for name, value in values.items()
        if value is not None
    }
