"""A budget for the whole model: how many planes each layer gets of it, decided once per plan.

The decision lies in the work directory as one file, so that steps taken in any process and any order give
each layer the same planes. It follows from the plan alone; a file that is damaged or of another plan is made
again.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tritium.errors import ValidationError
from tritium.formats.native import TRITS_PER_BYTE
from tritium.formats.storage import write_file_atomically
from tritium.formats.strict_json import LARGEST_JSON, parse_json_object
from tritium.formats.weight_file import read_small_file
from tritium.quantize.allocate import least_cost, least_size
from tritium.quantize.config import QuantizationStrategy
from tritium.quantize.layer import settings_of
from tritium.quantize.sensitivity import measure_layers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tritium.quantize.config import QuantizationConfig
    from tritium.quantize.plan import PlannedLayer, QuantizationPlan
    from tritium.quantize.source import Source

ALLOCATION = "allocation.json"
BITS = 8  # of a byte
DECIMALS = 10_000  # bits per weight are told with four


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What one layer gets of the budget.

    Attributes:
        planes: trit-planes.
        sensitivity: what the model loses if this layer alone is quantized, to the fewest planes it may have;
            None where there was no calibration text to measure it on.
        predicted_loss: what the model loses by this layer at `planes`; None likewise.
    """

    planes: int
    sensitivity: float | None
    predicted_loss: float | None


def check_budget(config: QuantizationConfig, layers: Sequence[PlannedLayer], *, is_ternary: bool) -> None:
    """Raise ValidationError for a budget that these layers cannot keep or that leaves nothing to decide.

    Args:
        config: what is asked for.
        layers: the linear layers of the source.
        is_ternary: they are ternary in the source, and stay as they are.
    """
    if not config.has_budget:
        return
    field = "average_bits" if config.target_loss is None else "target_loss"
    settings = [settings_of(config, layer.name) for layer in layers]
    if is_ternary:
        raise ValidationError(f"The source is ternary already: {field} has no planes to give.", field=field)
    if all(each.min_planes == each.max_planes for each in settings):
        raise ValidationError(
            f"All layers have a fixed number of planes: {field} has none to give. "
            "Leave it out or raise max_planes.",
            field=field,
        )
    if not config.is_calibrated:
        _check_without_text(config, layers)
    if config.average_bits is not None:
        _check_bits(config, layers)


def shares_of(
    plan: QuantizationPlan, workdir: Path, source: Source, *, threads: int | None = None
) -> tuple[Share, ...] | None:
    """Return what every layer gets of the plan's budget, from the work directory or measured now.

    Returns:
        None if the plan has no budget.

    Raises:
        ValidationError: the budget cannot be kept.
        QuantizationError: names the layer whose rounding cannot be measured.
        ResourceError: the disk is full.
    """
    if not plan.config.has_budget:
        return None
    path = workdir / ALLOCATION
    found = _read(plan, path)
    if found is None:
        found = _decide(plan, workdir, source, threads=threads)
        write_file_atomically(path, [_encoded(plan, found)])
    return found


def _decide(
    plan: QuantizationPlan, workdir: Path, source: Source, *, threads: int | None
) -> tuple[Share, ...]:
    config = plan.config
    layers = measure_layers(plan, source, workdir, threads=threads)
    if config.target_loss is not None:
        chosen = least_size(layers, cost=config.target_loss)
    else:
        chosen = least_cost(layers, size=_bytes(config.average_bits or 0.0, plan.layers))
    is_measured = config.is_calibrated
    return tuple(
        Share(
            planes=choice.planes,
            sensitivity=choices[0].cost if is_measured else None,
            predicted_loss=choice.cost if is_measured else None,
        )
        for choice, choices in zip(chosen, layers, strict=True)
    )


def _check_without_text(config: QuantizationConfig, layers: Sequence[PlannedLayer]) -> None:
    if config.target_loss is not None:
        raise ValidationError(
            "target_loss needs a calibration text: what a layer loses is measured on it.",
            field="calibration_text",
        )
    for layer in layers:
        if settings_of(config, layer.name).strategy is QuantizationStrategy.ADAPTIVE:
            raise ValidationError(
                f"The strategy adaptive, asked for {layer.name}, chooses finer groups on its own without a "
                "calibration text, which average_bits cannot count beforehand.",
                field="calibration_text",
            )


def _check_bits(config: QuantizationConfig, layers: Sequence[PlannedLayer]) -> None:
    asked = config.average_bits or 0.0
    fewest, most = (
        sum(_nominal_bytes(layer, config, is_largest=is_largest) for layer in layers)
        for is_largest in (False, True)
    )
    parameters = _parameters(layers)
    low = math.ceil(DECIMALS * BITS * fewest / parameters) / DECIMALS
    high = math.floor(DECIMALS * BITS * most / parameters) / DECIMALS
    if _bytes(asked, layers) < fewest:
        raise ValidationError(
            f"average_bits must be {low} at least: so much min_planes of every layer take, with scales.",
            field="average_bits",
        )
    if asked > BITS * most / parameters:
        raise ValidationError(
            f"average_bits must be {high} at most: so much max_planes of every layer take, with scales.",
            field="average_bits",
        )


def _nominal_bytes(layer: PlannedLayer, config: QuantizationConfig, *, is_largest: bool) -> int:
    """Return what trits and scales of a layer take at its fewest or most planes, from its shape."""
    settings = settings_of(config, layer.name)
    weights = layer.out_features * layer.in_features
    groups = -(-layer.in_features // (settings.group_size or layer.in_features))
    scales = layer.out_features * (groups if groups > 1 else 2)  # a byte per group, or two per row
    planes = settings.max_planes if is_largest else settings.min_planes
    return planes * -(-weights // TRITS_PER_BYTE) + scales


def _bytes(bits: float, layers: Sequence[PlannedLayer]) -> int:
    return math.floor(bits * _parameters(layers) / BITS)


def _parameters(layers: Sequence[PlannedLayer]) -> int:
    return sum(layer.out_features * layer.in_features for layer in layers)


def _encoded(plan: QuantizationPlan, shares: Sequence[Share]) -> bytes:
    content = {"plan": plan.digest, "shares": [asdict(share) for share in shares]}
    return json.dumps({**content, "sha256": _sha256(content)}, sort_keys=True).encode() + b"\n"


def _read(plan: QuantizationPlan, path: Path) -> tuple[Share, ...] | None:
    """Return what the file holds; None if it is not there, damaged, or of another plan."""
    try:
        content = parse_json_object(read_small_file(path, limit=LARGEST_JSON), file=path.name)
        if content.pop("sha256") != _sha256(content) or content["plan"] != plan.digest:
            return None
        return tuple(Share(**share) for share in content["shares"])
    except (ValidationError, OSError, KeyError, TypeError):
        return None


def _sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
