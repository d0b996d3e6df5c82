"""The plan of a quantization: what will be done, as plain values that survive a restart."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from tritium.errors import ValidationError
from tritium.quantize.config import QuantizationConfig
from tritium.quantize.report import ModelKind

if TYPE_CHECKING:
    from collections.abc import Mapping

PLAN_VERSION = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedLayer:
    """One linear layer to quantize.

    Attributes:
        name: the layer's name in the checkpoint, without `.weight`.
        kind: `attention`, `feed_forward` or `other`.
        out_features: rows of the weight matrix.
        in_features: columns of the weight matrix.
    """

    name: str
    kind: str
    out_features: int
    in_features: int


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationPlan:
    """What a quantization will do, layer by layer; `to_dict` and `from_dict` carry it through a database.

    Attributes:
        source: path of the checkpoint.
        source_sha256: digest over the checkpoint's files.
        kind: generator or encoder.
        config: what was asked for.
        calibration_sha256: of the calibration text; None without one.
        layers: the linear layers in the order of the model.
    """

    source: str
    source_sha256: str
    kind: ModelKind
    config: QuantizationConfig
    calibration_sha256: str | None
    layers: tuple[PlannedLayer, ...]

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layers' names, in order."""
        return tuple(layer.name for layer in self.layers)

    @property
    def digest(self) -> str:
        """SHA-256 over everything that decides the bytes of a layer; where the source lies does not."""
        config = self.config.to_dict()
        for name in ("calibration_text", "validation_text", "validation_tokens"):
            del config[name]
        facts = [PLAN_VERSION, self.source_sha256, self.calibration_sha256, config, self.layer_names]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values from which `from_dict` makes an equal plan."""
        return {
            "version": PLAN_VERSION,
            "source": self.source,
            "source_sha256": self.source_sha256,
            "kind": self.kind.value,
            "config": self.config.to_dict(),
            "calibration_sha256": self.calibration_sha256,
            "layers": [asdict(layer) for layer in self.layers],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote; raises ValidationError for another version or a damaged plan."""
        if values.get("version") != PLAN_VERSION:
            raise ValidationError(
                f"This plan has version {values.get('version')!r}; {PLAN_VERSION} is understood."
            )
        try:
            return cls(
                source=values["source"],
                source_sha256=values["source_sha256"],
                kind=ModelKind(values["kind"]),
                config=QuantizationConfig.from_dict(values["config"]),
                calibration_sha256=values["calibration_sha256"],
                layers=tuple(PlannedLayer(**layer) for layer in values["layers"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValidationError(f"The quantization plan is damaged: {error!r}. Plan it again.") from error
