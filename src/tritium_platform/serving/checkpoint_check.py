"""What is found out about a checkpoint before a quantization of it is accepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.formats.native import is_native
from tritium.model.tokenizer import Tokenizer
from tritium.quantize.layer import check_overrides
from tritium.quantize.source import open_source
from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from pathlib import Path

    from tritium.quantize.config import QuantizationConfig

# Files that a result carries unchanged.
COMPANIONS = ("*.json", "*.jinja", "*.txt", "*/*.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedSource:
    """What a sound source holds: bytes of weights and of what lies beside them, parameters to quantize."""

    weight_bytes: int
    companion_bytes: int
    parameters: int


def check_source(directory: Path, config: QuantizationConfig) -> CheckedSource:
    """Check all that can be known without reading the weights; call it in a thread.

    Raises:
        ValidationError: names what is wrong: a broken checkpoint, an unknown architecture, another
            model's tokenizer, a setting that fits no layer, a text where there is no tokenizer.
    """
    if is_native(directory):
        raise ValidationError(
            "This is a Tritium model already; quantize the checkpoint it was made from.", field="source"
        )
    with open_source(directory) as source:
        layers = source.layers()
        check_overrides(config, [layer.name for layer in layers])
        if source.has_tokenizer:
            Tokenizer(directory).validate_against(source.config)
        elif config.calibration_text is not None or config.validation_text is not None:
            raise ValidationError(
                "The checkpoint has no tokenizer.json, so no text can be run through it: "
                "add the file or leave the text out.",
                file="tokenizer.json",
            )
        return CheckedSource(
            weight_bytes=source.checkpoint.total_bytes,
            companion_bytes=_companion_bytes(directory),
            parameters=sum(layer.out_features * layer.in_features for layer in layers),
        )


def _companion_bytes(directory: Path) -> int:
    return sum(
        path.stat().st_size for pattern in COMPANIONS for path in directory.glob(pattern) if path.is_file()
    )
